"""Which hosts do not answer: ``python -m mpiparallel.controller.probe SYSTEM HOST...`` prints them.

Batch systems take minutes to notice that a node has failed, and what ends meanwhile ends with errors that say
nothing of it. The batch system's daemon takes a connection on every node that works; and a host that runs
answers whoever knocks at any port, if only to refuse. A firewall may swallow that, so that hosts are told to
be silent only when others of the same world are not.
"""

from __future__ import annotations

import errno
import selectors
import socket
import sys
import time
from collections.abc import Sequence

PORTS = {"slurm": 6818, "pbs": 15002}  # of the daemons, unless a site has chosen others
PORT = 22
WITHIN = 2.0  # seconds for an answer
MOST = 256  # hosts that are asked


def silent(hosts: Sequence[str], port: int = PORT, within: float = WITHIN) -> list[str]:
    """Return those of `hosts` that do not answer while others do."""
    taken: set[str] = set()  # who took the connection
    answered: set[str] = set()  # ... or refused it
    waiting: dict[str, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        for host in list(dict.fromkeys(hosts))[:MOST]:
            try:
                family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            except OSError:
                continue  # its name means nothing here
            one = waiting[host] = socket.socket(family, kind, proto)
            one.setblocking(False)
            one.connect_ex(address)
            selector.register(one, selectors.EVENT_WRITE, host)
        deadline = time.monotonic() + within
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                selector.unregister(key.fileobj)
                error = waiting[key.data].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error == 0:
                    taken.add(key.data)
                if error in (0, errno.ECONNREFUSED):  # anything else is what others say of it
                    answered.add(key.data)
    for one in waiting.values():
        one.close()
    there = taken or answered
    return [host for host in waiting if host not in there] if there else []


def argv(system: str, hosts: Sequence[str]) -> list[str]:
    """Return the command that prints the silent ones among nodes of a batch system."""
    return [sys.executable, "-m", "mpiparallel.controller.probe", system, *hosts]


def told(output: str | None, reason: str) -> str:
    """Return the reason for the end of a world with what the command has printed."""
    hosts = [line.strip() for line in (output or "").splitlines() if line.strip()]
    if not hosts:
        return reason
    several = "s" * (len(hosts) > 1)
    verb = "do" if several else "does"
    return f"node{several} {', '.join(hosts)} {verb} not answer any more (power? network?); {reason}"


if __name__ == "__main__":
    print("\n".join(silent(sys.argv[2:], PORTS.get(sys.argv[1], PORT))))
