"""Run a Python script in this process as ``python script.py`` would; called by ``mpiparallel run``."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from types import TracebackType


def run_script(script: str, arguments: Sequence[str], *, module: bool = False) -> int:
    """Run a file, or a module by name, as ``__main__`` and return the exit code that Python would give."""
    sys.argv[:] = [script, *arguments]
    # In place of the folder of our own command.
    sys.path[0] = os.getcwd() if module else os.path.dirname(os.path.abspath(script))
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return _exit_code(end)
    except BaseException as error:
        error.with_traceback(_of_script(error.__traceback__))
        sys.excepthook(type(error), error, error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        sys.stdout.flush()
    return 0


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _of_script(traceback: TracebackType | None) -> TracebackType | None:
    """Return the traceback without the frames that brought us to the script."""
    ours = (__file__, runpy.__file__, "<frozen runpy>")
    rest = traceback
    while rest is not None and rest.tb_frame.f_code.co_filename in ours:
        rest = rest.tb_next
    return rest or traceback
