"""Start a controller, or worlds of engines, on another host by ssh.

``ssh`` runs inside ``launchers/ssh.sh``, which a site may replace, and starts `onhost` there. That is told on
its standard input what to start, and ends it when the connection ends. So the ssh on this machine stands for
what runs there: it has the same life, its log and its exit code.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

import mpiparallel
from mpiparallel import connection_file, resources
from mpiparallel.connection_file import NAMES, Role
from mpiparallel.error import LaunchError
from mpiparallel.launch import local, templates
from mpiparallel.launch.launched import Controller, EngineSet
from mpiparallel.launch.onhost import HERE, MARK, Order
from mpiparallel.launch.processes import Process
from mpiparallel.launch.requests import ControllerRequest, WorldRequest
from mpiparallel.launchoptions import LaunchOptions

log = logging.getLogger(__name__)

FETCH = 30.0  # seconds for connection files to come from another host
_FOR_PYTHON = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")  # what Python may need before it is told the rest


def start_world(request: WorldRequest) -> EngineSet:
    """Start a world of engines on another host.

    Raises
    ------
    LaunchError
        If no host is named, or there is no ssh.
    """
    path = request.directory / NAMES["engine"]
    order = Order(
        version=mpiparallel.__version__, kind="world", directory=str(request.directory), name=request.name,
        n=request.n, first=request.first, log=str(request.log), ft=request.config.ft,
        connection=path.read_text(), options=_there(request.options),
    )  # fmt: skip
    process = _start(request, order, request.log)
    return EngineSet(process, request.name, request.n, request.first, what="ssh")


def start_controller(request: ControllerRequest) -> Controller:
    """Start a controller on another host; its connection files come to the cluster's folder on this one.

    Raises
    ------
    LaunchError
        If no host is named, or there is no ssh.
    """
    token = secrets.token_hex(8)
    (request.directory / HERE).write_text(token)  # a host that sees it shares this folder with us
    order = Order(
        version=mpiparallel.__version__, kind="controller", directory=str(request.directory), token=token,
        cluster_id=request.cluster_id, profile=request.directory.parent.name, log_level=request.log_level,
        options=_there(request.options), lifeline=request.lifeline,
    )  # fmt: skip
    process = _start(request, order, request.log, lifeline=request.lifeline, append=request.again)
    controller = Controller(process)
    threading.Thread(
        target=_fetch, args=[request, process], name="fetch-connection-files", daemon=True
    ).start()
    return controller


def _there(options: LaunchOptions) -> LaunchOptions:
    """Return the options as they are on the other host."""
    return msgspec.structs.replace(
        options, engines="mpi", controller="mpi", host="", modules=[], setup=[],
        controller_ip=options.controller_ip or "*",
    )  # fmt: skip


def _start(
    request: WorldRequest | ControllerRequest,
    order: Order,
    log_file: Path,
    lifeline: bool = False,
    append: bool = False,
) -> Process:
    command = command_for(request, remote_command(request.options))
    log.debug("starting %s", command)
    told = msgspec.json.encode(order) + b"\n"
    return Process.start(
        command, log=log_file, environ=request.environ, lifeline=lifeline, append=append, told=told
    )


def command_for(request: WorldRequest | ControllerRequest, there: str) -> list[str]:
    """Return the command that runs a line of shell on the other host.

    Raises
    ------
    LaunchError
        If no host is named.
    """
    host = request.options.host
    if not host or host.startswith("-"):
        raise LaunchError(
            f"host={host!r}: engines='ssh' and controller='ssh' need to know where: give host='user@host', "
            "or a name of ~/.ssh/config"
        )
    script = resources.script("launchers", "ssh.sh", request.config)
    return [*local.runner(script), *request.options.ssh_args, host, there]


def remote_command(options: LaunchOptions) -> str:
    """Return the line of shell that starts `onhost` on the other host, whatever the login shell there is."""
    python = templates.quoted([options.python or sys.executable, "-m", "mpiparallel.launch.onhost"])
    first = {name: value for name, value in options.environment.items() if name in _FOR_PYTHON}
    lines = [templates.loads(options.modules), *options.setup, templates.exports(first), f"exec {python}"]
    program = "\n".join(line for line in lines if line)
    if not (options.modules or options.setup or first):
        return program
    return f"exec bash -lc {shlex.quote(program)}"  # modules are for login shells


def _fetch(request: ControllerRequest, process: Process) -> None:
    """Bring the connection files here when the controller has written them, unless the folder is shared."""
    deadline = time.monotonic() + FETCH
    while process.running and time.monotonic() < deadline:
        found = re.findall(rf"^{re.escape(MARK)}(.*)$", process.tail(200), re.M)
        if found:
            break
        time.sleep(0.05)
    else:
        return  # its log says why
    if not found[-1]:
        return  # they are here already
    try:
        for role, text in _files_of(request, found[-1], deadline).items():
            connection_file.write_private(request.directory / NAMES[role], text.encode())
    except (LaunchError, OSError, subprocess.SubprocessError) as error:
        if process.running:
            log.error("no connection files come from %s: %s", request.options.host, error)
            process.kill()


def _files_of(request: ControllerRequest, folder: str, deadline: float) -> dict[Role, str]:
    paths = [f"{folder}/{NAMES[role]}" for role in ("engine", "client")]
    words = f"cat -- {templates.quoted(paths)}"
    answer = subprocess.run(
        command_for(request, words),
        env=dict(request.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=max(1.0, deadline - time.monotonic()),
    )  # fmt: skip
    if answer.returncode:
        raise LaunchError(f"{words}: {answer.stderr.strip()}")
    return split(answer.stdout)


def split(text: str) -> dict[Role, str]:
    """Return the connection files in a text of several, the one for clients last: who waits, waits for that.

    Raises
    ------
    ConnectionFileError
        If it is no such text.
    """
    found: dict[Role, str] = {}
    text = text.strip()
    while text:
        try:
            _, end = json.JSONDecoder().raw_decode(text)
        except ValueError:
            end = len(text)  # `parse` says what is wrong with it
        found[connection_file.parse(text[:end]).role] = text[:end]
        text = text[end:].lstrip()
    return dict(sorted(found.items(), key=lambda item: item[0] == "client"))
