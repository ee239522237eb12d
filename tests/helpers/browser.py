"""A headless Chromium, driven through ChromeDriver's HTTP interface (W3C WebDriver)."""

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

# --no-sandbox: containers, where tests run as root, have no user namespaces. The rest keeps it from the network.
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing() -> str | None:
    """Why there is no browser, None if there is one."""
    if not any(map(shutil.which, _BROWSERS)):
        return "no Chromium here (Debian, Ubuntu: apt-get install chromium chromium-driver)"
    if not shutil.which("chromedriver"):
        return "no ChromeDriver here (Debian, Ubuntu: apt-get install chromium-driver)"
    return None


class Browser:
    """A context manager. Scripts run as the body of a function; what it returns comes back as plain values."""

    def __enter__(self) -> "Browser":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._root = f"http://127.0.0.1:{port}"
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        command = [shutil.which("chromedriver"), f"--port={port}"]
        self._driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._session = ""
        try:
            self._wait_for_driver()
            binary = next(filter(None, map(shutil.which, _BROWSERS)))
            options = {"binary": binary, "args": [*_FLAGS, f"--user-data-dir={self._profile.name}"]}
            wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            answer = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._session = f"/session/{answer['sessionId']}"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._session:
                self._send("DELETE", self._session)
        finally:
            self._driver.terminate()
            self._driver.wait(20)
            self._profile.cleanup()

    def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Load a page in a viewport of this size, phones included, which are narrower than a window can be."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": metrics}
        self._post("/goog/cdp/execute", command)
        self._post("/url", {"url": url})

    def run(self, script: str, *values: Any) -> Any:
        return self._post("/execute/sync", {"script": script, "args": list(values)})

    def wait(self, script: str, *values: Any, seconds: float = 20) -> Any:
        """Run a script until what it returns is true, and return that; AssertionError after that many seconds."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if result := self.run(script, *values):
                return result
            time.sleep(0.03)
        raise AssertionError(f"still not true after {seconds} s: {script}")

    def click(self, x: float, y: float) -> None:
        """A real click at a place of the viewport, in pixels."""
        moves = [
            {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": moves}
        self._post("/actions", {"actions": [mouse]})

    def press(self, key: str) -> None:
        """A key as WebDriver names it, such as " " or "\\ue014" (arrow right)."""
        strokes = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def screenshot(self) -> bytes:
        """The viewport as PNG."""
        return base64.b64decode(self._send("GET", f"{self._session}/screenshot"))

    def console(self) -> list[str]:
        """Messages and errors since the last call."""
        return [entry["message"] for entry in self._post("/se/log", {"type": "browser"})]

    def _wait_for_driver(self) -> None:
        for _ in range(200):
            try:
                if self._send("GET", "/status")["ready"]:
                    return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        raise RuntimeError("ChromeDriver does not answer")

    def _post(self, path: str, body: dict) -> Any:
        return self._send("POST", self._session + path, body)

    def _send(self, method: str, path: str, body: dict | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._root + path, data, {"Content-Type": "application/json"}, method=method)
        # Proxies of the environment are not asked for what is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.read().decode()[:600]}") from error
