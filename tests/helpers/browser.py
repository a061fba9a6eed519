"""A Chromium that tests drive through ChromeDriver, by the W3C WebDriver protocol over HTTP."""

import base64
import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
PATIENCE = 60.0
"""Seconds after which a page that should have changed is given up."""
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="no chromium and chromedriver on PATH; on Debian: apt-get install them"
)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the protocol's name of a reference to an element


class Browser:
    """One window."""

    def __init__(self, client: httpx.Client, session: str) -> None:
        self._client, self._session = client, session

    def call(self, path: str, **body: Any) -> Any:
        answer = self._client.post(f"/session/{self._session}/{path}", json=body).json()["value"]
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    def open(self, url: str) -> None:
        self.call("url", url=url)

    def run(self, script: str, *arguments: object) -> Any:
        """Return the value of a script's `return`."""
        return self.call("execute/sync", script=script, args=list(arguments))

    def type(self, selector: str, text: str) -> None:
        """Type into an element; into a file input, paths of files by lines."""
        found = self.call("element", using="css selector", value=selector)
        self.call(f"element/{found[_ELEMENT]}/value", text=text)

    def click(self, selector: str) -> None:
        found = self.call("element", using="css selector", value=selector)
        self.call(f"element/{found[_ELEMENT]}/click")

    def text(self, selector: str = "body") -> str:
        """The visible text of the first element that matches; empty if there is none."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen; the page shows: {self.text()}"
            time.sleep(0.1)

    def wait_for(self, text: str, selector: str = "body") -> None:
        self.wait(lambda: text in self.text(selector), f"{text!r} in {selector}")

    def look(self, path: Path, *, width: int, dark: bool) -> None:
        """Write a screenshot of the whole page, laid out for a width and a color scheme."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        taken = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def devtools(self, command: str, **parameters: object) -> Any:
        return self.call("goog/cdp/execute", cmd=command, params=parameters)

    @property
    def complaints(self) -> list[str]:
        """Messages of the console so far: script errors, and what the Content-Security-Policy blocked."""
        return [entry["message"] for entry in self.call("se/log", type="browser")]


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a headless Chromium whose only network is this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([str(CHROMEDRIVER), f"--port={port}"], stdout=subprocess.DEVNULL)
    flags = (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", f"--user-data-dir={profile}",
    )  # fmt: skip
    wanted = {
        "browserName": "chrome",
        "goog:chromeOptions": {"binary": CHROMIUM, "args": list(flags)},
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False) as client:
            _wait_for_driver(client)
            opened = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}}).json()["value"]
            window = Browser(client, opened["sessionId"])
            try:
                yield window
            finally:
                client.delete(f"/session/{opened['sessionId']}")
    finally:
        driver.terminate()
        driver.wait()


def _wait_for_driver(client: httpx.Client) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(httpx.TransportError):
            client.get("/status")
            return
        assert time.monotonic() < deadline, "chromedriver did not start"
        time.sleep(0.05)
