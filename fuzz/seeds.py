#!/usr/bin/env python3
"""Makes the corpora anew: fuzz/seeds.py, as root and after `cargo build`.

Logs, indexes and journals are SQLite's own, LTX files those of a running instance, texts those of the documents.
"""

import json
import pathlib
import re
import shutil
import sqlite3
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"
BINARY = ROOT / "target" / "debug" / "litestream-multitenant"
GUID = "12345678-1234-5678-9abc-123456789012"
REPLICA = f"databases/{GUID}"


def put(target, name, content):
    if isinstance(content, str):
        content = content.encode()
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def opened(path, page_size, mode):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {page_size}")
    connection.execute(f"PRAGMA journal_mode = {mode}")
    connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
    return connection


def sqlite_files(scratch):
    for page_size in (512, 4096):
        path = scratch / f"wal-{page_size}.db"
        connection = opened(path, page_size, "wal")
        connection.execute("INSERT INTO t (b) VALUES ('one')")
        connection.execute("BEGIN")
        connection.execute("INSERT INTO t (b) VALUES (zeroblob(1500))")
        connection.execute("COMMIT")
        log = pathlib.Path(f"{path}-wal").read_bytes()
        put("wal", f"{page_size}", log)
        if page_size == 512:
            put("wal", "torn", log[:-100])
        put("wal_index", f"{page_size}", pathlib.Path(f"{path}-shm").read_bytes()[:96])
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        put("sqlite", f"wal-{page_size}", path.read_bytes()[:512])
        connection.close()
    path = scratch / "journal.db"
    connection = opened(path, 512, "persist")
    connection.execute("PRAGMA cache_spill = 1")
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t (b) VALUES (zeroblob(20000))")
    put("sqlite", "journal-hot", pathlib.Path(f"{path}-journal").read_bytes()[:512])
    connection.execute("COMMIT")
    put("sqlite", "journal-committed", pathlib.Path(f"{path}-journal").read_bytes()[:512])
    put("sqlite", "rollback-512", path.read_bytes()[:512])
    connection.close()


def whole_databases(scratch):
    """Small images with every kind of page."""
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) "
    for name, auto_vacuum, statements in (
        ("tables", 0, (
            "CREATE TABLE t(x)",
            "CREATE INDEX i ON t(x)",
            "CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID",
            numbers + "INSERT INTO t SELECT hex(zeroblob(i)) FROM n",
            numbers + "INSERT INTO w SELECT i, i * i FROM n",
            "INSERT INTO t VALUES (zeroblob(2000))",
        )),
        ("freelist", 0, (
            "CREATE TABLE t(x)",
            numbers + "INSERT INTO t SELECT hex(zeroblob(150)) FROM n",
            "CREATE TABLE u(x)",
            "DROP TABLE t",
        )),
        ("pointer-map", 2, (
            "CREATE TABLE t(x UNIQUE)",
            numbers + "INSERT INTO t SELECT i || hex(zeroblob(40)) FROM n",
            "INSERT INTO t VALUES (zeroblob(1500))",
            "DELETE FROM t WHERE rowid < 20",
        )),
    ):
        path = scratch / f"{name}.db"
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA page_size = 512")
        connection.execute(f"PRAGMA auto_vacuum = {auto_vacuum}")
        for statement in statements:
            connection.execute(statement)
        connection.close()
        put("structure", name, path.read_bytes())


