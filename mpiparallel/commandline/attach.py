"""``mpiparallel attach``: keep a tunnel to a cluster on another machine, for all programs here.

While it runs, a connection file here leads through the tunnel, so that clients find the cluster like one of
this machine. In it this process stands for the controller: when it has ended, nobody takes the file for one
of a cluster that runs.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mpiparallel.commandline import arguments, clusters, exits
from mpiparallel.commandline.printing import fail, n_engines, say
from mpiparallel.config import Config

if TYPE_CHECKING:
    from mpiparallel.client.tunnel import Tunnel, Way

EXAMPLES = """\
  mpiparallel attach me@login                        my cluster on that machine
  mpiparallel attach me@login:1234                   the one in batch job 1234, in the job itself, too
  mpiparallel attach --wait me@login:1234            ... as soon as it runs
  mpiparallel attach me@login --profile hpc          that of a profile there
  mpiparallel attach me@login --ipython              and an IPython shell with it, here

While it runs, ipp.Client() finds the cluster from any program of this machine.
"""
LOOK = 15.0  # seconds from one look at the controller to the next
WATCH = 1.0  # ... at ssh
PAUSES = (1.0, 2.0, 5.0, 10.0)  # ... between attempts to open the tunnel again
JOB_PAUSE = 5.0  # ... from one question about a job that waits to the next


def add(subcommands: arguments.Subcommands) -> None:
    """Add the parser."""
    parser = arguments.new_parser(
        subcommands,
        "attach",
        description="Log in to another machine by ssh, look up a cluster there, and keep a tunnel to its "
        "controller until Ctrl-C; the cluster goes on. Names, keys and jumps are those of ~/.ssh/config. In "
        "a terminal, ssh may ask for a password or a code. A tunnel that drops is opened again.",
        examples=EXAMPLES,
    )
    parser.add_argument("host", metavar="[USER@]HOST[:JOB]", help="as for ssh; the batch job of the cluster")
    parser.add_argument("--profile", help="the cluster's profile, over there (default)")
    parser.add_argument("--cluster-id", help="the cluster's id within the profile, over there (none)")
    parser.add_argument("--file", default="", help="its connection file, or its folder, over there")
    parser.add_argument("--name", default="", help="the cluster id that it gets here (HOST or HOST-JOB)")
    parser.add_argument("--key", default="", metavar="FILE", help="a key for ssh")
    parser.add_argument(
        "--ssh-args", action="append", default=[], metavar="ARG", help="an argument for ssh; repeat for more"
    )
    parser.add_argument("--wait", action="store_true", help="wait for a job that is in the queue")
    parser.add_argument("--ipython", action="store_true", help="run IPython with it, and end with that")


def split(text: str) -> tuple[str, str]:
    """Return destination and job of ``[user@]host[:job]`` or ``ssh://[user@]host[:port][/job]``.

    Raises
    ------
    ValueError
        If it is neither.
    """
    from mpiparallel.client import remote, sshcommand

    if text.startswith("ssh://"):
        host, _, job = text.removeprefix("ssh://").partition("/")
        return sshcommand.checked(f"ssh://{host}", "host"), remote.job_name(job or None)
    if text.count(":") > 1:  # an address of IPv6
        return sshcommand.checked(text, "host"), ""
    host, _, job = text.partition(":")
    return sshcommand.checked(host, "host"), remote.job_name(job or None)


def local_name(destination: str, job: str) -> str:
    """Return the id for a cluster here: the host's name, and the job."""
    host = destination.removeprefix("ssh://").rpartition("@")[2]
    host = re.sub(r":\d+$", "", host)
    return "-".join(filter(None, [re.sub(r"[^\w.-]", "-", host).strip("-.") or "host", job]))


def run(options: argparse.Namespace, config: Config) -> int:
    """Attach to a cluster; stay until Ctrl-C, or until the cluster ends."""
    from mpiparallel import cluster_file as files
    from mpiparallel.client.remote import Wanted
    from mpiparallel.client.tunnel import Tunnel

    destination, job = split(options.host)
    if job and (options.file or options.profile or options.cluster_id):
        return fail("a job names the cluster: leave out --file, --profile and --cluster-id", exits.USAGE)
    folder = config.cluster_dir(config.profile, options.name or local_name(destination, job))
    tunnel = Tunnel(
        destination,
        Wanted(options.file, options.profile or "", options.cluster_id, job),
        config,
        key=os.path.expanduser(options.key),
        arguments=options.ssh_args,
        ask=somebody_is_there(),
    )
    with clusters.signals_interrupt():
        try:
            way = open_first(tunnel, options.wait)
            _claim(folder)
            try:
                return stay(tunnel, way, folder, options)
            finally:
                files.remove(folder)
        finally:
            tunnel.close()


def _claim(folder: Path) -> None:
    from mpiparallel import cluster_file as files

    try:
        files.claim(folder)
    except files.AlreadyRunning:
        name = files.names(folder)[1]
        raise files.AlreadyRunning(
            f"a cluster of that name runs already, or is attached: ipp.Client(cluster_id={name!r}) finds it; "
            "--name gives this one another name"
        ) from None


