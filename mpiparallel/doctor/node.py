"""``python -m mpiparallel.doctor.node``: what a compute node sees. Run there by ``mpiparallel doctor``.

Its argument is JSON: the ``addresses`` of a listening doctor to try, the ``token`` that it says, and the
``file`` that has this token in it, if this host sees it, and the addresses of ``clusters`` by their names.
The answer is one line of JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mpiparallel import reach
from mpiparallel.doctor.here import versions

MARK = "mpiparallel-node "
PATIENCE = 5.0  # seconds for an address to answer


def try_address(address: str, token: str, patience: float = PATIENCE) -> str:
    """Return what became of a connection: ``"reached"``, or what went wrong."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + patience
    try:
        with socket.create_connection((host, int(port)), patience) as connection:
            connection.settimeout(max(0.1, deadline - time.monotonic()))
            said = connection.recv(len(token.encode()), socket.MSG_WAITALL)
    except OSError as error:
        return f"{error.strerror or error}"
    return "reached" if said == token.encode() else "something else answers there"


def look(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this host sees of what is wanted."""
    addresses, token = list(wanted.get("addresses", [])), str(wanted.get("token", ""))
    with ThreadPoolExecutor(max(1, len(addresses))) as pool:
        tried = dict(zip(addresses, pool.map(lambda one: try_address(one, token), addresses), strict=True))
    clusters = {}
    for name, listed in dict(wanted.get("clusters", {})).items():
        found = reach.race(listed, PATIENCE / 2)
        clusters[name] = {"reached": found.address, "troubles": found.troubles}
    try:
        seen = Path(str(wanted.get("file", ""))).read_text() == token
        why = "" if seen else "it holds something else"
    except OSError as error:
        seen, why = False, str(error.strerror or error)
    return {
        "host": socket.gethostname(), "versions": versions(), "executable": sys.executable,
        "tried": tried, "file_seen": seen, "why": why, "clusters": clusters,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Say what this host sees."""
    words = list(sys.argv[1:] if argv is None else argv)
    wanted = json.loads(words[0]) if words else {}
    sys.stdout.write(f"{MARK}{json.dumps(look(wanted))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
