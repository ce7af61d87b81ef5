"""The words for OpenSSH's own ssh, and the meaning of what it says. Used by `sshmaster`.

Host names, users, keys, jumps and agents are as in the user's ``~/.ssh/config``; host keys are checked as
ever. One ssh process is the master: it logs in once, and what is asked of the host goes through its control
socket, so that one process to end is all there is.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

CONNECT = 10  # seconds for TCP
ALIVE = 5  # seconds without an answer, three times, until ssh takes its host for gone
LOST = 255  # ssh's exit code for troubles of its own
HOST = "host"  # which only the master has to know
NO_FORWARDS = "that host's sshd does not forward ports (AllowTcpForwarding)"
INSTALL = "OpenSSH's ssh is not in the PATH: install it (package openssh-client), or load its module"


def checked(destination: object, name: str = "ssh") -> str:
    """Return `destination` if it can be one: ``[user@]host``, a name of ~/.ssh/config, or ``ssh://...``.

    Raises
    ------
    ValueError
        If it cannot; a colon, for example, may be meant for a port or a job.
    """
    if not isinstance(destination, str) or not destination or re.search(r"\s", destination):
        raise ValueError(f"{name}={destination!r}: expected [user@]host, as for the command ssh")
    if destination.startswith("-") or "@-" in destination:
        raise ValueError(f"{name}={destination!r}: a host's name does not begin with a dash")
    if ":" in destination and not destination.startswith("ssh://") and destination.count(":") == 1:
        host, _, number = destination.partition(":")
        raise ValueError(
            f"{name}={destination!r}: for a batch job say ssh={host!r}, job={number or 123}; for another "
            f"port ssh='ssh://{host}:{number or 22}'"
        )
    return destination


def with_port(server: object) -> str:
    """Return IPython Parallel's ``[user@]host[:port]`` as ssh takes it."""
    if isinstance(server, str) and re.fullmatch(r"[^:/\s]+:\d+", server):
        return checked(f"ssh://{server}", "sshserver")
    return checked(server, "sshserver")


def master(
    destination: str,
    control: Path,
    *,
    key: str = "",
    arguments: Sequence[str] = (),
    proxy: Sequence[str] = (),
    user: str = "",
    ask: bool = False,
) -> list[str]:
    """Return the command that logs in and stays.

    Parameters
    ----------
    control
        The socket to make for the other commands.
    key
        A file, besides what the user's configuration and agent have.
    arguments
        More for ssh.
    proxy
        The command whose input and output lead to the host, in place of a connection of our own.
    user
        Whom to log in as, where neither the destination nor the configuration say it.
    ask
        Whether ssh may ask for passwords in the terminal.
    """
    words = ["ssh", "-M", "-N", "-T", "-S", _path(control)]
    options = {
        "ControlPersist": "no",
        "BatchMode": "no" if ask else "yes",
        "ConnectTimeout": CONNECT,
        "ServerAliveInterval": ALIVE,
        "ServerAliveCountMax": 3,
        "LogLevel": "INFO",  # it says why an address cannot be reached
        "ClearAllForwardings": "yes",  # those of the user's configuration have been made already, or fail
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
    }
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    if proxy:
        # ssh gives it to a shell, after it has put names in place of % and a letter.
        words += ["-o", f"ProxyCommand={shlex.join(proxy)}"]
    if user:
        words += ["-o", f"User={user}"]
    if key:
        words += ["-i", key]
    return [*words, *arguments, "--", destination]


def through(control: Path, *command: str) -> list[str]:
    """Return the command that runs `command` on the master's host."""
    return [*_client(control), "-T", "--", HOST, *command]


def proxy(control: Path) -> list[str]:
    """Return the command whose input and output are a connection from the master's host to %h, port %p.

    It is for ``ProxyCommand``, where ssh puts names in place of % and a letter once more.
    """
    client = [word.replace("%", "%%") for word in _client(control)]
    return [*client, "-W", "[%h]:%p", "--", HOST]


