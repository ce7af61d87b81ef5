"""Real ssh servers for tests: sshd on this host, and on nodes of the Slurm cluster, with keys of their own.

`Ssh` makes a folder with keys, a client configuration and a command ``ssh`` that uses it: first in PATH, it
stands for the one of a user whose ``~/.ssh/config`` knows these servers by name. Nothing of the user's own is
read or changed. It works as root and as an ordinary user, who can only log in as themselves.
"""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil
from helpers import wait_until

SSH = shutil.which("ssh")
SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/local/sbin:/usr/sbin:/sbin")


def _why_not() -> str | None:
    """Return why nobody can log in here, if so."""
    if not SSH or not SSHD:
        return "needs ssh and sshd (the packages openssh-client and openssh-server)"
    user = pwd.getpwuid(os.getuid())
    if os.path.basename(user.pw_shell) in ("nologin", "false"):
        return f"{user.pw_name} cannot log in: its shell is {user.pw_shell}"
    return None


MISSING = _why_not()


class Ssh:
    """Servers, keys and a client configuration in one folder.

    Parameters
    ----------
    folder
        An empty one, which the nodes see, too, if there are servers on them.
    environ
        Set in every session, as a site's sshd may do it.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.environ = dict(environ or {})
        self.servers: list[Server] = []
        self.listeners: list[socket.socket] = []  # of hosts that are no ssh servers
        self.bin = folder / "bin"  # to be first in PATH
        self.config = folder / "config"
        self.known_hosts = folder / "known_hosts"
        self.key = folder / "key"
        self.bin.mkdir(parents=True)
        folder.chmod(0o700)
        make_key(self.key)
        shutil.copy(f"{self.key}.pub", folder / "authorized_keys")
        self.known_hosts.touch()
        self.config.touch(mode=0o600)
        command = self.bin / "ssh"
        command.write_text(f'#!/bin/sh\nexec {SSH} -F {self.config} "$@"\n')
        command.chmod(0o755)

    @property
    def path(self) -> str:
        """The PATH with our ssh in front."""
        return f"{self.bin}:{os.environ['PATH']}"

    def serve(
        self, name: str, *, node: str | None = None, address: str = "127.0.0.1", **options: str
    ) -> Server:
        """Start a server that ``ssh NAME`` reaches; on `node` of the cluster, which has a name and a network
        of its own, or here. `options` are of sshd_config, and come before ours.
        """
        if node is not None:
            address = address_of(node)
        server = Server(self, name, node, address, free_port(), options)
        self.servers.append(server)
        server.start()
        return server

    def known_as(self, name: str, address: str, port: int, **options: str) -> None:
        """Let the client know a host by this name, whether there is one or not."""
        lines = {
            "HostName": address,
            "Port": str(port),
            "User": getpass.getuser(),
            "IdentityFile": str(self.key),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(self.known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            **options,
        }
        with self.config.open("a") as file:
            file.write(f"Host {name}\n" + "".join(f"    {key} {value}\n" for key, value in lines.items()))

    def close(self) -> None:
        """Stop all servers."""
        for server in self.servers:
            server.stop()
        for listener in self.listeners:
            listener.close()

    def processes(self) -> list[psutil.Process]:
        """Return the ssh clients that use our configuration or a control socket, and run yet."""
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if process.status() != psutil.STATUS_ZOMBIE and str(self.config) in words:
                    found.append(process)
            except psutil.Error:
                continue
        return found


class Server:
    """One sshd."""

    def __init__(
        self, ssh: Ssh, name: str, node: str | None, address: str, port: int, options: Mapping[str, str]
    ) -> None:
        self.name, self.node, self.address, self.port = name, node, address, port
        self._process: subprocess.Popen[bytes] | None = None
        self._config = ssh.folder / f"sshd-{name}.config"
        self.log = ssh.folder / f"sshd-{name}.log"
        key = ssh.folder / f"host-{name}"
        make_key(key)
        words = Path(f"{key}.pub").read_text().split()
        with ssh.known_hosts.open("a") as file:
            file.write(f"[{address}]:{port} {words[0]} {words[1]}\n")
        ssh.known_as(name, address, port)
        lines = {
            **options,
            "Port": str(port),
            "ListenAddress": address,
            "HostKey": str(key),
            "AuthorizedKeysFile": str(ssh.folder / "authorized_keys"),
            "PidFile": "none",
            "PermitRootLogin": "prohibit-password",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "UsePAM": "no",
            "StrictModes": "no",
            "PrintMotd": "no",
        }
        if ssh.environ:
            lines["SetEnv"] = " ".join(f'"{key}={value}"' for key, value in ssh.environ.items())
        self._config.write_text("".join(f"{key} {value}\n" for key, value in lines.items()))
        self._config.chmod(0o600)

    def start(self) -> None:
        """Start it, and return when it accepts connections."""
        # An sshd of root wants this folder.
        start = "test $(id -u) != 0 || mkdir -p /run/sshd; exec " + f"{SSHD} -D -e -f {self._config}"
        command = ["sh", "-c", start]
        if self.node is not None:
            command = ["srun", "-J", "tests-sshd", "-w", self.node, "-N1", "-n1", "--mpi=none", *command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        # A node may be busy.
        process, patience = self._process, 10.0 if self.node is None else 60.0
        ready = wait_until(lambda: process.poll() is not None or self._answers(), patience)
        if not ready or process.poll() is not None:
            self.stop()
            raise RuntimeError(f"sshd {self.name} does not start: {self.log.read_text()[-2000:]}")

    def drop(self) -> None:
        """Break all connections, as a firewall or a reboot does; new ones are accepted. Not on nodes."""
        assert self._process is not None and self.node is None
        for process in psutil.Process(self._process.pid).children(recursive=True):
            _kill(process)

    def stop(self) -> None:
        """End it and all its connections; `start` brings it back at the same port."""
        process, self._process = self._process, None
        if process is None:
            return
        children = []
        if self.node is None and process.poll() is None:
            # The listener first, or it would go on to accept.
            children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in children:
            _kill(child)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.address, self.port), 1.0) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False


def make_key(path: Path) -> None:
    """Make a key pair without passphrase."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)


def free_port() -> int:
    """Return a port that is free here at this moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def address_of(node: str) -> str:
    """Return the address of a node of the Slurm cluster."""
    command = ["scontrol", "-o", "show", "node", node]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    words = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    return socket.gethostbyname(words["NodeAddr"])


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass
