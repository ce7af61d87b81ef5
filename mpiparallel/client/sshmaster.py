"""One ssh process that is logged in to a host, for what is asked of that host. Used by `tunnel`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from mpiparallel.client import sshcommand
from mpiparallel.error import TunnelError

MAX_CONTROL_PATH = 80  # bytes; ssh adds 17 while it makes the socket, and has 104 or 108
PREFIX = "mpi-ssh-"
PAUSE = 0.02


class Master:
    """An ssh that stays logged in, from `start` to `stop`.

    Parameters
    ----------
    destination
        As for the command ssh.
    key, arguments
        As in `sshcommand.master`.
    ask
        Whether it may ask for passwords in the terminal.
    before
        The master through which this host is reached, if it is behind another one.
    """

    def __init__(
        self,
        destination: str,
        *,
        key: str = "",
        arguments: Sequence[str] = (),
        ask: bool = False,
        before: Master | None = None,
        user: str = "",
    ) -> None:
        self.destination = destination
        self.name = destination if before is None else f"-J {before.destination} {destination}"
        self._key, self._arguments, self._ask, self._user = key, arguments, ask, user
        self._before = before
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None
        self._stopped = False
        self._lock = threading.Lock()  # over the start and the end of the process
        self._forwarded: dict[int, tuple[str, int]] = {}

    @property
    def alive(self) -> bool:
        """Whether it is logged in, as far as ssh knows."""
        process = self._process
        return process is not None and process.poll() is None

    @property
    def _control(self) -> Path:
        assert self._folder is not None
        return self._folder / "control"

    def start(self, deadline: float) -> None:
        """Log in, unless it is.

        Raises
        ------
        TunnelError
            If that fails, or takes longer than until `deadline` (of the monotonic clock).
        """
        if self.alive:
            return
        self._spawn()
        while not self._control.exists():
            if not self.alive:
                raise TunnelError(sshcommand.explain(self._words(), self.destination, self.name))
            if time.monotonic() > deadline:
                words = sshcommand.said(self._words())
                self._end()
                raise TunnelError(
                    f"ssh did not log in to {self.destination} in time"
                    f"{f' ({words})' if words else ''}. See what this does: ssh {self.name}"
                )
            time.sleep(PAUSE)

    def _spawn(self) -> None:
        self._end()
        if shutil.which("ssh") is None:
            raise TunnelError(sshcommand.INSTALL)
        with self._lock:
            if self._stopped:
                raise TunnelError(f"the tunnel to {self.destination} was closed")
            self._folder = _folder()
            command = sshcommand.master(
                self.destination,
                self._control,
                key=self._key,
                arguments=self._arguments,
                proxy=sshcommand.proxy(self._before._control) if self._before is not None else (),
                user=self._user,
                ask=self._ask,
            )
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed in _end
            self._forwarded.clear()
            self._process = subprocess.Popen(
                sshcommand.guarded(self._folder, command),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                # Without a terminal nothing can ask, and no signal of the terminal gets there.
                start_new_session=not self._ask,
            )

    def _words(self) -> str:
        """Return what ssh has said on stderr since it started."""
        with self._lock:
            if self._stderr is None:
                return ""
            size = os.fstat(self._stderr.fileno()).st_size
            text = os.pread(self._stderr.fileno(), 1 << 16, max(0, size - (1 << 16)))
        return text.decode(errors="replace")

    def trouble(self) -> str:
        """Return why it is not logged in any more, in ssh's words."""
        return sshcommand.said(self._words()) or "ssh has ended"

    def ask(self, text: str, timeout: float) -> str:
        """Have a plain shell on the host run `text`, and return what it prints.

        Raises
        ------
        TunnelError
            If it does not end in time, or does not begin.
        """
        try:
            run = subprocess.run(
                sshcommand.through(self._control, "sh", "-s"),
                input=text.encode(),
                capture_output=True,
                timeout=max(0.1, timeout),
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise TunnelError(
                f"{self.destination} did not answer within {timeout:.0f} s: a start-up file of the shell "
                f"waits there, or its disks do. See what this does: ssh {self.name} 'echo hello'"
            ) from None
        out = run.stdout.decode(errors="replace")
        if run.returncode == sshcommand.LOST and not out:
            raise TunnelError(f"the connection to {self.destination} has ended: {self.trouble()}.")
        if run.returncode and not out:
            words = sshcommand.said(run.stderr.decode(errors="replace")) or f"exit code {run.returncode}"
            raise TunnelError(
                f"{self.destination} runs no command for us: {words}. See: ssh {self.name} 'echo hello'"
            )
        return out

    def forward(self, host: str, port: int, wish: int = 0) -> int:
        """Forward a port of this host to `host` and `port`, as seen from there; return that port.

        Parameters
        ----------
        wish
            The port to take here if it is free.

        Raises
        ------
        TunnelError
            If ssh refuses.
        """
        for attempt in range(5):
            local = wish if wish and not attempt else free_port()
            run = self._order("forward", local, host, port)
            if run.returncode == 0:
                self._forwarded[local] = (host, port)
                return local
        words = sshcommand.said(run.stderr.decode(errors="replace")) or self.trouble()
        raise TunnelError(f"ssh to {self.destination} does not forward a port: {words}")

    def forwards(self, local: int) -> bool:
        """Whether it forwards this port."""
        return local in self._forwarded

    def cancel(self, local: int) -> None:
        """End to forward a port."""
        if local in self._forwarded and self.alive:
            self._order("cancel", local, *self._forwarded.pop(local))

    def _order(self, verb: str, local: int, host: str, port: int) -> subprocess.CompletedProcess[bytes]:
        command = sshcommand.order(self._control, verb, local, host, port)
        try:
            return subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=5.0, start_new_session=True
            )
        except subprocess.TimeoutExpired:
            raise TunnelError(f"ssh to {self.destination} does not listen to its control socket") from None

    def probe(self, local: int, timeout: float) -> str:
        """Return why no controller answers at a forwarded port; nothing if one does.

        ssh accepts any connection at once; only the other end's greeting says that there is one.
        """
        heard = len(self._words())
        try:
            with socket.create_connection(("127.0.0.1", local), timeout) as connection:
                connection.settimeout(timeout)
                first = connection.recv(1)
        except TimeoutError:
            return f"no answer within {timeout:.0f} s"
        except OSError as error:
            return error.strerror or str(error)
        if first == b"\xff":  # as each greeting of ZeroMQ begins
            return ""
        # The words come on another way than the end of the connection.
        for _ in range(10):
            words = self._words()[heard:]
            if "open failed" in words:
                break
            time.sleep(PAUSE)
        return sshcommand.explain_forward(words)

    def stop(self) -> None:
        """Log out for good."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            stderr, self._stderr = self._stderr, None
            if process is not None:
                assert process.stdin is not None
                try:
                    # A forked child of ours may hold the pipe, too: the guard reads a line, or its end.
                    process.stdin.write(b"\n")
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # it has ended
                try:
                    process.wait(3.0)
                except subprocess.TimeoutExpired:
                    if not self._ask:
                        os.killpg(process.pid, signal.SIGKILL)
                    process.kill()
                    process.wait()
            if stderr is not None:
                stderr.close()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)


def _folder() -> Path:
    """Return a new folder, nobody else's, whose name is short enough for a socket."""
    for parent in (tempfile.gettempdir(), "/tmp"):
        if len(os.fsencode(parent)) + len(PREFIX) + len("/12345678/control") < MAX_CONTROL_PATH:
            return Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    raise TunnelError("no folder with a short name for ssh's socket: set TMPDIR to one")


def free_port() -> int:
    """Return a port of this host that is free at the moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
