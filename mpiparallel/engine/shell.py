"""The IPython shell of an engine, made when the first cell comes.

Its displays and results go to the client; its tracebacks are kept for the reply.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from mpiparallel.engine.output import OutputCapture
from mpiparallel.engine.usertrace import without_called

_output: OutputCapture  # of this process: there is one shell


class _Publisher(DisplayPublisher):
    def publish(
        self, data: Any, metadata: Any = None, source: Any = None, *,
        transient: Any = None, update: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        _output.publish(
            "display",
            {"data": data, "metadata": metadata or {}, "transient": transient or {}, "update": update},
        )

    def clear_output(self, wait: bool = False) -> None:
        _output.publish("clear_output", {"wait": wait})


class _Hook(DisplayHook):
    def write_output_prompt(self) -> None:
        """Leave the prompt to the client, which knows the engine's id."""

    def write_format_data(self, format_dict: Any, md_dict: Any = None) -> None:
        content = {"data": format_dict, "metadata": md_dict or {}, "execution_count": self.prompt_count}
        _output.publish("execute_result", content)

    def finish_displayhook(self) -> None:
        self._is_active = False


class EngineShell(InteractiveShell):
    """An IPython shell without a terminal."""

    displayhook_class = _Hook
    display_pub_class = _Publisher

    stored_traceback: list[str] | None = None

    def _get_exc_info(self, exc_tuple: Any = None) -> Any:
        etype, evalue, trace = super()._get_exc_info(exc_tuple)
        return etype, evalue, without_called(trace)

    def _showtraceback(self, etype: Any, evalue: Any, stb: Any) -> None:
        self.stored_traceback = [str(line) for line in stb]

    def init_io(self) -> None:
        """Keep the streams as they are: they are captured below Python."""

    def enable_gui(self, gui: Any = None) -> None:
        """Accept any event loop's name: there is no window here."""

    def ask_exit(self) -> None:
        raise SystemExit("an engine does not leave by exit(); use client.shutdown()")

    def system(self, cmd: str) -> None:
        """Run a shell command; its output takes the way of all output."""
        sys.stdout.flush()
        self.user_ns["_exit_code"] = self.system_raw_code(cmd)

    @staticmethod
    def system_raw_code(cmd: str) -> int:
        import subprocess

        return subprocess.run(cmd, shell=True, stdin=subprocess.DEVNULL).returncode

    system_raw = system
    system_piped = system


def make_shell(module: types.ModuleType, output: OutputCapture) -> EngineShell:
    """Return the shell whose user module is `module`."""
    global _output
    _output = output
    from traitlets.config import Config

    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    shell = EngineShell.instance(user_module=module, user_ns=module.__dict__, config=config)
    shell.builtin_trap.activate()  # get_ipython and display are there in applied functions, too
    sys.modules["__main__"] = module
    return shell
