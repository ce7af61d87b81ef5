"""What the libraries under IPython's tracebacks keep for ever: each text that an error was shown in, parsed.

``executing`` and ``stack_data`` have no limit for these, nor a way to be told of one: 20 kB for each cell
that has failed. They are filled again when they are needed, in a few milliseconds.
"""

from __future__ import annotations

import sys
from typing import Any

TRACEBACKS = 10  # that are rendered until what was kept for them is dropped

_rendered = 0


def note_traceback() -> None:
    """Count a traceback that was rendered; forget what was parsed for the last ones now and then."""
    global _rendered
    _rendered += 1
    if _rendered % TRACEBACKS == 0:
        forget()


def forget() -> None:
    """Drop the caches of ``executing``, and of the classes that derive from its ``Source``."""
    module: Any = sys.modules.get("executing.executing")
    if module is None:
        return
    kinds = [module.Source, *module.Source.__subclasses__()]
    for holder in (module, *kinds):
        for name, value in list(vars(holder).items()):
            if hasattr(value, "cache_clear"):
                value.cache_clear()
            elif holder is not module and isinstance(value, dict) and "cache" in name:
                value.clear()
