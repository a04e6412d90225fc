"""A headless chromium, spoken to over the DevTools protocol."""

import base64
import json
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.request

import websocket

DEADLINE = 30
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
]


class Browser:
    def __enter__(self):
        self.home = tempfile.mkdtemp()
        program = shutil.which("chromium")
        assert program, "chromium is missing: tests/run installs it"
        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={self.home}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port_file = pathlib.Path(self.home, "DevToolsActivePort")
            until(lambda: port_file.exists() and port_file.read_text().strip(), "chromium starts")
            self.address = f"http://127.0.0.1:{port_file.read_text().split()[0]}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def open(self, url):
        request = urllib.request.Request(f"{self.address}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            target = json.load(answer)
        page = Page(target["webSocketDebuggerUrl"])
        page.go(url)
        return page


class Page:
    def __init__(self, address):
        self.socket = websocket.create_connection(address, timeout=DEADLINE)
        self.last = 0
        self.complaints = []
        self.hosts = set()
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"]:
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.last:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.note(message)

    def note(self, message):
        method, parameters = message.get("method"), message.get("params")
        if method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"])
        elif method == "Network.requestWillBeSent":
            scheme, _, rest = parameters["request"]["url"].partition("://")
            if scheme.startswith("http"):
                self.hosts.add(rest.split("/")[0])

    def go(self, url):
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def js(self, expression):
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def until(self, expression, limit=DEADLINE):
        until(lambda: self.js(expression), expression, limit)

    def text(self, selector):
        return self.js(f"document.querySelector({selector!r}).textContent")

    def timed(self, action):
        """Milliseconds from an action until the browser has painted what came of it."""
        return self.js(
            "new Promise((done) => { const begun = performance.now();"
            f"{action};"
            "requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun))); })"
        )

    def key(self, name):
        for kind in ["keyDown", "keyUp"]:
            code = {"Enter": 13, "ArrowDown": 40, "End": 35, "Escape": 27, "Tab": 9}[name]
            text = "\r" if name == "Enter" and kind == "keyDown" else ""
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                text=text,
                windowsVirtualKeyCode=code,
            )

    def window(self, width, height, dark, phone=False):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = "dark" if dark else "light"
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def picture(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))

    def close(self):
        self.socket.close()


def until(holds, what, limit=DEADLINE):
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, f"not within {limit} s: {what}"
        time.sleep(0.02)
