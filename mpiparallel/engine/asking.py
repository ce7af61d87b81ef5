"""Nobody sits at an engine: what would ask somebody says so at once, and what to do instead.

Without this ``input()`` ends with a bare EOFError, and a debugger with BdbQuit after a picture of its prompt.
"""

from __future__ import annotations

import builtins
import os
import sys
from typing import Any, NoReturn

NO_INPUT = "nobody can answer {0} on an engine: ask in your own session, and send it: view['answer'] = {0}"
NO_DEBUGGER = """a debugger has nobody to talk to on an engine.
After %xmode Verbose tracebacks show the values of variables; %pxwhere shows where engines are.
To step through a function, call it in your own session, with what view.pull() fetches."""


def refuse() -> None:
    """Let `input` and `breakpoint` raise an error that helps."""
    builtins.input = _input
    if "PYTHONBREAKPOINT" not in os.environ:  # else somebody has one that listens elsewhere
        sys.breakpointhook = no_debugger


def refuse_in_shell(shell: Any) -> None:
    """Let what comes with IPython do the same; called when it has been imported."""
    import getpass

    import IPython

    getpass.getpass = _getpass
    IPython.embed = no_debugger  # it would take the place of the engine's shell
    shell.set_hook("editor", _edit)


def no_debugger(*args: Any, **kwargs: Any) -> NoReturn:
    """Stand in for what starts a debugger or a prompt."""
    raise RuntimeError(NO_DEBUGGER)


def _input(prompt: object = "", /) -> NoReturn:
    if sys._getframe(1).f_globals.get("__name__") == "cmd":  # pdb's prompt
        no_debugger()
    raise RuntimeError(NO_INPUT.format("input()"))


def _getpass(prompt: str = "", stream: Any = None, **options: Any) -> NoReturn:
    raise RuntimeError(NO_INPUT.format("getpass.getpass()"))


def _edit(*args: Any) -> NoReturn:
    raise RuntimeError("there is no editor on an engine: edit in your own session, and send the code")
