"""A real IPython kernel, driven by messages as a notebook drives it."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.manager import KernelManager

from notebook.pages import Page

PATIENCE = 60.0


class Kernel:
    """A kernel of its own process.

    Parameters
    ----------
    folder
        Where it keeps files; it works there, too.
    **environment
        Variables for it, besides those of this process.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.manager = KernelManager(kernel_name="python3", connection_file=str(folder / "kernel.json"))
        variables = {**os.environ, "IPYTHONDIR": str(folder / "ipython"), **environment}
        self.manager.start_kernel(env=variables, cwd=str(folder))
        self._connect()
        self.stray: list[dict[str, Any]] = []  # messages of cells that nobody waits for

    def _connect(self) -> None:
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.manager.provisioner.pid)

    def start(self, code: str, **options: Any) -> Cell:
        """Send a cell, and do not wait."""
        return Cell(self, self.client.execute(code, allow_stdin=False, **options))

    def run(self, code: str, timeout: float = PATIENCE, **options: Any) -> Page:
        """Run a cell to its end and return what it has shown."""
        return self.start(code, **options).finish(timeout)

    def do(self, code: str, timeout: float = PATIENCE) -> Page:
        """Run a cell that has to go well."""
        cell = self.start(code)
        page = cell.finish(timeout)
        assert page.error is None, page.read()
        assert cell.reply["status"] != "aborted", "it was sent while a cell that failed had not ended"
        return page

    def value(self, code: str, timeout: float = PATIENCE) -> Any:
        """Return the value of an expression in the kernel, whose ``repr`` must be a literal."""
        import ast

        expressions = {"value": code}
        cell = self.start("", user_expressions=expressions, silent=True)
        cell.finish(timeout)
        answer = cell.reply["user_expressions"]["value"]
        assert answer["status"] == "ok", "\n".join(answer["traceback"])
        return ast.literal_eval(answer["data"]["text/plain"])

    def interrupt(self) -> None:
        """Press the stop button."""
        self.manager.interrupt_kernel()

    def answers(self, timeout: float = 10.0) -> float:
        """Return how long the kernel takes to answer on its control channel."""
        began = time.monotonic()
        message = self.client.session.msg("kernel_info_request", {})
        self.client.control_channel.send(message)
        while True:
            reply = self.client.get_control_msg(timeout=timeout)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return time.monotonic() - began

    def restart(self, now: bool = False) -> None:
        """Restart it, as a notebook's menu does; with `now` it is killed."""
        self.client.stop_channels()
        self.manager.restart_kernel(now=now)
        self._connect()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel()
        self.manager.cleanup_resources()


class Cell:
    """A cell on its way."""

    def __init__(self, kernel: Kernel, msg_id: str) -> None:
        self._kernel, self._id = kernel, msg_id
        self.page = Page()
        self.idle = False
        self.reply: dict[str, Any] = {}

    def until(self, seen: str | Callable[[Page], object], timeout: float = PATIENCE) -> Page:
        """Take messages until a text is shown, or until a condition holds."""
        text = seen
        condition = (lambda page: text in page.read()) if isinstance(text, str) else seen
        deadline = time.monotonic() + timeout
        while not condition(self.page):  # type: ignore[operator]
            assert not self.idle, f"the cell has ended without {seen!r}:\n{self.page.read()}"
            self._next(deadline, f"no {seen!r}")
        return self.page

    def finish(self, timeout: float = PATIENCE) -> Page:
        """Take messages until the kernel is idle again; what comes later would not be of this cell."""
        deadline = time.monotonic() + timeout
        while not self.idle:
            self._next(deadline, "no end")
        while self.reply == {}:
            reply = self._kernel.client.get_shell_msg(timeout=max(0.1, deadline - time.monotonic()))
            if reply["parent_header"].get("msg_id") == self._id:
                self.reply = reply["content"]
        return self.page

    def _next(self, deadline: float, what: str) -> None:
        try:
            message = self._kernel.client.get_iopub_msg(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise TimeoutError(f"{what} in time; shown by now:\n{self.page.read()[-4000:]}") from None
        if message["parent_header"].get("msg_id") != self._id:
            self._kernel.stray.append(message)
        elif message["header"]["msg_type"] == "status":
            self.idle = message["content"]["execution_state"] == "idle"
        else:
            self.page.take(message)
