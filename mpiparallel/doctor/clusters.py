"""The clusters that run: their files, whether they can be reached from here, and which version they are."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mpiparallel import __version__, connection_file
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.doctor.finding import Context, Finding, fail, ok, skip, warn
from mpiparallel.error import ConnectionFileError
from mpiparallel.reach import is_loopback

PATIENCE = 2.0  # seconds for an address to answer
MOST = 20  # clusters that are looked at


def check_clusters(context: Context) -> Iterator[Finding]:
    """Yield how each cluster of this user is."""
    pattern = f"*/cluster*/{connection_file.NAMES['client']}"
    files = sorted(context.config.state_dir.glob(pattern), key=os.path.getmtime)[-MOST:]
    if not files:
        yield skip("clusters", f"None runs under {context.config.state_dir}.")
    for path in files:
        yield cluster(path, context)


def cluster(path: Path, context: Context) -> Finding:
    """Return how the cluster with this connection file is."""
    profile, cluster_id = path.parent.parent.name, path.parent.name.removeprefix("cluster").lstrip("-")
    name = f"cluster {profile} {cluster_id}".strip()
    try:
        info = connection_file.read(path)
    except ConnectionFileError as error:
        remedy = f"chmod 600 {path}" if "has mode" in str(error) else f"Remove {path} if its cluster is gone."
        return fail(name, f"{error}.", remedy, file=str(path))
    facts = {"file": str(path), "host": info.host, "version": info.version, "addresses": info.addresses}
    reached, tried = reach(info, context)
    if not reached:
        here = socket.gethostname()
        return fail(
            name,
            f"Its controller (process {info.pid} on {info.host}) cannot be reached from {here}: "
            f"{'; '.join(tried)}.",
            unreachable(info, here),
            **facts,
        )
    far = [address for address in info.addresses if not is_loopback(address)]
    if far and info.host == socket.gethostname():
        context.clusters[name] = far
    if info.version != __version__:
        return warn(
            name,
            f"Its controller is mpiparallel {info.version}, and this is {__version__}: they may not "
            "understand one another.",
            "Use the same version on both sides, and start the cluster again.",
            **facts,
        )
    return ok(name, f"Its controller on {info.host} answers at {reached}.", **facts)


def reach(info: ConnectionInfo, context: Context) -> tuple[str, list[str]]:
    """Return the address at which a controller takes connections, and what became of those tried before."""
    tried: list[str] = []
    if info.is_local:
        local = info.local.removeprefix("ipc://")
        try:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(context.within(PATIENCE))
                one.connect(local)
            return "its private socket", tried
        except OSError as error:
            tried.append(f"{local}: {error.strerror or error}")
    for address in info.addresses:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), context.within(PATIENCE)).close()
            return address, tried
        except (OSError, ValueError) as error:
            tried.append(f"{address}: {getattr(error, 'strerror', None) or error}")
    return "", tried


def unreachable(info: ConnectionInfo, here: str) -> str:
    """Return what to do about a controller that does not answer."""
    if info.host == here:
        return "It has died, or is about to end: `mpiparallel list` clears up behind it. Start another."
    if all(map(is_loopback, info.addresses)):
        return (
            f"It listens on {info.host} itself only. Start it with `--ip 0.0.0.0`, or come by ssh: "
            f'Client(ssh="{info.host}").'
        )
    return (
        f'If {info.host} is up, a firewall is between you: come by ssh (Client(ssh="{info.host}")), or '
        "start the controller inside the job (--controller slurm)."
    )
