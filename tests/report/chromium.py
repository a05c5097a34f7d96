"""Headless Chromium, driven over its DevTools protocol: loads a page, runs script, takes pictures.
"""

import base64
import contextlib
import functools
import json
import pathlib
import shutil
import subprocess
import time
import urllib.request

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_S = 60  # for the browser, an answer, or a page; a busy machine is slow


@functools.cache
def find() -> str | None:
    """The path of the browser; None where there is none that starts."""
    for path in filter(None, map(shutil.which, NAMES)):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if subprocess.run([path, "--version"], capture_output=True, timeout=WAIT_S).returncode:
                continue  # a stub that only says where to get the browser
            return path
    return None


class Tab:
    """One open page. events: what the protocol reported since the start, (method, parameters)."""

    def __init__(self, socket):
        self.socket, self.events, self._last = socket, [], 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        self._last += 1
        self.socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, (method, answer)
                return answer["result"]

    def _receive(self) -> dict:
        answer = json.loads(self.socket.recv(timeout=WAIT_S))
        if "method" in answer:
            self.events.append((answer["method"], answer["params"]))
        return answer

    def open(self, path: pathlib.Path):
        """Loads the file and waits until it is there with all that it holds."""
        start = len(self.events)
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in [name for name, _ in self.events[start:]]:
            self._receive()

    def js(self, expression: str):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = ""):
        """A key goes down and up in whatever has the focus."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code,
                      **({"text": text} if text and kind == "keyDown" else {}))

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def size(self, width: int, height: int, scale: float = 1.0):
        """Sets the window's size in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=scale, mobile=False)

    def media(self, kind: str = "screen", scheme: str = "light"):
        """Shows the page as on paper ("print") or in the other theme ("dark")."""
        self.call("Emulation.setEmulatedMedia", media=kind,
                  features=[{"name": "prefers-color-scheme", "value": scheme}])

    def complaints(self) -> list[dict]:
        """Errors and warnings of the console, and exceptions nobody caught."""
        return [p for name, p in self.events if name == "Runtime.exceptionThrown"
                or (name == "Log.entryAdded" and p["entry"]["level"] in ("error", "warning"))
                or (name == "Runtime.consoleAPICalled" and p["type"] in ("error", "warning"))]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, data in its own text aside."""
        urls = [p["request"]["url"] for name, p in self.events
                if name == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith("data:")]


@contextlib.contextmanager
def tab(folder: pathlib.Path):
    """An open `Tab`; the browser keeps its own files in `folder` and ends with the block."""
    from websockets.sync.client import connect

    flags = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}",
             "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", "--disable-component-update",
             "--no-sandbox"]  # it needs rights that root and most containers lack
    with open(folder / "chromium.log", "wb") as log:
        process = subprocess.Popen([find(), *flags, "about:blank"], stdout=log, stderr=log)
    try:
        with connect(_address(folder, process), max_size=None, open_timeout=WAIT_S) as socket:
            yield Tab(socket)
            with contextlib.suppress(Exception):
                socket.send(json.dumps({"id": 0, "method": "Browser.close"}))
    finally:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(folder: pathlib.Path, process) -> str:
    """Where the first page listens, once the browser has started."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        assert process.poll() is None, (folder / "chromium.log").read_text(errors="replace")
        with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
            port = int((folder / "DevToolsActivePort").read_text().split()[0])
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with direct.open(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
                pages = json.load(answer)
            return next(p["webSocketDebuggerUrl"] for p in pages if p["type"] == "page")
        time.sleep(0.05)
    raise TimeoutError((folder / "chromium.log").read_text(errors="replace"))
