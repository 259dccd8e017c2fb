"""A real browser for tests: opens a page and tells what the page asked for and complained about.

Chromium is spoken to through a pair of pipes (`--remote-debugging-pipe`, the DevTools protocol as JSON, each message
closed by a zero byte), so that nothing but Chromium itself has to be installed.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60

_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    # Tests may run as root in a container, where the sandbox cannot start.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def executable() -> str | None:
    """The browser of this machine, if there is one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@dataclass
class Visit:
    """What opening a page led to.

    Attributes:
        requests: addresses it asked for, its own first.
        complaints: errors, exceptions, and whatever else was written to the console.
    """

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


class Browser:
    """One running Chromium."""

    def __init__(self, reader: int, writer: int):
        self._reader, self._writer, self._rest, self._number = reader, writer, b"", 0
        self._session: str | None = None
        self._visit = Visit()

    def visit(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> Visit:
        """Opens a file in a tab of its own and waits until it is drawn."""
        self._visit, self._session = Visit(), None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Runtime", "Log", "Page"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=path.resolve().as_uri())
        loaded = "new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))"
        self.ask(loaded)
        # What was asked for while loading has failed or come by the frame after the next.
        self.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100))))")
        return self._visit

    def ask(self, script: str) -> Any:
        """The value of an expression in the page, awaited."""
        found = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"]["description"])
        return found["result"].get("value")

    def busy_seconds(self, script: str) -> float:
        """What the page's thread computes to evaluate a script and lay out what it changed; waiting does not count."""
        self._call("Performance.enable", timeDomain="threadTicks")
        before = self._task_seconds()
        self.ask(script)
        self.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return self._task_seconds() - before

    def _task_seconds(self) -> float:
        metrics = self._call("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    def picture(self, path: Path) -> None:
        """Writes the whole page as a PNG."""
        data = self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def save_downloads(self, folder: Path) -> None:
        """Has files that a page gives to be saved written into a folder, under their own names."""
        session, self._session = self._session, None
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self._session = session

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _next(self, deadline: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reader], [], [], max(0, deadline - time.monotonic()))
            block = os.read(self._reader, 1 << 16) if ready else b""
            if not block:
                raise RuntimeError(f"the browser did not answer {method}")
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: str | None, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self._visit.requests.append(params["request"]["url"])
        elif event == "Log.entryAdded":
            self._visit.complaints.append(params["entry"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self._visit.complaints.append(" ".join(str(part.get("value")) for part in params["args"]))
        elif event == "Runtime.exceptionThrown":
            self._visit.complaints.append(params["exceptionDetails"]["exception"]["description"])


@contextmanager
def browser(program: str, folder: Path) -> Iterator[Browser]:
    """Runs a browser.

    Args:
        program: its file.
        folder: an empty one, for what it keeps.
    """
    their_reader, writer = os.pipe()
    reader, their_writer = os.pipe()
    # It reads from descriptor 3 and writes to 4, whatever the numbers are here.
    line = f'exec "$@" 3<&{their_reader} 4>&{their_writer}'
    command = ["bash", "-c", line, "bash", program, *_FLAGS, f"--user-data-dir={folder}"]
    passed = (their_reader, their_writer)
    with (folder / "stderr.txt").open("wb") as errors:
        process = subprocess.Popen(command, pass_fds=passed, stdout=errors, stderr=errors, start_new_session=True)
    for descriptor in passed:
        os.close(descriptor)
    try:
        yield Browser(reader, writer)
    finally:
        # The pipe's end is the browser's; its helpers are in the same group.
        os.close(writer)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(reader)