def order(control: Path, verb: str, local_port: int, host: str, port: int) -> list[str]:
    """Return the command that has the master begin (``forward``) or end (``cancel``) to forward a port."""
    inner = f"[{host}]" if ":" in host else host
    where = f"127.0.0.1:{local_port}:{inner}:{port}"
    return [*_client(control), "-O", verb, "-L", where, "--", HOST]


# What ends ssh when its standard input ends, so that it never outlives us, however we end. Ctrl-C is for the
# program, not for its tunnel. Its exit code is ssh's; it leaves nothing of the folder of the control socket.
GUARD = """\
trap '' INT QUIT HUP
folder=$1
shift
exec 3<&0
"$@" </dev/null 3<&- &
ssh=$!
( read -r _ <&3; kill "$ssh" 2>/dev/null ) &
guard=$!
exec 3<&-
wait "$ssh"
code=$?
kill "$guard" 2>/dev/null
rm -f "$folder/control"
rmdir "$folder" 2>/dev/null
exit "$code"
"""


def guarded(folder: Path, command: Sequence[str]) -> list[str]:
    """Return the command that runs `command` until its own standard input ends.

    `folder` holds the socket ``control``, and goes away in the end.
    """
    return ["sh", "-c", GUARD, "sh", str(folder), *command]


def said(text: str) -> str:
    """Return the part of ssh's stderr that tells what went wrong: its last lines, without noise."""
    lines = [line.strip() for line in text.replace("\r", "").splitlines()]
    noise = ("Warning: Permanently added", "mux_client", "@@@@")
    useful = [line for line in lines if line and not line.startswith(noise)]
    return "; ".join(line.rstrip(".") for line in useful[-3:])[-600:]


def explain(text: str, destination: str, name: str = "") -> str:
    """Return words and remedy for why ssh could not log in, from its stderr."""
    words = said(text)
    by_hand = f"ssh {name or destination}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in text:
        remedy = (
            "The host's key is another one than before: it was installed anew, or somebody is in between. "
            "Ask the site; if it is as it should be, remove the old key with ssh-keygen -R, and log in once "
            f"by hand: {by_hand}"
        )
        words = "its host key has changed"
    elif "Host key verification failed" in text or "host key is known" in text:
        remedy = f"Log in once by hand, compare the key that it shows, and say yes: {by_hand}"
        words = "its host key is not known here"
    elif "Permission denied" in text or "Too many authentication failures" in text:
        remedy = (
            f"It wants a key that is not offered, or a password. See that this works without questions: "
            f"{by_hand} (ssh-add, ssh-copy-id, sshkey=...). Where a password or a code is needed, run "
            f"in a terminal: mpiparallel attach {destination}"
        )
    elif "Could not resolve hostname" in text:
        remedy = "Look at the spelling; names of your own belong in ~/.ssh/config"
    elif re.search("timed out|No route to host|Network is unreachable", text):
        remedy = f"Is it up, and does the network let you there (VPN, ProxyJump)? See: {by_hand}"
    elif "Connection refused" in text:
        remedy = "No ssh server listens there. Look at the name and the port (ssh://host:port)"
    elif "not accessible" in text and "Identity file" in text:
        remedy = "Look at the path of the key"
    else:
        remedy = f"See what this does: {by_hand}"
    return f"ssh cannot log in to {destination}: {words or 'it said nothing'}. {remedy}."


def explain_forward(text: str) -> str:
    """Return why the other host could not reach an address, from the last of ssh's stderr about it."""
    failures = re.findall(r"channel \d+: open failed: ([^\r\n]*)", text)
    if not failures:
        return "it accepts the connection and says nothing: it is no controller of mpiparallel"
    last = str(failures[-1])
    if "administratively prohibited" in last:
        return NO_FORWARDS
    return last.removeprefix("connect failed: ")


def _client(control: Path) -> list[str]:
    # Where the master is gone, ssh would log in by itself, to whatever host has this name.
    return ["ssh", "-F", "none", "-S", _path(control), "-o", "BatchMode=yes", "-o", "ProxyCommand=false"]


def _path(control: Path) -> str:
    return str(control).replace("%", "%%")