def somebody_is_there() -> bool:
    """Whether ssh may ask in the terminal: in the background, reading from there would stop us."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:  # it is a terminal, but not ours
        return False


def open_first(tunnel: Tunnel, wait: bool) -> Way:
    """Open the tunnel; with `wait`, when the job has begun."""
    from mpiparallel.client.remote import JobWaits
    from mpiparallel.client.tunnel import ASKED, TIME

    told = ""
    while True:
        try:
            return tunnel.open(ASKED + TIME if somebody_is_there() else TIME, 10.0)
        except JobWaits as error:
            if not wait:
                raise
            words = str(error).partition(": there is")[0]
            if words != told:
                told = words
                say(f"{words}; waiting for it")
            time.sleep(JOB_PAUSE)


def stay(tunnel: Tunnel, way: Way, folder: Path, options: argparse.Namespace) -> int:
    """Keep the tunnel, and a connection file here that leads through it."""
    from mpiparallel.client.client import Client

    path = write(folder, way)
    with Client(str(path)) as client:
        engines = n_engines(len(client.ids))
    names = {"cluster_id": folder.name.partition("-")[2]}
    if folder.parent.name != "default":
        names["profile"] = folder.parent.name
    connect = "ipp.Client(" + ", ".join(f"{name}={value!r}" for name, value in names.items()) + ")"
    where = f"job {way.info.job} on {way.info.host}" if way.info.job else way.info.host
    say(f"Attached through {tunnel.destination} to the cluster of {tunnel.file} ({where}), {engines}.")
    say(f"Connect by: {connect}")
    keeper = Keeper(tunnel, way, folder)
    if not options.ipython:
        say("Press Ctrl-C to detach; the cluster goes on.")
        try:
            return keeper.run(time.sleep)
        except KeyboardInterrupt:
            say("detached")
            return exits.DONE
    return shell(keeper, path, connect)


def write(folder: Path, way: Way) -> Path:
    """Write the connection file for clients here, and return its path."""
    import msgspec

    from mpiparallel import connection_file

    info = msgspec.structs.replace(
        way.info, host=socket.gethostname(), pid=os.getpid(), addresses=[way.address], local=""
    )
    path = folder / connection_file.NAMES["client"]
    connection_file.write(path, info)
    return path


class Keeper:
    """Keeps a tunnel open, and the connection file true."""

    def __init__(self, tunnel: Tunnel, way: Way, folder: Path) -> None:
        self._tunnel = tunnel
        self._way = way
        self._folder = folder
        self._attempts = 0  # in vain, since the controller was last reached
        self._told = ""
        self._next = time.monotonic() + LOOK

    def run(self, sleep: Callable[[float], object]) -> int:
        """Go on until the cluster has ended; return the exit code. `sleep` may raise to end this earlier."""
        from mpiparallel.client.remote import ClusterEnded

        while True:
            sleep(WATCH)
            try:
                self.look(time.monotonic())
            except ClusterEnded as error:
                say(f"The cluster has ended: {error}")
                return exits.DONE

    def look(self, now: float) -> None:
        """See whether the tunnel leads to the controller, and open it again if not."""
        from mpiparallel.client.remote import ClusterEnded

        down = self._tunnel.down
        if now < self._next and (self._attempts or not down):
            return
        if down and not self._told:
            self._tell(down)
        try:
            way = self._tunnel.open()
        except ClusterEnded:
            raise
        except OSError as error:  # TunnelError and ConnectionFileError are
            self._tell(str(error))
            self._next = time.monotonic() + PAUSES[min(self._attempts, len(PAUSES) - 1)]
            self._attempts += 1
            return
        if way != self._way:
            self._way = way
            write(self._folder, way)
        if self._told:
            say("The tunnel is open again.")
        self._told, self._attempts = "", 0
        self._next = time.monotonic() + LOOK

    def _tell(self, trouble: str) -> None:
        if trouble != self._told:
            self._told = trouble
            say(f"{trouble} Trying again.")


def shell(keeper: Keeper, path: Path, connect: str) -> int:
    """Run IPython with a client, while the tunnel is kept in a thread."""
    import IPython

    import mpiparallel
    from mpiparallel.client.client import Client

    class Over(Exception):
        """The shell has ended."""

    ended = threading.Event()

    def sleep(seconds: float) -> None:
        if ended.wait(seconds):
            raise Over

    def keep() -> None:
        try:
            keeper.run(sleep)
        except Over:
            pass

    thread = threading.Thread(target=keep, name="mpiparallel-attach", daemon=True)
    thread.start()
    try:
        with Client(str(path)) as client:
            names = {"ipp": mpiparallel, "rc": client}
            if client.ids:
                names["view"] = client[:]
            say(f"In IPython: {', '.join(names)}; rc = {connect}")
            IPython.start_ipython(argv=[], user_ns=names)
    finally:
        ended.set()
        thread.join(5.0)
    return exits.DONE
