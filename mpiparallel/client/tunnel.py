"""A tunnel through ssh: one more way to reach a controller, that of a cluster on the other side.

OpenSSH's own ssh logs in to the host. There the connection file is looked up, and one port of this host is
forwarded to the controller, from that host or, if it cannot be reached from there, from the host that the
controller runs on, behind the first. `Tunnel.open` does all this, as often as it is needed: when the
connection was lost it starts ssh again if that has ended, reads the file again, and tries the addresses anew.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import NamedTuple
from urllib.parse import urlsplit

from mpiparallel import connection_file, resources
from mpiparallel.client import remote, sshcommand
from mpiparallel.client.remote import Found, NotSeen, Wanted
from mpiparallel.client.sshmaster import Master
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.error import TunnelError

TIME = 27.0  # seconds for all of it: less than half a minute, with the words about what was wrong
LOGIN, ANSWER, PROBE = 15.0, 10.0, 5.0  # ... for its steps
ASKED = 120.0  # ... for somebody to type a password
BETWEEN = 0.5  # ... from one question to the next

class Way(NamedTuple):
    """A controller, and the address by which it is reached from here."""

    info: ConnectionInfo
    address: str


class Tunnel:
    """A way through ssh to one controller.

    Parameters
    ----------
    destination
        As for the command ssh: ``[user@]host``, a name of ``~/.ssh/config``, ``ssh://user@host:port``.
    wanted
        Which cluster on that host; or its connection info, if that is known here.
    key
        A file with a key for ssh.
    arguments
        More for ssh.
    ask
        Whether ssh may ask for passwords in the terminal.
    port
        The port of this host, if it is free.
    """

    def __init__(
        self,
        destination: str,
        wanted: Wanted | ConnectionInfo,
        config: Config,
        *,
        key: str = "",
        arguments: Sequence[str] = (),
        ask: bool = False,
        port: int = 0,
    ) -> None:
        self.destination = destination
        self._wanted = wanted
        self._script = resources.script("launchers", "lookup.sh", config).read_text()
        self._key, self._arguments, self._ask = key, arguments, ask
        self._port = port
        self._login = Master(destination, key=key, arguments=arguments, ask=ask)
        self._inner: Master | None = None  # logged in to the controller's own host
        self._end: Master | None = None  # the one of the two that forwards
        self._file: tuple[Master, Wanted] | None = None  # where the connection file was found
        self._good = ""  # the address that has led to the controller
        self._way: Way | None = None
        self._opening = threading.Lock()
        self._closed = False
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Tunnel through {self.destination} to {self._wanted}>"

    @property
    def down(self) -> str:
        """Why the tunnel is down, in ssh's words; empty if it is not, as far as ssh knows."""
        for master in (self._login, self._end):
            if master is not None and not master.alive:
                return f"The tunnel to {self.destination} is down: {master.trouble()}."
        return ""

    def open(self, timeout: float = TIME, patience: float = 0.0) -> Way:
        """Return the controller and a local address that leads to it, at which it has answered.

        Parameters
        ----------
        timeout
            Seconds for all of it.
        patience
            ... of these for the connection file of a job that has begun to appear.

        Raises
        ------
        TunnelError
            If that is not possible; the message says why, and what to do. `remote.ClusterEnded` if its
            connection file was removed, as it is when a cluster is stopped.
        ConnectionFileError
            If the connection file is none, or not safe.
        """
        with self._opening:
            deadline = time.monotonic() + timeout
            self._start(self._login, deadline)
            info, host = self._look(deadline, time.monotonic() + patience)
            if self._way is not None and self._way.info == info and self._still_leads(deadline):
                return self._way
            self._way = None
            address = self._lead(info, host, deadline)
            self._way = Way(info, address)
            return self._way

    @property
    def file(self) -> str:
        """The path of the connection file, on the other side."""
        return self._file[1].file if self._file is not None else ""

    def begin(self, timeout: float = TIME) -> Future[Way]:
        """Open it in a thread; the future has what `open` returns or raises."""
        future: Future[Way] = Future()

        def attempt() -> None:
            try:
                future.set_result(self.open(timeout))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=attempt, name="mpiparallel-tunnel", daemon=True).start()
        return future

    def close(self) -> None:
        """Log out, for good. Calling it again, or in a forked child, does nothing."""
        if os.getpid() != self._pid:
            return
        self._closed = True
        for master in (self._inner, self._login):
            if master is not None:
                master.stop()

    # ------------------------------------------------------------ the steps

    def _start(self, master: Master, deadline: float) -> None:
        master.start(min(deadline, time.monotonic() + (ASKED if self._ask else LOGIN)))

    def _look(self, deadline: float, patient_until: float) -> tuple[ConnectionInfo, str | None]:
        """Return the connection info, and the name that the first host has for itself.

        It is None where that host was not asked, and empty where another one has given the answer.
        """
        if isinstance(self._wanted, ConnectionInfo):
            return self._wanted, None
        if self._file is not None:
            master, wanted = self._file
            self._start(master, deadline)
            answer, found = self._ask_for(wanted, master, deadline)
        else:
            master = self._login
            while True:
                try:
                    answer, found = self._ask_for(self._wanted, master, deadline)
                    break
                except NotSeen as unseen:
                    if master is not self._login:
                        raise
                    if time.monotonic() < patient_until:
                        time.sleep(BETWEEN)
                    else:
                        master = self._behind(unseen, deadline)
        info = found.info(master.destination)
        self._file = master, Wanted(found.path, job=info.job)
        return info, answer.host if master is self._login else ""

    def _ask_for(self, wanted: Wanted, master: Master, deadline: float) -> tuple[remote.Answer, Found]:
        mark = f"mpiparallel-{secrets.token_hex(8)}"
        text = master.ask(
            remote.question(self._script, mark, wanted), min(ANSWER, deadline - time.monotonic())
        )
        answer = remote.parse(text, mark, master.destination)
        return answer, remote.choose(answer, wanted, master.destination)

    def _behind(self, unseen: NotSeen, deadline: float) -> Master:
        """Log in to a job's host: its connection file may be on a disk of that host's own."""
        if not unseen.host:
            raise unseen
        try:
            return self._hop(unseen.host, deadline)
        except TunnelError as error:
            raise TunnelError(f"{unseen} Nor can it be looked for on {unseen.host}: {error}") from None

    def _hop(self, host: str, deadline: float) -> Master:
        """Return a master on a host behind the first, logged in."""
        if self._inner is None or self._inner.destination != host:
            if self._inner is not None:
                self._inner.stop()
            user, _, _ = self.destination.removeprefix("ssh://").rpartition("@")
            self._inner = Master(
                host,
                key=self._key,
                arguments=self._arguments,
                ask=self._ask,
                before=self._login,
                user=user,
            )
            if self._closed:
                self._inner.stop()
        self._start(self._inner, deadline)
        return self._inner

    def _still_leads(self, deadline: float) -> bool:
        """Whether what was forwarded before leads to a controller yet."""
        assert self._way is not None
        master = self._end
        port = urlsplit(self._way.address).port or 0
        return (
            master is not None
            and master.alive
            and master.forwards(port)
            and not master.probe(port, min(PROBE, deadline - time.monotonic()))
        )

    def _lead(self, info: ConnectionInfo, host: str | None, deadline: float) -> str:
        """Forward a port to the controller, and return its address here."""
        addresses = list(info.addresses) if host is None else remote.candidates(info, host)
        problems: list[str] = []
        address = self._try_all(self._login, addresses, problems, deadline)
        if address is None and info.host != host and deadline - time.monotonic() > 1.0:
            inside = remote.candidates(info, info.host)
            try:
                address = self._try_all(self._hop(info.host, deadline), inside, problems, deadline)
            except TunnelError as error:
                problems.append(f"from {info.host} itself: {error}")
        if address is not None:
            return address
        tried = "; ".join(problems) or "it listens on no address that can be reached from there"
        if sshcommand.NO_FORWARDS in tried:
            remedy = "Come through a host that forwards ports, or ask the site to allow it"
        else:
            remedy = "If it runs, start it with an address that can be reached from there (--ip '*')"
        raise TunnelError(
            f"no controller answers on {info.host} (process {info.pid}) behind {self.destination}: {tried}. "
            f"{remedy}."
        )

    def _try_all(
        self, master: Master, addresses: list[str], problems: list[str], deadline: float
    ) -> str | None:
        # The one that was good before comes first.
        for address in sorted(addresses, key=lambda address: address != self._good):
            place = urlsplit(address)
            port = master.forward(place.hostname or "", place.port or 0, self._port)
            problem = master.probe(port, min(PROBE, max(0.5, deadline - time.monotonic())))
            if not problem:
                self._good, self._end, self._port = address, master, port
                return f"tcp://127.0.0.1:{port}"
            master.cancel(port)
            problems.append(f"{address} from {master.destination}: {problem}")
        return None


def wanted_by(
    source: object, profile: str | None = None, cluster_id: str | None = None, job: object = None
) -> Wanted | ConnectionInfo:
    """Return which cluster of another host is meant.

    Raises
    ------
    TypeError
        If `source` is neither a path nor connection info.
    """
    if isinstance(source, ConnectionInfo):
        return source
    if isinstance(source, Mapping):
        return connection_file.parse(json.dumps(dict(source)))
    if source is None:
        return Wanted("", profile or "", cluster_id, remote.job_name(job))
    if isinstance(source, (str, os.PathLike)):
        return Wanted(os.fspath(source))
    raise TypeError(f"a client needs the path of a connection file, or its content, not {source!r}")

