"""Chromium without a screen, driven over the DevTools protocol by two pipes: no driver, no port, no further package.

Protocol: JSON messages that end with a zero byte, commands on its file descriptor 3, answers and events on 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import time
from typing import TYPE_CHECKING, Any, Self

from tests.peers.presence import need, program
from tests.peers.process import PeerError, Process, own_folder

if TYPE_CHECKING:
    from pathlib import Path

FLAGS = (
    "--headless", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-dev-shm-usage", "--log-level=3",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",  # WebGL2 in software
    "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # nothing but loopback
)  # fmt: skip
ANSWER_S = 120.0
"""A page that answers later hangs, however busy the machine is."""


class Chromium:
    """One browser with a new, empty profile and one page."""

    def __init__(self, *, width: int = 1280, height: int = 800) -> None:
        """`width` and `height` of the page in pixels."""
        need("chromium")
        home = own_folder("chromium")
        self._pipes = [home / name for name in ("commands", "answers")]
        for pipe in self._pipes:
            os.mkfifo(pipe)
        own = (f"--user-data-dir={home / 'profile'}", f"--window-size={width},{height}", "--remote-debugging-pipe")
        command = [str(program("chromium")), *FLAGS, *own]
        redirect = 'exec "${@:3}" 3<"$1" 4>"$2"'
        self.process = Process(["bash", "-c", redirect, "bash", *self._pipes, *command], name="chromium", folder=home)
        self._size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._last, self._rest = 0, b""
        self.console: list[str] = []
        """Errors that the page has logged or thrown, for the message of a failed wait."""

    def start(self) -> Self:
        """Starts it and opens an empty page."""
        # Read and write, so that opening waits for nobody; whether the other side lives, the process says.
        self._commands, self._answers = (os.open(pipe, os.O_RDWR) for pipe in self._pipes)
        self.process.start()
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", **self._size)
        return self

    def stop(self) -> None:
        """Ends it."""
        self.process.stop()
        for descriptor in (self._commands, self._answers):
            os.close(descriptor)

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command of the protocol, and its result.

        Raises PeerError when the browser refuses it, does not answer or has ended.
        """
        self._last += 1
        message: dict[str, object] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(method)
            if answer.get("id") == self._last:
                break
            self._note(answer)
        if "error" in answer:
            raise PeerError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str, *, before: str = "") -> None:
        """Leaves the page for `url`; `before` is JavaScript that runs before the page's own."""
        self.console.clear()
        script = self.call("Page.addScriptToEvaluateOnNewDocument", source=before)["identifier"]
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)})", what=f"{url} is open")
        self.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, awaited; what JSON cannot hold is lost."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise PeerError(f"in the page: {_thrown(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait(self, expression: str, *, what: str, timeout_s: float = ANSWER_S) -> Any:
        """Evaluates until the value is true, and gives it; an expression that throws is not true yet."""
        deadline = time.monotonic() + timeout_s
        while True:
            value = self.evaluate(f"(async () => ({expression}))().catch(() => null)")
            if value:
                return value
            if time.monotonic() > deadline:
                raise PeerError("\n".join([f"not within {timeout_s:g} s: {what}", *self.console[-20:]]))
            time.sleep(0.1)

    def click(self, point: dict[str, float], *, times: int = 1) -> None:
        """Presses the left button at {"x", "y"} of the page, once or as a double click."""
        for count in range(1, times + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=count, **point)

    def screenshot(self, path: Path) -> Path:
        """The page as it is, as PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path

    def _receive(self, method: str) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_S
        while b"\0" not in self._rest:
            if not self.process.running or time.monotonic() > deadline:
                raise PeerError(f"Chromium did not answer {method}:\n{self.process.tail()}")
            if select.select([self._answers], [], [], 0.2)[0]:
                self._rest += os.read(self._answers, 1 << 20)
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.console.append(_thrown(parameters["exceptionDetails"]))
        elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "assert"}:
            words = [str(one.get("value", one.get("description", ""))) for one in parameters["args"]]
            self.console.append(" ".join(words)[:500])

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _thrown(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description", details.get("text", "")))[:500]
