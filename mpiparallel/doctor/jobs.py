"""Inside a job of Slurm: does its node have what engines need, reach this host, and do ranks meet there."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mpiparallel import __version__, resources
from mpiparallel.controller.places import host_addresses
from mpiparallel.doctor import modules, mpi, node
from mpiparallel.doctor.allocation import Allocation, NoAllocation, allocation
from mpiparallel.doctor.bounded import Run, run
from mpiparallel.doctor.finding import Context, Finding, fail, ok, skip, warn
from mpiparallel.doctor.listening import Listener
from mpiparallel.doctor.slurm import ASK, ways
from mpiparallel.error import LaunchError
from mpiparallel.launch import argv, pmi, slurm
from mpiparallel.launch.local import cores, runner

QUEUE = 15.0  # seconds in which two tasks must be free, or ranks in jobs are not tried
NODE = 15.0
CLUSTERS = 3  # that run, whose ports are tried from the node
MEET = 20.0


def check_jobs(context: Context) -> Iterator[Finding]:
    """Yield how things are inside a job: on its nodes, between its ranks, back to this host."""
    if not context.takes_jobs or not shutil.which("salloc", path=context.environ.get("PATH", os.defpath)):
        return
    try:
        with _allocation(context) as job:
            yield from modules_there(context, job)
            yield from look_from_node(context, job)
            if context.environ.get("SLURM_JOB_ID") and job.environ.get("SLURM_NTASKS") == "1":
                yield skip("ranks", "This job has one task: two would tell whether ranks meet (-n 2).")
                return
            yield from ranks_by_srun(context, job)
            yield from ranks_by_mpiexec(context, job)
    except NoAllocation as error:
        if error.busy:
            yield warn(
                "a job",
                f"Slurm has no two free tasks within {QUEUE:.0f} s, so that nothing was tried in a job.",
                "Try again later, or with another partition (--partition), or inside a job: salloc -n 2 "
                "mpiparallel doctor.",
            )
        else:
            said = str(error)
            remedy = slurm.refusal(said, slurm.partitions()).removeprefix(said).strip()
            remedy = (
                remedy or "Ask your site whether you may use salloc; jobs by sbatch may work all the same."
            )
            yield fail("a job", f"Slurm grants no job. It said:\n{said}", remedy, said=said)


def controller_port(name: str, host: str, found: Mapping[str, Any]) -> Finding:
    """Return whether a node has reached the controller of a cluster that runs here."""
    if found["reached"]:
        return ok(name, f"{host} reaches its controller at {found['reached']}.", **found)
    each = "\n".join(f"{address}: {trouble}" for address, trouble in found["troubles"].items())
    return fail(
        name,
        f"{host} does not reach its controller. Tried:\n{each}",
        "Engines in jobs cannot join it. Start it with an address that nodes reach (--ip), have its port let "
        "through the firewall, or run it inside the job (--controller slurm).",
        **found,
    )


@contextmanager
def _allocation(context: Context) -> Iterator[Allocation]:
    """Hold two tasks: those of the job that this runs in, or on two nodes, or on one."""
    job = context.environ.get("SLURM_JOB_ID", "")
    if job:
        yield Allocation(context.environ, job)
        return
    with ExitStack() as stack:
        found = None
        if _nodes(context) > 1:
            try:
                ask = allocation(context.options, context.environ, context.within(QUEUE / 2), 2)
                found = stack.enter_context(ask)
            except NoAllocation:
                pass  # one may do, or tells why not
        if found is None:
            ask = allocation(context.options, context.environ, context.within(QUEUE), 1)
            found = stack.enter_context(ask)
        yield found


def _nodes(context: Context) -> int:
    """Return how many nodes may have room."""
    wish = context.options.partition
    command = ["sinfo", "--noheader", "--Node", "--states=idle,mix", "--format=%N"]
    done = run([*command, *([f"--partition={wish}"] if wish else [])], context.within(ASK), context.environ)
    return len(set(done.text.split())) if done.went_well else 1


def srun(context: Context, job: Allocation, n: int, how: str, program: Sequence[str], limit: float) -> Run:
    """Run a program as a step of the job, just as engines are."""
    vendor = mpi.VENDORS.get(str(context.library.get("vendor", "")), argv.Dialect.UNKNOWN)
    which = argv.MPI("", vendor)
    environ = argv.world_environment(job.environ, which, n=n, cores=cores(), root=os.geteuid() == 0)
    environ["MPIPARALLEL_SRUN_MPI"] = how
    script = resources.script("launchers", "srun.sh", context.config)
    words = [*runner(script), *context.options.srun_args, "-n", str(n)]
    words += ["-N", "1"] if n == 1 else []
    return run([*words, *program], context.within(limit), environ)


def modules_there(context: Context, job: Allocation) -> Iterator[Finding]:
    """Yield whether modules and setup lines of a profile work on a node, too."""
    options = context.options
    if not options.modules and not options.setup:
        return
    program = ["bash", "-l", "-c", modules.script(options.modules, options.setup), "doctor", os.devnull]
    done = srun(context, job, 1, "none", program, NODE)
    where = "modules, node"
    yield modules.loaded(context, where) if done.went_well else modules.problem(done, context, where)


def look_from_node(context: Context, job: Allocation) -> Iterator[Finding]:
    """Yield what a node of the job sees: its Python and versions, our files, this host's port."""
    ip = context.options.controller_ip
    try:
        listener = Listener("" if ip in ("", "*") else ip, context.options.controller_port)
    except OSError as error:
        yield fail(
            "port",
            f"Nothing can listen on {ip or 'this host'}, port {context.options.controller_port or 'any'}: "
            f"{os.strerror(error.errno or 0)}.",
            "Correct controller_ip and controller_port in the profile, or leave them out.",
        )
        return
    with listener, _shared_file(context.config.state_dir, listener.token) as file:
        hosts = [ip] if ip not in ("", "*", "0.0.0.0", "::") else host_addresses()
        wanted = {
            "addresses": [f"{host}:{listener.port}" for host in hosts if not host.startswith("127.")],
            "token": listener.token,
            "file": file.name,
            "clusters": dict(list(context.clusters.items())[:CLUSTERS]),
        }
        program = [context.python, "-m", "mpiparallel.doctor.node", json.dumps(wanted)]
        done = srun(context, job, 1, "none", program, NODE)
    said = _said(done)
    if said is None:
        yield fail(
            "a node",
            f"{context.python} on a node of job {job.job} {done.end}. It said:\n{done.last_words()}",
            "Engines run this Python on compute nodes: it must be on a disk that nodes share, with "
            "mpiparallel. Name another by the setting `python`, or load its module (`modules`).",
            said=done.text,
        )
        return
    yield compare(said, context)
    yield shared(said, context.config.state_dir)
    yield port(said, context)
    for name, found in said["clusters"].items():
        yield controller_port(name, said["host"], found)


