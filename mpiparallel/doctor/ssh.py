"""ssh: the program, its keys, and a host that can be named."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mpiparallel import __version__, resources
from mpiparallel.doctor import mpi
from mpiparallel.doctor.bounded import Run, run
from mpiparallel.doctor.finding import Context, Finding, fail, ok, skip, warn
from mpiparallel.launch import argv, templates
from mpiparallel.launch.local import runner

PATIENCE = 20.0  # seconds for a host to answer
MEET = 25.0  # ... for two ranks there to meet
_MARK = "mpiparallel-version:"


def check_ssh(context: Context) -> Iterator[Finding]:
    """Yield whether ssh is there and in order, and whether `host` lets us in without a question."""
    program = shutil.which("ssh", path=context.environ.get("PATH", os.defpath))
    host = context.options.host
    if program is None:
        words = "There is no ssh on the PATH."
        remedy = "Install OpenSSH's client (apt install openssh-client)."
        yield fail("ssh", words, remedy) if host else skip("ssh", words)
        return
    home = Path(context.environ.get("HOME") or "~").expanduser()
    yield keys(program, home / ".ssh")
    if host:
        yield from other_side(context, program, host)


def keys(program: str, folder: Path) -> Finding:
    """Return whether the files of ssh are ours alone, as ssh itself demands."""
    if not folder.is_dir():
        return ok("ssh", f"{program}; there is no {folder} yet, and no key.", program=program)
    loose = stat.S_IWGRP | stat.S_IWOTH
    if folder.stat().st_mode & loose:
        return fail("ssh", f"Others may write to {folder}: ssh does not use it then.", f"chmod 700 {folder}")
    private = [path for path in sorted(folder.glob("id_*")) if path.suffix != ".pub" and path.is_file()]
    for path in private:
        if path.stat().st_mode & 0o077:
            words = f"Others can read the key {path}: ssh does not use it then."
            return fail("ssh", words, f"chmod 600 {path}")
    config = folder / "config"
    if config.exists() and config.stat().st_mode & loose:
        return fail("ssh", f"Others may write to {config}: ssh refuses to run then.", f"chmod 600 {config}")
    names = ", ".join(path.name for path in private) or "no key of its own"
    agent = "an agent runs" if os.environ.get("SSH_AUTH_SOCK") else "no agent runs"
    return ok("ssh", f"{program}, {names}; {agent}.", program=program, keys=[path.name for path in private])


def other_side(context: Context, program: str, host: str) -> Iterator[Finding]:
    """Yield whether a host lets us in, by the site's own script, and which version is there."""
    name = "ssh host"
    script = resources.script("launchers", "ssh.sh", context.config)
    command = [*runner(script), *context.options.ssh_args, host]
    there = pythons(context)
    done = run([*command, in_shell(context, question(there))], context.within(PATIENCE), context.environ)
    facts = {"host": host, "said": done.last_words()}
    if f"{_MARK}in" not in done.text:
        words = f"{host} does not let us in: ssh {done.end}. It said:\n{done.last_words()}"
        yield fail(name, words, advice(done, host), **facts)
        return
    found = [line.removeprefix(_MARK) for line in done.text.splitlines() if line.startswith(_MARK)]
    version, _, python = next((one for one in found if one != "in"), "").partition(" ")
    used = "ssh" in (context.options.engines, context.options.controller)
    if not version:
        words = f"{host} lets us in, but has no mpiparallel (tried: {', '.join(there)})."
        remedy = f"To start engines there, install it on {host}, and name its Python by the setting `python`."
        remedy += "" if used else " A client needs nothing there."
        yield (fail if used else warn)(name, words, remedy, **facts)
    elif version != __version__:
        yield warn(
            name,
            f"{host} has mpiparallel {version}, this host {__version__}: they may misunderstand one another.",
            "Install the same version on both sides.",
            version=version,
            **facts,
        )
    else:
        words = f"{host} lets us in, and has mpiparallel {version} as this host does ({python})."
        yield ok(name, words, version=version, python=python, **facts)
        yield from ranks_there(context, command, python)


def pythons(context: Context) -> list[str]:
    """Return the Pythons that may be meant on another host."""
    return [context.options.python] if context.options.python else [sys.executable, "python3"]


def question(there: Sequence[str]) -> str:
    """Return lines of shell that say the first of these Pythons that has mpiparallel."""
    asked = f'import mpiparallel; print("{_MARK}" + mpiparallel.__version__, end=" ")'
    names = " ".join(map(shlex.quote, there))
    ask = f'"$python" -c \'{asked}\' && echo "$python" && break'
    return f"for python in {names}; do\n{ask}\ndone"


def in_shell(context: Context, lines: str) -> str:
    """Return what runs these lines on another host as engines are run: with the profile's modules."""
    options = context.options
    first = [templates.loads(options.modules), *options.setup]
    program = "\n".join(line for line in [f"echo {_MARK}in", *first, lines] if line)
    return f"exec bash -lc {shlex.quote(program)}" if any(first) else f"exec sh -c {shlex.quote(program)}"


def ranks_there(context: Context, command: list[str], python: str) -> Iterator[Finding]:
    """Yield whether ranks that mpiexec starts on that host meet."""
    there = argv.world_environment({}, argv.MPI(""), n=mpi.RANKS, cores=1, root=True)
    words = [f"{name}={shlex.quote(value)}" for name, value in there.items() if value and "LOG" not in name]
    beside = f'PATH={shlex.quote(os.path.dirname(python))}:"$PATH" ' if "/" in python else ""
    program = shlex.join([context.options.mpiexec or "mpiexec", *context.options.mpi_args])
    program += f" -n {mpi.RANKS} {shlex.join([python, *mpi.HELLO])}"
    asked = in_shell(context, f"export {' '.join(words)}; {beside}{program}")
    done = run([*command, asked], context.within(MEET), context.environ)
    verdict = mpi.judge(done, "mpiexec there", mpi.mpiexec_remedy(done, {}, argv.MPI(program.split()[0])))
    if verdict.good:
        yield ok("ranks by ssh", f"{verdict.words} ({done.seconds:.1f} s).", command=asked)
    else:
        yield fail("ranks by ssh", verdict.words, verdict.remedy, command=asked)


def advice(done: Run, host: str) -> str:
    """Return what to do about a host that does not let us in, by what ssh said."""
    text = done.text
    if "Host key verification failed" in text or "authenticity of host" in text:
        return f"Connect once by hand and accept the host's key: ssh {host}"
    if "Permission denied" in text:
        return (
            f"Give it your key: ssh-keygen (if you have none), then ssh-copy-id {host}. A key with a "
            "passphrase needs an agent: eval $(ssh-agent); ssh-add. For one-time passwords, open a shared "
            "connection first (ControlMaster in ~/.ssh/config)."
        )
    if "Could not resolve" in text:
        return f"There is no host of this name: correct it, or describe it in ~/.ssh/config (Host {host}...)."
    if "Connection refused" in text:
        return "No ssh server listens there: is it the right host and port (Port in ~/.ssh/config)?"
    if done.code is None or "timed out" in text or "No route" in text:
        return (
            "It does not answer: are you in the right network (VPN)? Is there a host to jump over "
            "(ProxyJump)?"
        )
    return f"Try it by hand until it works without a question: ssh {host} true"