def replica(scratch):
    """What an instance stores of a database that grows, changes and shrinks."""
    data, store = scratch / "data", scratch / "store"
    data.mkdir()
    words = [BINARY, "-bucket", f"file://{store}", "-watch-path", data, "-listen", "none"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as instance:
        try:
            for line in instance.stderr:
                if '"Ready"' in line:
                    break
            connection = opened(data / f"{GUID}.db", 512, "wal")
            for statement in (
                "INSERT INTO t (b) VALUES (zeroblob(2000))",
                "UPDATE t SET b = 'changed'",
                "VACUUM",
            ):
                connection.execute(statement)
                for line in instance.stderr:
                    if '"Synced"' in line or '"Snapshot stored"' in line:
                        break
            connection.close()
        finally:
            instance.terminate()
            instance.communicate(timeout=60)
    files = sorted(path for path in store.rglob("*") if path.is_file())
    for number, path in enumerate(files):
        if path.suffix in (".wal", ".snapshot"):
            put("ltx", f"{number}{path.suffix}", path.read_bytes())
            key = path.relative_to(store).as_posix()
            put("keys", f"{number}", key.removeprefix(f"{REPLICA}/"))
        elif path.name == "database.json":
            put("description", "database.json", path.read_bytes())
    # Litestream 0.5.17's own: a page without database checksums.
    put("ltx", "litestream", bytes.fromhex(
        "4c54583100000002000002000000000400000000000000020000000000000002000001a20a010d0c"
        "00000000000000000000000000000cb000000000000002184fb37622e8c34198"
        "0000000000000000" "0000000000000000000000000000000000000000"
        "00000002000100000021"
        "cf0d0000000101f70001f700000200ffd2000200c00000000701021768656c6c6f"
        "000000000000" "02642b" "00" "0000000000000004" "0000000000000000" "d9054134c12e6ea6"
    ))


def texts():
    put("keys", "compacted", "wal/generation-000001a20a010d0c/00000001-00000020.wal")
    put("keys", "generation", "generation-000001a20a010d0c")
    for name, store in {"bucket": "replicas", "s3": "s3://replicas/a/b", "file": "file:///var/lib/x"}.items():
        put("keys", f"store-{name}", store)
    for name, key in {
        "watch-path": "watch-paths/eu%2Fnorth",
        "placed": "databases/eu/acme%2Forders/tenants%2Facme%2Forders",
        "elsewhere": "elsewhere/%/acme/databases%2Facme",
        "removed": "removed/databases%2Facme/1736937045000",
        "held": "holds/s3:%2F%2Fbucket%2Facme",
    }.items():
        put("registry", name, key)
    put("description", "escaped.json", json.dumps({
        "tenantId": GUID, "dbName": GUID, "path": f"a\n\ufffd/{GUID}.db", "escapedPath": f"a%0A%FF/{GUID}.db",
        "file": {"uid": 1000, "gid": 1000, "mode": "0640"},
        "directories": [{"uid": 0, "gid": 0, "mode": "0755"}],
    }))
    for path in sorted((ROOT / "config").glob("*.yml")):
        if path.name != "alerts.yml":
            put("configuration", path.name, path.read_bytes())
    blocks = re.findall(r"```ya?ml\n(.*?)```", (ROOT / "docs" / "configuration.md").read_text(), re.S)
    for number, block in enumerate(blocks):
        put("configuration", f"documented-{number}.yml", block)
    put("configuration", "environment.yml", "bucket: ${SET}\ns3:\n  accessKey: ${UNSET}\n")
    for name, request in {
        "list": "GET\n/api/databases\nstatus=active&tenant=acme",
        "register": 'POST\n/api/databases\n\n{"tenantId":"acme","dbPath":"/data/acme/orders.db","dbName":"orders"}',
        "register-client": f'POST\n/api/databases\n\n{{"clientId":"{GUID}","dbPath":"/data/{GUID}.db","s3Prefix":"a/b"}}',
        "pause": 'PUT\n/api/databases/acme/orders/status\nprefix=eu\n{"status":"paused"}',
        "sync": "POST\n/api/databases/acme/orders/sync\ntimeout=1m30s",
        "download": "GET\n/api/databases/acme/a%20b/download\ntimestamp=2025-01-15T10:30:45Z",
        "txid": "GET\n/api/databases/acme/orders/download\ntxid=42",
    }.items():
        put("api", name, request)


def main():
    shutil.rmtree(CORPUS, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        sqlite_files(scratch)
        whole_databases(scratch)
        replica(scratch)
    texts()


if __name__ == "__main__":
    main()
