"""A port as a controller has it, for other hosts to try: it says one word to everybody and hangs up."""

from __future__ import annotations

import secrets
import socket
import threading
from types import TracebackType


class Listener:
    """Listens on an address until it is closed.

    Attributes
    ----------
    token : str
        What it says: who hears it has reached this very doctor.
    port : int
    """

    def __init__(self, ip: str = "", port: int = 0) -> None:
        self.token = secrets.token_hex(8)
        self._socket = socket.create_server((ip, port), backlog=16)
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, name="mpiparallel-doctor-port", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed
            with connection:
                try:
                    connection.sendall(self.token.encode())
                except OSError:
                    continue  # who asked has gone

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        finally:
            self._socket.close()
