"""The profile that is meant: whether there is one, and whether its settings make sense together."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mpiparallel import profiles
from mpiparallel.doctor.finding import Context, Finding, fail, ok, skip, warn
from mpiparallel.launchoptions import DEFAULTS


def check_profile(context: Context) -> Iterator[Finding]:
    """Yield what is set, and what is wrong with it."""
    name = context.profile or "default"
    path = profiles.path_of(name, context.config)
    if context.problem:
        yield fail(
            "profile",
            f"Its settings cannot be used, and the defaults are checked instead.\n{context.problem}",
            f"Correct that; `mpiparallel profile check {name}` says whether all is right then.",
            file=str(path),
        )
        return
    if context.profile not in ("", "default") and not path.exists():
        near = profiles.similar(name, context.config)
        yield warn(
            "profile",
            f"There is no {path}: the defaults are checked.",
            f"Did you mean {near}?" if near else f"Write one: mpiparallel profile new {name}",
            file=str(path),
        )
        return
    values = {
        key: value
        for key, value in msgspec.to_builtins(context.options).items()
        if value != getattr(DEFAULTS, key)
    }
    doubts = profiles.doubts({key: value for key, value in values.items() if key not in context.given})
    words = ", ".join(f"{key} = {value!r}" for key, value in values.items())
    if doubts:
        remedy = f"See `mpiparallel profile show {name}` for where each is from."
        yield warn("profile", "\n".join([f"Set: {words}.", *doubts]), remedy, **values)
    elif values:
        yield ok("profile", f"Set: {words}.", **values)
    else:
        yield skip("profile", "Nothing is set: the defaults hold.")
