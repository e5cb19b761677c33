"""A real browser without a window, over the DevTools protocol on two pipes: no port, and no package but the standard library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ANSWER_SECONDS = 30.0
END_SECONDS = 10.0
POLL_SECONDS = 0.05
FIRST_DESCRIPTOR = 10  # above those that the browser's pipes shall have, 3 and 4
FLAGS = [
    "--headless=new",
    "--no-sandbox",  # tests may run as root, and load only our own page
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--mute-audio",
    "--password-store=basic",
]


class Browser:
    """A context with one browser and one page; skips the test where there is no Chromium.

    ``complaints``: errors and warnings of the page's console, ``requests``: addresses that it asked for.
    """

    def __init__(self, profile: Path):
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._profile = profile
        self._number = 0
        self._session: str | None = None
        self._rest = b""

    def __enter__(self) -> Browser:
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        if program is None:
            pytest.skip("Chromium is not installed (Debian: chromium)")
        to_read, to_write = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, FIRST_DESCRIPTOR) for end in (to_read[0], to_write[1])]
        script = f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}'
        command = ["bash", "-c", script, "browser", program, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        with open(self._profile.with_suffix(".log"), "wb") as log:
            self._process = subprocess.Popen(
                command, pass_fds=ends, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        for end in (*ends, to_read[0], to_write[1]):
            os.close(end)
        self._write, self._read = to_read[1], to_write[0]
        try:
            self._open_page()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)  # it has a session of its own, with all its helpers
        except ProcessLookupError:
            pass
        self._process.wait(END_SECONDS)
        os.close(self._write)
        os.close(self._read)

    def _open_page(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    # ---- what a test does ---------------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        failed = self.call("Page.navigate", url=url).get("errorText")
        assert failed is None, f"{url}: {failed}"
        self.until("document.readyState === 'complete'")

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name: str) -> None:
        """ "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def value(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, f"{expression}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = ANSWER_SECONDS) -> None:
        """Waits until ``expression`` is true, as JavaScript has it."""
        deadline = time.monotonic() + seconds
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < deadline, f"{expression} does not come true; {self.complaints}"
            time.sleep(POLL_SECONDS)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **text)

    def point(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, path: Path) -> None:
        """Of the whole page, however long."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(taken["data"]))

    # ---- the protocol -------------------------------------------------------------------------------------------

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            received = self._receive(deadline, method)
            if received.get("id") == self._number:
                assert "error" not in received, f"{method}: {received['error']}"
                result: dict[str, Any] = received["result"]
                return result
            self._note(received.get("method", ""), received.get("params", {}))

    def _receive(self, deadline: float, waiting_for: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser does not answer {waiting_for}"
            part = os.read(self._read, 1 << 20)
            assert part, f"the browser has gone, see {self._profile.with_suffix('.log')}"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.complaints.append(
                f"console: {[part.get('value', part.get('description')) for part in parameters['args']]}"
            )
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(f"exception: {details.get('exception', {}).get('description', details['text'])}")
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            entry = parameters["entry"]
            self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
