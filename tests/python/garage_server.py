"""Garage with one node and one bucket, from the program that its only argument names.

Prints {"endpoint": …, "bucket": …, "access": …, "secret": …} once it serves; it ends with its input.
"""

import json
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUCKET = "replicas"
PATIENCE = 30


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(program, scratch):
    rpc, s3 = free_port(), free_port()
    config = scratch / "garage.toml"
    config.write_text(f"""
metadata_dir = "{scratch}/meta"
data_dir = "{scratch}/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:{rpc}"
rpc_public_addr = "127.0.0.1:{rpc}"
rpc_secret = "{secrets.token_hex(32)}"

[s3_api]
s3_region = "us-east-1"
api_bind_addr = "127.0.0.1:{s3}"
""")

    def ask(*words):
        asked = subprocess.run([program, "-c", config, *words], capture_output=True, text=True)
        if asked.returncode:
            raise RuntimeError(f"garage {' '.join(words)}: {asked.stderr.strip()}")
        return asked.stdout

    with open(scratch / "log", "w") as log:
        server = subprocess.Popen([program, "-c", config, "server"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                node = ask("node", "id", "-q").split("@")[0].strip()
                ask("status")
                break
            except RuntimeError as error:
                if server.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{program} does not serve: {error}\n{(scratch / 'log').read_text()}")
                time.sleep(0.05)
        access, secret = "GK" + secrets.token_hex(12), secrets.token_hex(32)
        ask("layout", "assign", "-z", "here", "-c", "1G", node)
        ask("layout", "apply", "--version", "1")
        ask("key", "import", "--yes", "-n", "tests", access, secret)
        ask("bucket", "create", BUCKET)
        ask("bucket", "allow", "--read", "--write", "--owner", BUCKET, "--key", access)
        ready = {"endpoint": f"http://127.0.0.1:{s3}", "bucket": BUCKET, "access": access, "secret": secret}
        print(json.dumps(ready), flush=True)
        sys.stdin.read()
    finally:
        server.terminate()
        server.wait()


with tempfile.TemporaryDirectory() as folder:
    serve(sys.argv[1], Path(folder))
