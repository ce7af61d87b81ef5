"""What a profile loads before anything is started: environment modules and lines of shell."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence

from mpiparallel.doctor.bounded import Run, run
from mpiparallel.doctor.finding import Context, Finding, fail, ok
from mpiparallel.launch import templates

LIMIT = 15.0
UNKNOWN = 78  # how the lines that load modules end when one cannot be loaded


def script(modules: Sequence[str], setup: Sequence[str]) -> str:
    """Return bash that does what jobs do first, and writes the environment then to the file ``$1``."""
    return "\n".join(["set -eu", templates.loads(modules), *setup, 'exec env -0 > "$1"'])


def environment(content: bytes) -> dict[str, str]:
    """Return the variables that ``env -0`` has written."""
    pairs = (entry.partition("=") for entry in os.fsdecode(content).split("\0"))
    return {name: value for name, sign, value in pairs if sign}


def check_modules(context: Context) -> Iterator[Finding]:
    """Yield whether modules and setup lines work here; later checks run with what they bring."""
    options = context.options
    context.environ = {**context.environ, **options.environment}
    if not options.modules and not options.setup:
        return
    shell = shutil.which("bash", path=context.environ.get("PATH", os.defpath)) or "/bin/bash"
    with tempfile.NamedTemporaryFile(prefix="mpiparallel-doctor-") as file:
        command = [shell, "-l", "-c", script(options.modules, options.setup), "doctor", file.name]
        done = run(command, context.within(LIMIT), context.environ)
        found = environment(file.read())
    if done.went_well:
        context.environ = {**found, **options.environment}
        yield loaded(context)
        return
    yield problem(done, context)


def loaded(context: Context, name: str = "modules") -> Finding:
    """Return what to say when all of it works."""
    options = context.options
    what = [*options.modules, *(f"`{line}`" for line in options.setup)]
    return ok(name, f"Works: {', '.join(what)}.", modules=options.modules, setup=options.setup)


def problem(done: Run, context: Context, name: str = "modules") -> Finding:
    """Return what to say when modules or setup lines have failed."""
    options = context.options
    said = done.last_words()
    facts = {"modules": options.modules, "setup": options.setup, "code": done.code, "said": said}
    if done.code == UNKNOWN and "no command 'module'" in done.text:
        return fail(
            name,
            f"The profile loads {', '.join(options.modules)}, but there is no command called `module`.",
            "Perhaps it is there on login nodes only, or on compute nodes only. If there are no modules "
            "at all, "
            "leave `modules` out and use `setup` (source .../bin/activate) instead.",
            **facts,
        )
    if done.code == UNKNOWN:
        return fail(
            name,
            f"A module of the profile cannot be loaded. It said:\n{said}",
            "See `module avail` (and `module spider NAME` where that exists) for what there is, and correct "
            "`modules` in the profile.",
            **facts,
        )
    return fail(
        name,
        f"What the profile runs before everything else {done.end}. It said:\n{said}",
        f"Correct `setup` in the profile: {'; '.join(options.setup)}",
        **facts,
    )
