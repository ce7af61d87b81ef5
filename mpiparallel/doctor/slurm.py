"""Slurm: does it answer, are there nodes to work on, which MPI does its srun know."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence

from mpiparallel.doctor.bounded import run
from mpiparallel.doctor.finding import Context, Finding, fail, ok, skip, warn
from mpiparallel.doctor.mpi import VENDORS
from mpiparallel.launch import pmi
from mpiparallel.launch.argv import Dialect

ASK = 10.0  # seconds for a question to Slurm
_SUBMITS = {"slurm": "sbatch", "srun": "srun", "pbs": "qsub", "lsf": "bsub"}


def check_slurm(context: Context) -> Iterator[Finding]:
    """Yield whether Slurm answers and knows the partition, and how its srun starts MPI."""
    path = context.environ.get("PATH", os.defpath)
    wanted = _SUBMITS.get(context.options.engines, "")
    if wanted and not shutil.which(wanted, path=path):
        yield fail(
            "batch system",
            f"Engines are to be started by {context.options.engines}, and {wanted} is not on the PATH.",
            "Work on a login node of the cluster, or load the module that brings it; or start engines in "
            "another way (--engines mpi).",
        )
        return
    missing = [name for name in ("sinfo", "srun", "sbatch") if not shutil.which(name, path=path)]
    if len(missing) == 3:
        others = [name for name in ("qsub", "bsub") if shutil.which(name, path=path)]
        words = f"This host has no Slurm, but {others[0]}: jobs of it are not tried." if others else ""
        yield skip("batch system", words or "This host has none (no sbatch, qsub or bsub on the PATH).")
        return
    if missing:
        remedy = "Load the module of Slurm (module load slurm), or work on a login node."
        yield fail("Slurm", f"Of Slurm's commands {', '.join(missing)} is not on the PATH.", remedy)
        return
    done = run(["sinfo", "--noheader", "--format=%P|%a|%l|%D|%T"], context.within(ASK), context.environ)
    if not done.went_well:
        yield fail(
            "Slurm",
            f"sinfo {done.end}. It said:\n{done.last_words()}",
            "Slurm does not answer: ask your site, or wait; meanwhile `scontrol ping` shows whether it is "
            "back.",
        )
        return
    found = partitions(done.text, context.options.partition)
    context.takes_jobs = found.status != "fail"
    yield found
    listing = run(["srun", "--mpi=list"], context.within(ASK), context.environ)
    yield plugin(
        str(context.library.get("vendor", "")), pmi.parse_list(listing.text), context.options.srun_mpi
    )


def partitions(text: str, wish: str) -> Finding:
    """Return whether there are nodes in the partition that is wished for, or in the default one."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 4]
    names = list(dict.fromkeys(row[0].rstrip("*") for row in rows))
    default = next((row[0].rstrip("*") for row in rows if row[0].endswith("*")), "")
    there = f"There are {', '.join(names)}" + (f" ({default} is the default)." if default else ".")
    facts = {"partitions": names, "default": default, "partition": wish or default}
    if wish and not set(wish.split(",")) & set(names):
        return fail(
            "Slurm",
            f"There is no partition {wish!r}.",
            f"{there} Name one of them by --partition, or in the profile.",
            **facts,
        )
    meant = (wish or default).split(",") if wish or default else names
    ours = [row for row in rows if row[0].rstrip("*") in meant]
    nodes: dict[str, int] = {}
    for row in ours:
        nodes[row[4]] = nodes.get(row[4], 0) + int(row[3])
    words = f"It answers. Partition {wish or default or 'any'}: "
    words += ", ".join(f"{n} {state}" for state, n in nodes.items())
    up = any(row[1] == "up" for row in ours)
    if not up or not any(re.match(r"idle|mix|alloc|comp", state) for state in nodes):
        remedy = f"Wait, or use another partition. {there}"
        return warn("Slurm", f"{words}: no node of it can work now.", remedy, nodes=nodes, **facts)
    return ok("Slurm", f"{words} nodes. {there}", nodes=nodes, **facts)


def ways(vendor: str, there: Sequence[str], wish: str) -> list[str]:
    """Return the ways of srun to start ranks of this MPI that are worth a try, the likeliest first."""
    if wish == "none":
        return []
    dialect = VENDORS.get(vendor, Dialect.UNKNOWN)
    found = [wish] if wish else [pmi.fitting(dialect, tuple(there))]
    found += [name for name in ("pmix", "pmi2") if name in there]
    return list(dict.fromkeys(name for name in found if name)) if found[0] else []


def plugin(vendor: str, there: Sequence[str], wish: str) -> Finding:
    """Return whether srun knows a way to start ranks of this MPI."""
    name, listed = "srun", ", ".join(there) or "nothing"
    facts = {"plugins": list(there), "srun_mpi": wish}
    if wish == "none":
        return ok(name, "The profile says srun_mpi = none: mpiexec starts the ranks of jobs.", **facts)
    dialect = VENDORS.get(vendor, Dialect.UNKNOWN)
    fitting = pmi.fitting(dialect, tuple(there))
    if wish and wish not in there:
        return fail(
            name,
            f"The profile says srun_mpi = {wish}, but this srun knows {listed} only (srun --mpi=list).",
            f"Choose {fitting or 'none (for mpiexec instead of srun)'}, or leave it out: "
            "it is found out then.",
            **facts,
        )
    if wish and fitting and not wish.startswith(fitting):
        return warn(
            name,
            f"The profile says srun_mpi = {wish}, but {vendor} mostly needs {fitting}.",
            f"If ranks by srun do not meet, choose {fitting}, or leave it out: it is found out then.",
            **facts,
        )
    if dialect is Dialect.UNKNOWN and not wish:
        return ok(
            name, f"srun knows {listed}; which of them suits {vendor or 'your MPI'} is not known.", **facts
        )
    if not wish and not fitting:
        wanted = "pmix" if vendor == "Open MPI" else "pmi2"
        return warn(
            name,
            f"This srun has no --mpi={wanted}, which {vendor or 'this MPI'} needs; it knows {listed}.",
            'Ranks of jobs are started by mpiexec instead (srun_mpi = "none"). Your site could add the '
            "plugin.",
            **facts,
        )
    return ok(name, f"--mpi={wish or fitting} suits {vendor or 'this MPI'}; srun knows {listed}.", **facts)
