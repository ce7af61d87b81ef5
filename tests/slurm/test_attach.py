"""Clusters behind ssh, with real servers on this host and on nodes: Client(ssh=...), mpiparallel attach."""

from __future__ import annotations

import json
import logging
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import zmq
from helpers import wait_until

from mpiparallel import Client, Cluster, error
from mpiparallel.client.remote import JobWaits
from slurm import machine
from slurm.machine import Slurm
from slurm.ssh import MISSING, Server, Ssh, make_key

pytestmark = [pytest.mark.skipif(MISSING is not None, reason=MISSING or ""), pytest.mark.anympi]


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory, state_dir: Path, _tag: str) -> Iterator[Ssh]:
    """Keys and a configuration; our ssh is the first in PATH."""
    servers = Ssh(tmp_path_factory.mktemp("ssh"), {"MPIPARALLEL_STATE": str(state_dir)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", servers.path)
        yield servers
    servers.close()


@pytest.fixture(scope="module")
def login(ssh: Ssh) -> Server:
    """The server of this host, which is the login node."""
    return ssh.serve("login")


@pytest.fixture(scope="module")
def cluster(ssh: Ssh) -> Iterator[Cluster]:
    """A cluster of this host, whose controller listens on the loopback."""
    one = Cluster(n=2, cluster_id="tests")
    one.start_and_connect_sync().close()
    yield one
    one.stop_cluster_sync()


@pytest.fixture(autouse=True)
def no_ssh_left(ssh: Ssh) -> Iterator[None]:
    """Fail a test that leaves an ssh running, or its socket."""
    yield
    folder = Path(os.environ["TMPDIR"])
    assert wait_until(lambda: not ssh.processes() and not list(folder.glob("mpi-ssh-*")), 5.0), (
        [process.cmdline() for process in ssh.processes()],
        list(folder.iterdir()),
    )


def pid_of(cluster: Cluster) -> int:
    assert cluster.controller is not None and cluster.controller.pid is not None
    return cluster.controller.pid


# ---------------------------------------------------------------- a cluster on the host behind


@pytest.mark.mpi
def test_a_client(cluster: Cluster, login: Server) -> None:
    with Client(ssh="login") as rc:
        assert rc._connection.address.startswith("tcp://127.0.0.1:")
        assert rc[:].apply_sync(lambda x: x + 1, 4) == [5] * len(rc)


@pytest.mark.parametrize("name", ["file", "folder", "cluster id", "sshserver", "dict", "url"])
def test_ways_to_say_which(name: str, cluster: Cluster, ssh: Ssh, login: Server) -> None:
    file = cluster.connection_file
    options = {
        "file": {"connection_info": file, "ssh": "login"},
        "folder": {"connection_info": Path(file).parent, "ssh": "login"},
        "cluster id": {"cluster_id": "tests", "ssh": "login"},
        "sshserver": {"connection_info": file, "sshserver": "login", "sshkey": ssh.key},
        "dict": {"connection_info": json.loads(Path(file).read_text()), "ssh": "login"},
        "url": {"sshserver": f"127.0.0.1:{login.port}"},
    }[name]
    if name == "url":
        ssh.known_as("127.0.0.1", "127.0.0.1", login.port)
    with Client(**options) as rc:  # type: ignore[arg-type]
        assert rc._connection.address.startswith("tcp://127.0.0.1:")
        assert len(rc) == cluster.n


def test_a_key_that_the_controller_does_not_know(cluster: Cluster, login: Server) -> None:
    info = json.loads(Path(cluster.connection_file).read_text())
    public, secret = zmq.curve_keypair()
    wrong = {**info, "public_key": public.decode(), "secret_key": secret.decode()}
    with pytest.raises(error.ConnectionRefused, match="does not accept the key"):
        Client(wrong, ssh="login")


def test_it_drops_while_work_is_under_way(
    cluster: Cluster, login: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(ssh="login") as rc:
        pending = rc[:].apply_async(time.sleep, 1.0)
        login.drop()
        more = rc[:].apply_async(os.getpid)
        assert pending.get(30) == [None] * len(rc)
        assert len(set(more.get(30))) == len(rc)
    words = [record.getMessage() for record in caplog.records]
    assert any("The tunnel to login is down: " in text and "Trying again" in text for text in words), words
    assert any("is back" in text for text in words)


def test_the_server_is_away_for_a_while(
    cluster: Cluster, login: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with Client(ssh="login") as rc:
        login.stop()
        pending = rc[:].apply_async(os.getpid)
        assert wait_until(lambda: "Connection refused" in caplog.text, 20.0)
        login.start()
        assert len(set(pending.get(30))) == len(rc)


def test_patience_has_an_end(cluster: Cluster, login: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPIPARALLEL_RECONNECT_FOR", "2")
    with Client(ssh="login") as rc:
        login.stop()
        try:
            with pytest.raises(
                error.EngineError, match=r"No controller has answered for 2 s.*Connection refused"
            ):
                rc[0].apply_async(os.getpid).get(20)
        finally:
            login.start()


def test_a_controller_that_is_started_again_is_found(login: Server) -> None:
    """At another port and with other keys: the file is read again, over there."""
    with Cluster(n=1, cluster_id="again") as rc0, Client(ssh="login", cluster_id="again") as rc:
        before = pid_of(rc0.cluster)
        pending = rc[:].apply_async(time.sleep, 1.0)
        os.kill(before, signal.SIGKILL)
        assert pending.get(30) == [None]
        assert pid_of(rc0.cluster) != before


def test_a_cluster_that_is_stopped_has_ended(login: Server) -> None:
    with Cluster(n=1, cluster_id="short") as rc0:
        rc = Client(ssh="login", cluster_id="short")
        rc0.cluster.stop_cluster_sync()
        assert wait_until(lambda: rc._connection.gone is not None, 20.0)
        rc.close()


def test_nothing_outlives_a_client_that_is_killed(cluster: Cluster, login: Server, ssh: Ssh) -> None:
    code = "import mpiparallel as ipp; rc = ipp.Client(ssh='login'); print(rc.ids, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout is not None and program.stdout.readline()
        assert ssh.processes()
        program.kill()
    # no_ssh_left sees to the rest


def test_nothing_is_left_of_a_forgotten_client(cluster: Cluster, login: Server) -> None:
    code = "import mpiparallel as ipp; rc = ipp.Client(ssh='login'); print(len(rc))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout.strip(), run.stderr) == (0, str(cluster.n), "")


# ---------------------------------------------------------------- what cannot work


def nowhere(ssh: Ssh) -> str:
    return "nosuch.invalid"


def refused(ssh: Ssh) -> str:
    ssh.known_as("refused", "127.0.0.1", 1)
    return "refused"


def silent(ssh: Ssh) -> str:
    """Something that is no ssh server: it accepts and says nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    ssh.listeners.append(listener)
    ssh.known_as("silent", "127.0.0.1", listener.getsockname()[1])
    return "silent"


def no_key(ssh: Ssh) -> str:
    make_key(ssh.folder / "other")
    server = next(one for one in ssh.servers if one.name == "login")
    ssh.known_as("no-key", server.address, server.port, IdentityFile=str(ssh.folder / "other"))
    return "no-key"


def stranger(ssh: Ssh) -> str:
    server = next(one for one in ssh.servers if one.name == "login")
    ssh.known_as("stranger", server.address, server.port, UserKnownHostsFile="/dev/null")
    return "stranger"


def changed(ssh: Ssh) -> str:
    server = next(one for one in ssh.servers if one.name == "login")
    words = (ssh.folder / "key.pub").read_text().split()
    known = ssh.folder / "known_wrong"
    known.write_text(f"[{server.address}]:{server.port} {words[0]} {words[1]}\n")
    ssh.known_as("changed", server.address, server.port, UserKnownHostsFile=str(known))
    return "changed"


def no_forwards(ssh: Ssh) -> str:
    ssh.serve("no-forwards", AllowTcpForwarding="no")
    return "no-forwards"


def no_shell(ssh: Ssh) -> str:
    ssh.serve("no-shell", ForceCommand="echo This account is not available; exit 1")
    return "no-shell"


def hanging(ssh: Ssh) -> str:
    """A start-up file of the shell waits for something."""
    ssh.serve("hanging", ForceCommand="sleep 60")
    return "hanging"


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (nowhere, ["Could not resolve hostname", "Look at the spelling"]),
        (refused, ["Connection refused", "ssh://host:port"]),
        (silent, ["timed out", "ssh silent"]),
        (no_key, ["Permission denied (publickey)", "ssh-add", "mpiparallel attach no-key"]),
        (stranger, ["host key is not known", "say yes: ssh stranger"]),
        (changed, ["host key has changed", "ssh-keygen -R"]),
        (no_forwards, ["does not forward ports (AllowTcpForwarding)", "ask the site"]),
        (no_shell, ["it said: This account is not available", "echo hello"]),
        (hanging, ["did not answer within 10 s", "ssh hanging 'echo hello'"]),
    ],
)
def test_hosts_that_cannot_be_used(
    host: Callable[[Ssh], str], words: list[str], ssh: Ssh, login: Server, cluster: Cluster
) -> None:
    name = host(ssh)
    began = time.monotonic()
    with pytest.raises(error.TunnelError) as caught:
        Client(ssh=name)
    assert time.monotonic() - began < 30.0
    for part in words:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"cluster_id": "nosuch"},
            "cluster id nosuch runs on login. There are: profile 'default' cluster id 'tests'",
        ),
        ({"profile": "nosuch"}, "no cluster of profile nosuch runs on login"),
        ({"connection_info": "/nosuch"}, "there is no /nosuch on login"),
        ({"job": 999999}, "there is no job 999999 on login: squeue says: "),
    ],
)
def test_clusters_that_are_not_there(
    options: dict[str, object], words: str, slurm: Slurm, login: Server, cluster: Cluster
) -> None:
    began = time.monotonic()
    with pytest.raises(error.TunnelError) as caught:
        Client(ssh="login", **options)  # type: ignore[arg-type]
    assert time.monotonic() - began < 30.0
    assert words in str(caught.value)


# ---------------------------------------------------------------- a controller in a job


@pytest.fixture
def submit(slurm: Slurm, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Submits a job that runs `mpiparallel start`, and returns its number; it is cancelled in the end."""
    started = []

    def submit(*options: str, start: str = "", environ: str = "") -> str:
        command = f"{sys.executable} -m mpiparallel.cli start -n 2 --cluster-id in-job {start}"
        words = [
            "sbatch", "--parsable", "-J", "tests-attach", "-N1", "-n2", "-t", "5", "-o", tmp_path / "job.out",
            *slurm.here, *options, "--wrap", f"{environ} exec {command}",
        ]  # fmt: skip
        started.append(machine.run(*words).strip())
        return started[-1]

    yield submit
    subprocess.run(["scancel", *started], check=True)
    shown = "\n".join(path.read_text() for path in tmp_path.glob("job.out"))
    print(shown)


def state_of(job: str) -> str:
    return machine.run("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()


def running(job: str) -> str:
    assert wait_until(lambda: state_of(job) == "RUNNING", 60.0), state_of(job)
    return job


@pytest.mark.mpi
def test_a_controller_in_a_job(
    slurm: Slurm, separate: None, login: Server, submit: Callable[..., str]
) -> None:
    """The login node reaches the compute node's address: one port is forwarded to it from there."""
    job = running(submit("-w", slurm.nodes[0], start="--ip 0.0.0.0"))
    with Client(ssh="login", job=int(job), timeout=40) as rc:
        rc.wait_for_engines(2, timeout=60)
        assert rc[:].apply_sync(socket.gethostname) == [slurm.nodes[0]] * 2
        assert rc._connection.info.job == job
        login.drop()
        assert rc[:].apply_sync(socket.gethostname) == [slurm.nodes[0]] * 2


def test_a_controller_that_only_its_own_node_reaches(
    slurm: Slurm, separate: None, ssh: Ssh, login: Server, submit: Callable[..., str]
) -> None:
    """It listens on its loopback: a second ssh, to the node, goes through the first."""
    node = slurm.nodes[1]
    server = ssh.serve(node, node=node)
    job = running(submit("-w", node, start="--ip 127.0.0.1"))
    try:
        with Client(ssh="login", job=job, timeout=40) as rc:
            rc.wait_for_engines(2, timeout=60)
            assert rc[:].apply_sync(socket.gethostname) == [node] * 2
            login.drop()
            assert rc[:].apply_sync(socket.gethostname) == [node] * 2
    finally:
        server.stop()


def test_a_job_whose_files_are_on_its_own_node(
    slurm: Slurm, separate: None, ssh: Ssh, login: Server, submit: Callable[..., str]
) -> None:
    node = slurm.nodes[2]
    state = f"/dev/shm/tests-attach-{os.getpid()}"
    environ = ssh.environ
    ssh.environ = {"MPIPARALLEL_STATE": state}
    server = ssh.serve(node, node=node)
    ssh.environ = environ
    job = running(submit("-w", node, start="--ip 0.0.0.0", environ=f"MPIPARALLEL_STATE={state}"))
    try:
        assert wait_until(lambda: not missing(node, f"{state}/default/cluster-in-job/client.json"), 60.0)
        with Client(ssh="login", job=job, timeout=3) as rc:
            rc.wait_for_engines(2, timeout=60)
            assert rc[:].apply_sync(socket.gethostname) == [node] * 2
    finally:
        server.stop()
        subprocess.run(["scancel", job], check=True)
        assert wait_until(lambda: state_of(job) == "CANCELLED", 30.0)
        missing(node, state, "rm -rf")


def missing(node: str, path: str, command: str = "test -e") -> bool:
    return bool(subprocess.run(["srun", "-w", node, "-n1", *command.split(), path]).returncode)


def test_a_job_that_waits(slurm: Slurm, login: Server, submit: Callable[..., str]) -> None:
    job = submit("--hold")
    with pytest.raises(JobWaits, match=rf"job {job} is PENDING \(JobHeldUser\).*attach --wait login:{job}"):
        Client(ssh="login", job=job)


def test_a_job_that_has_ended(slurm: Slurm, login: Server, submit: Callable[..., str]) -> None:
    job = submit("--hold")
    machine.run("scancel", job)
    assert wait_until(lambda: state_of(job) == "CANCELLED", 20.0)
    with pytest.raises(error.TunnelError, match=rf"job {job} has ended \(CANCELLED\)"):
        Client(ssh="login", job=job)


# ---------------------------------------------------------------- mpiparallel attach


class Attached:
    """A running ``mpiparallel attach`` with a state folder of its own, as on another machine."""

    def __init__(self, state: Path, *words: str) -> None:
        self.state = state
        self.log = state / "log"
        state.mkdir()
        command = [sys.executable, "-m", "mpiparallel.cli", "attach", *words]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "MPIPARALLEL_STATE": str(state)},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def says(self, text: str, timeout: float = 40.0) -> bool:
        return wait_until(
            lambda: text in self.log.read_text() or self.process.poll() is not None, timeout
        ) and (text in self.log.read_text())

    def files(self) -> list[Path]:
        return [path for path in self.state.rglob("*.json") if path.is_file()]

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(20.0)


@pytest.fixture
def attach(tmp_path: Path, ssh: Ssh) -> Iterator[Callable[..., Attached]]:
    started: list[Attached] = []

    def attach(*words: str) -> Attached:
        started.append(Attached(tmp_path / f"laptop-{len(started)}", *words))
        return started[-1]

    yield attach
    for one in started:
        one.end()
        print(one.log.read_text())
        shutil.rmtree(one.state)


def test_attach(
    cluster: Cluster, login: Server, attach: Callable[..., Attached], monkeypatch: pytest.MonkeyPatch
) -> None:
    attached = attach("login")
    assert attached.says("Press Ctrl-C"), attached.log.read_text()
    assert "2 engines" in attached.log.read_text()
    assert "ipp.Client(cluster_id='login')" in attached.log.read_text()
    assert [path.stat().st_mode & 0o777 for path in attached.files()] == [0o600]
    monkeypatch.setenv("MPIPARALLEL_STATE", str(attached.state))
    with Client() as rc, Client(cluster_id="login") as other:
        assert rc._connection.address == other._connection.address
        assert rc._connection.info.pid == attached.process.pid
        login.drop()
        assert len(set(rc[:].apply_sync(os.getpid))) == len(other)
        assert attached.says("The tunnel to login is down") and attached.says("The tunnel is open again.")
    assert attached.end() == 0
    assert not attached.files()


def test_attach_twice_under_one_name(
    cluster: Cluster, login: Server, attach: Callable[..., Attached]
) -> None:
    first = attach("login", "--name", "one")
    assert first.says("Press Ctrl-C")
    command = [sys.executable, "-m", "mpiparallel.cli", "attach", "login", "--name", "one"]
    environ = {**os.environ, "MPIPARALLEL_STATE": str(first.state)}
    run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert run.returncode == 10 and "runs already" in run.stderr
    assert first.process.poll() is None and first.files()


def test_attach_that_is_killed(cluster: Cluster, login: Server, attach: Callable[..., Attached]) -> None:
    """Its file is known to be stale; no ssh is left of it."""
    attached = attach("login")
    assert attached.says("Press Ctrl-C")
    attached.process.kill()
    attached.process.wait()
    environ = {**os.environ, "MPIPARALLEL_STATE": str(attached.state)}
    command = [sys.executable, "-m", "mpiparallel.cli", "list"]
    run = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "no cluster runs"
    assert not attached.files()


def test_attach_fails_with_words(cluster: Cluster, login: Server, attach: Callable[..., Attached]) -> None:
    attached = attach("nosuch.invalid")
    assert attached.process.wait(30) == 1
    assert "Look at the spelling" in attached.log.read_text()
    assert "Traceback" not in attached.log.read_text()


def test_attach_to_a_job(
    slurm: Slurm, separate: None, login: Server, submit: Callable[..., str], attach: Callable[..., Attached],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It waits for the job, and ends with it."""
    job = submit("--hold", "-w", slurm.nodes[0], start="--ip 0.0.0.0")
    attached = attach("--wait", f"login:{job}")
    assert attached.says(f"job {job} is PENDING (JobHeldUser)"), attached.log.read_text()
    machine.run("scontrol", "release", job)
    assert attached.says("Press Ctrl-C", 90.0), attached.log.read_text()
    with monkeypatch.context() as patch:
        patch.setenv("MPIPARALLEL_STATE", str(attached.state))
        for options in ({"job": job}, {"cluster_id": f"login-{job}"}):
            with Client(**options) as rc:  # type: ignore[arg-type]
                rc.wait_for_engines(2, timeout=60)
                assert rc[:].apply_sync(socket.gethostname) == [slurm.nodes[0]] * 2
    machine.run("scancel", job)
    assert attached.says("The cluster has ended: ", 60.0), attached.log.read_text()
    assert attached.process.wait(20) == 0


def test_in_a_terminal_ssh_may_ask(cluster: Cluster, login: Server, ssh: Ssh, tmp_path: Path) -> None:
    """Such as whether an unknown host is the right one. Ctrl-C detaches; until then it does not hurt ssh."""
    ssh.known_as("unknown", login.address, login.port, UserKnownHostsFile=str(tmp_path / "known"))
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["MPIPARALLEL_STATE"] = str(tmp_path / "laptop")
        os.execv(sys.executable, [sys.executable, "-m", "mpiparallel.cli", "attach", "unknown"])
    heard = b""

    def hear(text: bytes) -> bool:
        nonlocal heard
        while select.select([terminal], [], [], 0)[0]:
            try:
                heard += os.read(terminal, 4096)
            except OSError:  # the other end is closed
                break
        return text in heard

    try:
        assert wait_until(lambda: hear(b"Are you sure you want to continue connecting"), 30.0), heard
        os.write(terminal, b"yes\n")
        assert wait_until(lambda: hear(b"Press Ctrl-C"), 30.0), heard
        (process,) = ssh.processes()
        process.send_signal(signal.SIGINT)
        os.write(terminal, b"\x03")
        assert wait_until(lambda: hear(b"detached"), 20.0), heard
        assert b"is down" not in heard
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        pid = 0
    finally:
        os.close(terminal)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_attach_with_ipython(cluster: Cluster, login: Server, tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    command = [sys.executable, "-m", "mpiparallel.cli", "attach", "login", "--ipython"]
    environ = {
        **os.environ,
        "MPIPARALLEL_STATE": str(tmp_path / "laptop"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    run = subprocess.run(
        command, env=environ, input="print('sum', sum(view.apply_sync(lambda: 2)))\nexit\n",
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert f"sum {2 * len(cluster_ids(cluster))}" in run.stdout, (run.stdout, run.stderr)
    assert run.returncode == 0


def cluster_ids(cluster: Cluster) -> list[int]:
    with cluster.connect_client_sync() as rc:
        return rc.ids


def test_ssh_is_the_users_own(ssh: Ssh, login: Server, cluster: Cluster) -> None:
    """Ctrl-C is for the program: ssh is in a session of its own."""
    with Client(ssh="login"):
        (process,) = ssh.processes()
        assert os.getsid(process.pid) != os.getsid(0)
        assert "-o BatchMode=yes" in " ".join(psutil.Process(process.pid).cmdline())


def test_jumps_of_the_users_configuration(ssh: Ssh, login: Server, cluster: Cluster) -> None:
    """A host that ~/.ssh/config says to be behind another one."""
    inner = ssh.serve("inner")
    ssh.known_as("behind", inner.address, inner.port, ProxyJump="login")
    with Client(ssh="behind") as rc:
        assert len(set(rc[:].apply_sync(os.getpid))) == len(rc)
        login.drop()
        assert len(set(rc[:].apply_sync(os.getpid))) == len(rc)


def test_words_of_the_log_are_warnings(
    caplog: pytest.LogCaptureFixture, cluster: Cluster, login: Server
) -> None:
    with caplog.at_level(logging.DEBUG, logger="mpiparallel"), Client(ssh="login") as rc:
        rc[:].apply_sync(os.getpid)
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]
