"""What a profile loads before anything is started: environment modules and lines of shell."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence

from mpiparallel.doctor.bounded import Run, run
from mpiparallel.doctor.finding import Context, Finding, fail, ok

LIMIT = 15.0


def script(modules: Sequence[str], setup: Sequence[str]) -> str:
    """Return bash that loads `modules`, runs `setup`, and writes the environment then to the file ``$1``."""
    lines = ["set -e"]
    if modules:
        # `module` is a function that login shells have; some sites make it in files that -l does not read.
        lines.append(
            "command -v module >/dev/null || for file in /etc/profile.d/modules.sh /etc/profile.d/lmod.sh; "
            'do if [ -r "$file" ]; then . "$file"; fi; done'
        )
        lines.append('command -v module >/dev/null || { echo "there is no command called module"; exit 90; }')
    for name in modules:
        quoted = shlex.quote(name)
        lines.append(f"module load {quoted} || {{ echo; echo module {quoted} cannot be loaded; exit 91; }}")
    lines += setup
    return "\n".join([*lines, 'exec env -0 > "$1"'])


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
        what = [*options.modules, *(f"`{line}`" for line in options.setup)]
        yield ok("modules", f"{', '.join(what)}: loaded.", modules=options.modules, setup=options.setup)
        return
    yield problem(done, context)


def problem(done: Run, context: Context) -> Finding:
    """Return what to say when modules or setup lines have failed."""
    options = context.options
    said = done.last_words()
    facts = {"modules": options.modules, "setup": options.setup, "code": done.code, "said": said}
    if done.code == 90:
        return fail(
            "modules",
            f"The profile loads {', '.join(options.modules)}, but this host knows no command `module`.",
            "Are modules available on compute nodes only? If there are none at all, leave `modules` out and "
            "use `setup` (source .../bin/activate) instead.",
            **facts,
        )
    if done.code == 91:
        return fail(
            "modules",
            f"A module of the profile cannot be loaded. It said:\n{said}",
            "See `module avail` (and `module spider NAME` where that exists) for what there is, and correct "
            "`modules` in the profile.",
            **facts,
        )
    return fail(
        "modules",
        f"What the profile runs before everything else {done.end}. It said:\n{said}",
        f"Correct `setup` in the profile: {'; '.join(options.setup)}",
        **facts,
    )