def _shared_file(folder: Path, token: str) -> Any:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = tempfile.NamedTemporaryFile("w", dir=folder, prefix=".doctor-")  # noqa: SIM115 (the caller's with)
    file.write(token)
    file.flush()
    os.fsync(file.fileno())
    return file


def _said(done: Run) -> Mapping[str, Any] | None:
    for line in done.text.splitlines():
        _, mark, rest = line.partition(node.MARK)
        if mark:
            found: Mapping[str, Any] = json.loads(rest)
            return found
    return None


def compare(said: Mapping[str, Any], context: Context) -> Finding:
    """Return whether the node has the versions that this host has."""
    theirs, host = said["versions"], said["host"]
    name, facts = "a node", {"host": host, "versions": theirs, "executable": said["executable"]}
    if theirs.get("mpiparallel") != __version__:
        return fail(
            name,
            f"{host} has mpiparallel {theirs.get('mpiparallel') or 'nowhere'}, and this host {__version__}.",
            f"Install the same version for {said['executable']}, or name the same Python by `python`.",
            **facts,
        )
    ours = ".".join(map(str, sys.version_info[:2]))
    if str(theirs.get("python", "")).split(".")[:2] != ours.split("."):
        return warn(
            name,
            f"{host} runs Python {theirs.get('python')}, and this is {ours}: functions that are sent to "
            "engines may fail there.",
            "Use the same Python on both sides (setting `python`).",
            **facts,
        )
    words = f"{host} runs mpiparallel {__version__} and Python {theirs['python']}, as this host does."
    return ok(name, words, **facts)


