"""Look for a controller that was lost: it may be started again, at another address and with another key.

Used by `iothread`, in its thread. Through a tunnel, the looking itself is done in a thread of its own, as ssh
takes its time.
"""

from __future__ import annotations

import logging
import socket
from concurrent.futures import Future
from pathlib import Path

from mpiparallel import connection_file
from mpiparallel.client.remote import ClusterEnded
from mpiparallel.client.transport import Transport, is_running, open_transport
from mpiparallel.client.tunnel import Tunnel, Way
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.error import ConnectionFileError

PAUSE = 0.2  # seconds between attempts
LONG_PAUSE = 5.0  # ... that each ask another host to let us in
PATIENCE = 5.0  # ... for a welcome
QUIET = 0.5  # a connection that is back by then is not worth a word
REACH = 1.0  # seconds for an address to accept a connection
ADVICE = "Connections have been closed. Start a cluster and create a new Client."
BROKEN = "The connection to the controller broke."

log = logging.getLogger("mpiparallel")


def gone(info: ConnectionInfo) -> str:
    """Return the words for a controller whose process has died."""
    return f"The controller (process {info.pid} on {info.host}) is gone: it ended without a word."


class Search:
    """The attempts to find one controller.

    Parameters
    ----------
    info, path
        Where it was, and the file that said so, if it was a file: it is read again.
    reason
        Why it is lost.
    patience
        For how many seconds it is looked for.
    now
        The time by a monotonic clock, as everywhere below.
    """

    def __init__(
        self, info: ConnectionInfo, path: Path | None, reason: str, patience: float, now: float
    ) -> None:
        self._info = info
        self._path = path
        self.reason = reason
        self._patience = patience
        self._began = now
        self._next = now
        self._told = False
        self._attempt_until = now  # when to stop waiting for a welcome

    def over(self, now: float) -> str | None:
        """Return why there is no point in going on, if so; tell the person what is going on, once."""
        if self.reason == BROKEN and self._is_dead(self._info):
            self.reason = gone(self._info)
        if self._path is not None and not self._path.exists():
            return f"{self.reason} Its connection file {self._path} was removed. {ADVICE}"
        if now - self._began > self._patience:
            return f"{self.reason} None has answered for {self._patience:g} s. {ADVICE}"
        if not self._told and now - self._began > QUIET:
            self._told = True
            log.warning(
                "%s What is pending waits until it is back, for %g s at most.",
                self.reason,
                self._patience,
            )
        return None

    def wait_on(self, now: float) -> None:
        """Be patient from now on: the controller waits for its job to run again."""
        self._began = now

    def open(self, now: float) -> tuple[ConnectionInfo, Transport] | None:
        """Return a new socket, on its way to where the controller is now, if it seems to be anywhere."""
        if now < self._next:
            return None
        self._next = now + PAUSE
        info = self._info
        if self._path is not None:
            try:
                info = connection_file.read(self._path)
            except (
                ConnectionFileError
            ):  # removed at this moment, or not yet ours: `over` and the next time see
                return None
            if self._is_dead(info):
                return None
        try:
            transport = open_transport(info, REACH)
        except OSError:
            return None
        self._attempt_until = now + PATIENCE
        return info, transport

    def in_vain(self, info: ConnectionInfo, now: float) -> bool:
        """Whether to give up the attempt with `info`: it takes long, or the controller is elsewhere."""
        if now > self._attempt_until:
            return True
        if self._path is None or now < self._next:
            return False
        self._next = now + PAUSE
        try:
            return self._is_dead(info) or connection_file.read(self._path) != info
        except ConnectionFileError:
            return False

    def failed(self, now: float) -> None:
        """Note that the last attempt has led to nothing."""
        self._next = now + PAUSE

    def found(self, info: ConnectionInfo, pending: int) -> None:
        """Say that the controller is back, to somebody who was told that it was lost."""
        if self._told:
            log.warning(
                "The controller on %s is back; %d pending requests were sent again.", info.host, pending
            )

    @staticmethod
    def _is_dead(info: ConnectionInfo) -> bool:
        return info.host == socket.gethostname() and not is_running(info.pid)


class TunnelSearch(Search):
    """The attempts to find a controller behind a tunnel, which is opened again when it is down.

    Parameters
    ----------
    tunnel
        The way to it.
    info, reason, patience, now
        As above.
    """

    def __init__(
        self, info: ConnectionInfo, tunnel: Tunnel, reason: str, patience: float, now: float
    ) -> None:
        super().__init__(info, None, reason, patience, now)
        self._tunnel = tunnel
        self._attempt: Future[Way] | None = None
        self._trouble = ""  # what was wrong the last time
        self._pause = PAUSE

    def over(self, now: float) -> str | None:
        """Return why there is no point in going on, if so; tell the person what is going on."""
        done = self._attempt is not None and self._attempt.done()
        problem = self._attempt.exception() if done and self._attempt is not None else None
        if isinstance(problem, ClusterEnded):
            return f"{self.reason} {problem} {ADVICE}"
        if self.reason == BROKEN:
            self.reason = self._tunnel.down or self.reason
        if now - self._began > self._patience:
            last = f" The last trouble was: {self._trouble}" if self._trouble else ""
            return f"{self.reason} No controller has answered for {self._patience:g} s.{last} {ADVICE}"
        if not self._told and now - self._began > QUIET:
            self._told = True
            log.warning(
                "%s Trying again; what is pending waits until it is back, for %g s at most.",
                self.reason,
                self._patience,
            )
        return None

    def open(self, now: float) -> tuple[ConnectionInfo, Transport] | None:
        """Return a new socket, if the tunnel has led to a controller."""
        if self._attempt is None:
            if now >= self._next:
                self._attempt = self._tunnel.begin()
            return None
        if not self._attempt.done():
            return None
        attempt, self._attempt = self._attempt, None
        problem = attempt.exception()
        if problem is None:
            self._pause = PAUSE
            self._attempt_until = now + PATIENCE
            info, address = attempt.result()
            return info, open_transport(info, REACH, address)
        if not isinstance(problem, OSError):  # TunnelError and ConnectionFileError are
            raise problem
        self._pause = min(2 * self._pause, LONG_PAUSE)
        self._next = now + self._pause
        if str(problem) != self._trouble:
            self._trouble = str(problem)
            if self._told:
                log.warning("%s Trying again.", self._trouble)
        return None

    def in_vain(self, info: ConnectionInfo, now: float) -> bool:
        """Whether to give up the attempt: it takes long."""
        return now > self._attempt_until
