"""Which of a controller's TCP addresses can be reached from here, and why not the others.

Clients and engines ask. ZeroMQ itself would try for ever without a word.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_UNDER_WAY = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


@dataclass(frozen=True)
class Reached:
    """What came of trying.

    Attributes
    ----------
    address : str
        The first that took a connection; empty if none did.
    troubles : dict of str
        For each address that was tried in vain until then, why.
    """

    address: str
    troubles: dict[str, str] = field(default_factory=dict)


def is_loopback(address: str) -> bool:
    """Whether an address is one that only its own host can use."""
    host = urlsplit(address).hostname or ""
    return host.startswith("127.") or host in ("localhost", "::1")


def worth_trying(addresses: Sequence[str], elsewhere: bool) -> list[str]:
    """Return the addresses that a peer should try: loopback of another host only if there is nothing else.

    It may be the end of somebody's tunnel then.
    """
    far = [address for address in addresses if not is_loopback(address)]
    return far if elsewhere and far else list(addresses)


def race(addresses: Sequence[str], timeout: float) -> Reached:
    """Connect to all addresses at once; the first that answers wins; none waits for another's time-out."""
    troubles: dict[str, str] = {}
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as waiting:
        try:
            for address in addresses:
                problem = _begin(address, waiting)
                if problem:
                    troubles[address] = problem
            while waiting.get_map() and (left := deadline - time.monotonic()) > 0:
                # In the order of preference, when several have answered.
                ready = {key.data: key.fileobj for key, _ in waiting.select(left)}
                for address in sorted(ready, key=addresses.index):
                    with ready[address] as connection:  # type: ignore[union-attr]
                        waiting.unregister(connection)
                        number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if number == 0:
                        return Reached(address, troubles)
                    troubles[address] = os.strerror(number)
            for key in waiting.get_map().values():
                troubles[key.data] = f"no answer within {timeout:.3g} s"
            return Reached("", {address: troubles[address] for address in addresses})
        finally:
            for key in list(waiting.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]


def _begin(address: str, waiting: selectors.BaseSelector) -> str:
    """Begin to connect; return the trouble if that is known at once."""
    try:
        place = urlsplit(address)
        found = socket.getaddrinfo(place.hostname, place.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, where = found[0]
        connection = socket.socket(family, kind, protocol)
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    connection.setblocking(False)
    number = connection.connect_ex(where)
    if number not in _UNDER_WAY:
        connection.close()
        return os.strerror(number)
    waiting.register(connection, selectors.EVENT_WRITE, address)
    return ""


def explain(host: str, troubles: Mapping[str, str], here: str = "") -> str:
    """Return what to say, and to do, when no address of the controller on `host` can be reached.

    `here` is the host from which it was tried, this one if empty.
    """
    here = here or socket.gethostname()
    tried = "; ".join(f"{address}: {trouble}" for address, trouble in troubles.items())
    said = f"no controller answers on {host}, tried from {here} ({tried or 'it has no address'}). "
    if host == here:
        return said + "Is it running? `mpiparallel status` says so."
    if troubles and all(map(is_loopback, troubles)):
        return said + (
            f"It listens on addresses of {host} alone: start it with --ip '*', or "
            "Cluster(controller_ip='0.0.0.0'). A client can come through ssh, too: Client(ssh=...)."
        )
    refused = any("refused" in trouble.lower() for trouble in troubles.values())
    return said + (
        f"{'Has it ended? Otherwise start' if refused else 'Start'} it with an address that {here} can reach "
        f"(--ip, or Cluster(controller_ip=...)), have the firewall of {host} let its port through (--port "
        "chooses one, controller_port in a profile), or run it inside the job, beside its engines "
        "(controller='slurm')."
    )