def shared(said: Mapping[str, Any], folder: Path) -> Finding:
    """Return whether the node sees the folder of clusters."""
    if said["file_seen"]:
        return ok("shared folder", f"{said['host']} sees {folder}.", folder=str(folder))
    return fail(
        "shared folder",
        f"{said['host']} does not see the files in {folder} ({said['why']}): engines find the "
        "controller by them.",
        "Set MPIPARALLEL_STATE to a folder on a disk that nodes share.",
        folder=str(folder),
    )


def port(said: Mapping[str, Any], context: Context) -> Finding:
    """Return whether the node has reached a port of this host."""
    here, tried = socket.gethostname(), dict(said["tried"])
    reached = [address for address, how in tried.items() if how == "reached"]
    facts = {"tried": tried, "from": said["host"], "to": here}
    if reached:
        first, _, _ = reached[0].rpartition(":")
        return ok("port", f"{said['host']} reaches this host, {here}, at {first}.", **facts)
    if context.options.controller != "mpi":
        words = f"{said['host']} does not reach {here}; the controller runs in the job, so it need not."
        return ok("port", words, **facts)
    each = "\n".join(f"{address}: {how}" for address, how in tried.items())
    each = each or "nothing: this host has no address but loopback"
    return fail(
        "port",
        f"{said['host']} does not reach this host, {here}, so that engines there cannot find a controller "
        "here. "
        f"Tried:\n{each}",
        "Name the address of the network that nodes share (--ip, setting `controller_ip`), have a port "
        "let through "
        'the firewall (`controller_port`), or run the controller inside the job (controller = "slurm").',
        **facts,
    )


def ranks_by_srun(context: Context, job: Allocation) -> Iterator[Finding]:
    """Yield whether ranks that srun starts meet."""
    if not context.library or context.options.srun_mpi == "none":
        return
    vendor = str(context.library["vendor"])
    there = pmi.parse_list(run(["srun", "--mpi=list"], context.within(ASK), context.environ).text)
    first, *others = ways(vendor, there, context.options.srun_mpi) or [""]
    if not first:
        return
    program = [context.python, *mpi.HELLO]
    done = srun(context, job, mpi.RANKS, first, program, MEET)
    verdict = mpi.judge(done, f"srun --mpi={first}", "")
    if verdict.good:
        yield ok("ranks by srun", f"{verdict.words} ({done.seconds:.1f} s).", srun_mpi=first)
        return
    good = ""
    for other in others:
        if not good and context.within(MEET) > 2.0:
            again = srun(context, job, mpi.RANKS, other, program, MEET / 2)
            good = other if mpi.judge(again, "", "").good else ""
    if good:
        remedy = f'srun --mpi={good} works: write srun_mpi = "{good}" into the profile.'
    else:
        remedy = (
            'Let mpiexec start ranks in jobs: srun_mpi = "none" in the profile. srun knows '
            f"{', '.join(there)}; "
            f"{vendor} wants {'pmix' if vendor == 'Open MPI' else 'pmi2'}."
        )
    yield fail("ranks by srun", verdict.words, remedy, srun_mpi=first, works=good)


def ranks_by_mpiexec(context: Context, job: Allocation) -> Iterator[Finding]:
    """Yield whether ranks that mpiexec starts over the nodes of the job meet."""
    if not context.library:
        return
    try:
        which = mpi.find(context)
    except LaunchError:
        return  # which has been told of already
    # Over the nodes, where there are two; Open MPI would fill the first one.
    spread = {"PRTE_MCA_rmaps_default_mapping_policy": "node:oversubscribe"}
    command, environ = mpi.hello_command(context, which, {**job.environ, **spread})
    done = run(command, context.within(MEET), environ, mpiexec=True)
    verdict = mpi.judge(done, "mpiexec in a job", mpi.mpiexec_remedy(done, context.library, which))
    name = "ranks in a job"
    if verdict.good:
        yield ok(name, f"{verdict.words} ({done.seconds:.1f} s).", command=command)
    else:
        yield fail(name, verdict.words, verdict.remedy, command=command)
