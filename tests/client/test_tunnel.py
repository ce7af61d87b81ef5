"""Tunnels: the words for ssh, what it says, what is asked of the other host and what that answers.

With real servers: tests/slurm/test_attach.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from helpers import wait_until

from mpiparallel import Client, connection_file, error, resources
from mpiparallel.client import locate, remote, sshcommand
from mpiparallel.client.remote import Answer, ClusterEnded, Found, JobWaits, NotSeen, Wanted
from mpiparallel.config import Config

CONTROL = Path("/tmp/some%where/control")
INFO = connection_file.ConnectionInfo(
    cluster_id="", role="client", version="1", host="login1", pid=4, addresses=["tcp://10.0.0.1:5"],
    local="ipc:///x", server_key="s", public_key="p", secret_key="k",
)  # fmt: skip


def info(**changes):
    return msgspec.structs.replace(INFO, **changes)


# ---------------------------------------------------------------- words for ssh


@pytest.mark.parametrize("good", ["login", "me@login.site.org", "ssh://me@login:2222", "::1", "me@fe80::1"])
def test_destinations(good):
    assert sshcommand.checked(good) == good


@pytest.mark.parametrize("bad", ["", None, 7, "-oProxyCommand=touch /x", "-v", "me@-v", "a b", "a\n"])
def test_no_destinations(bad):
    with pytest.raises(ValueError, match="ssh="):
        sshcommand.checked(bad)


def test_a_colon_is_a_job_or_a_port():
    with pytest.raises(ValueError, match=r"ssh='me@login', job=12; .* ssh='ssh://me@login:12'"):
        sshcommand.checked("me@login:12")


def test_servers_as_in_ipython_parallel():
    assert sshcommand.with_port("me@login") == "me@login"
    assert sshcommand.with_port("me@login:2222") == "ssh://me@login:2222"
    with pytest.raises(ValueError, match="sshserver='-x'"):
        sshcommand.with_port("-x")


def options(words):
    return [words[i + 1] for i, word in enumerate(words) if word == "-o"]


def test_the_master():
    words = sshcommand.master("me@login", CONTROL)
    assert words[:4] == ["ssh", "-M", "-N", "-T"] and words[-2:] == ["--", "me@login"]
    assert words[words.index("-S") + 1] == "/tmp/some%%where/control"
    assert {"BatchMode=yes", "ControlPersist=no", "ClearAllForwardings=yes"} <= set(options(words))
    # Who the host is, is for the user's own configuration to say.
    assert not [word for word in words if "HostKey" in word or "KnownHosts" in word]
    assert not [word for word in words if word in ("-i", "-L", "-F")]


def test_the_master_with_more():
    words = sshcommand.master(
        "node1",
        CONTROL,
        key="/k",
        arguments=["-p", "22"],
        user="me",
        ask=True,
        proxy=sshcommand.proxy(CONTROL),
    )
    assert words[-6:] == ["-i", "/k", "-p", "22", "--", "node1"]
    assert {"BatchMode=no", "User=me"} <= set(options(words))
    (through,) = [word for word in options(words) if word.startswith("ProxyCommand=")]
    # In ssh's eyes %% is one %, and the command that it runs then takes %% for one once more.
    assert "-S /tmp/some%%%%where/control" in through and through.endswith("-W '[%h]:%p' -- host")


@pytest.mark.parametrize(
    ("host", "where"), [("10.0.0.1", "127.0.0.1:81:10.0.0.1:5"), ("fe80::1", "127.0.0.1:81:[fe80::1]:5")]
)
def test_orders_to_the_master(host, where):
    words = sshcommand.order(CONTROL, "forward", 81, host, 5)
    assert words[words.index("-O") + 1] == "forward"
    assert words[words.index("-L") + 1] == where


@pytest.mark.parametrize(
    "words", [sshcommand.through(CONTROL, "sh"), sshcommand.order(CONTROL, "cancel", 1, "a", 2)]
)
def test_nothing_logs_in_beside_the_master(words):
    assert "ProxyCommand=false" in words and words[words.index("-F") + 1] == "none"


# ---------------------------------------------------------------- what ssh says


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh: Could not resolve hostname nosuch: Name or service not known\r\n", "spelling"),
        ("me@login: Permission denied (publickey,password).", "mpiparallel attach login"),
        ("Received disconnect from ::1: Too many authentication failures", "ssh-add"),
        (
            "No ED25519 host key is known for [h]:1 and ...\nHost key verification failed.",
            "say yes: ssh login",
        ),
        ("@@@@@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n...", "ssh-keygen -R"),
        ("ssh: connect to host login port 22: Connection refused", "the port"),
        ("ssh: connect to host login port 22: Connection timed out", "VPN"),
        ("ssh: connect to host login port 22: No route to host", "VPN"),
        ("Warning: Identity file /k not accessible: No such file or directory.", "path of the key"),
        ("something new", "something new. See what this does: ssh login"),
        ("", "it said nothing"),
    ],
)
def test_remedies(text, words):
    explained = sshcommand.explain(text, "login")
    assert explained.startswith("ssh cannot log in to login: ")
    assert words in explained
    assert ".." not in explained.replace("...", "")


def test_a_banner_does_not_hide_what_went_wrong():
    text = "WELCOME\n" * 40 + "Warning: Permanently added 'x'\nme@login: Permission denied (publickey)."
    assert sshcommand.said(text).endswith("Permission denied (publickey)")
    assert "Permanently" not in sshcommand.said(text) and len(sshcommand.said(text)) < 600


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("channel 1: open failed: connect failed: Connection refused\r\n", "Connection refused"),
        ("channel 3: open failed: administratively prohibited: open failed", "AllowTcpForwarding"),
        ("", "no controller"),
    ],
)
def test_why_nothing_is_forwarded(text, words):
    assert words in sshcommand.explain_forward(text)


# ---------------------------------------------------------------- the guard


def start_guard(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    folder.mkdir()
    (folder / "control").touch()
    return subprocess.Popen(sshcommand.guarded(folder, command), stdin=subprocess.PIPE)


def test_the_guard_ends_ssh_when_we_end(tmp_path):
    guard = start_guard(tmp_path / "f", "sleep", "1000")
    assert guard.stdin is not None
    time.sleep(0.05)
    assert guard.poll() is None
    guard.stdin.close()
    assert guard.wait(5.0) != 0
    assert not (tmp_path / "f").exists()


def test_the_guard_ends_with_ssh(tmp_path):
    guard = start_guard(tmp_path / "f", "sh", "-c", "exit 7")
    assert guard.wait(5.0) == 7
    assert not (tmp_path / "f").exists()


def test_the_guard_works_when_we_are_killed(tmp_path):
    """Nobody closes anything then; and the words of a program are often shown by the next one, by ps."""
    code = (
        "import subprocess, sys, os, signal; from pathlib import Path\n"
        "from mpiparallel.client import sshcommand\n"
        "command = ['sh', '-c', 'echo $$; exec sleep 1000']\n"
        "one = subprocess.Popen(sshcommand.guarded(Path(sys.argv[1]), command), stdin=subprocess.PIPE,\n"
        "                       stdout=subprocess.PIPE, start_new_session=True)\n"
        "print(one.stdout.readline().decode(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "f").mkdir()
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "f"], capture_output=True, text=True)
    pid = int(run.stdout)
    assert wait_until(lambda: not Path(f"/proc/{pid}").exists() and not (tmp_path / "f").exists(), 5.0)


# ---------------------------------------------------------------- the question, in a real shell


def answer_of(state: Path, wanted: Wanted, environ: dict[str, str] | None = None) -> Answer:
    script = resources.script("launchers", "lookup.sh", Config.from_environment({})).read_text()
    env = {"PATH": os.environ["PATH"], "HOME": str(state), "MPIPARALLEL_STATE": str(state), **(environ or {})}
    text = remote.question(script, "mark", wanted)
    run = subprocess.run(["sh", "-s"], input=text, env=env, capture_output=True, text=True)
    assert run.returncode == 0 and not run.stderr
    return remote.parse("Welcome!\n" + run.stdout, "mark", "login")


def make(state: Path, name: str, record: str = "", **changes: object) -> Path:
    path = state / name / "client.json"
    connection_file.write(path, info(**changes))
    if record:
        (path.parent / "cluster.json").write_text(record)
    return path


def test_all_clusters_are_told(tmp_path):
    here = os.uname().nodename
    make(tmp_path, "default/cluster", host=here, pid=os.getpid(), job="55")
    record = json.dumps({"x": [{"job": "77", "pid": 1}, {"pid": 2, "job": 78}]}, indent=2)
    old = make(tmp_path, "hpc/cluster-a", host="elsewhere", record=record)
    os.utime(old, (1, 1))
    make(tmp_path, "hpc/cluster-b", host=here, pid=2**22 + 1)
    answer = answer_of(tmp_path, Wanted())
    assert answer.host == here and answer.state == str(tmp_path)
    assert {(one.names, one.dead, tuple(one.jobs)) for one in answer.found} == {
        (("default", ""), False, ()),
        (("hpc", "a"), False, ("77", "78")),
        (("hpc", "b"), True, ()),
    }
    assert answer.found[-1].names == ("hpc", "a")  # the oldest
    assert answer.found[-1].info("login") == info(host="elsewhere")


@pytest.mark.parametrize("name", ["~/it's one", "{}/it's one", "{}/it's one/client.json"])
def test_one_file_is_told(tmp_path, name):
    path = make(tmp_path, "it's one")
    answer = answer_of(tmp_path, Wanted(name.format(tmp_path)))
    assert [one.path for one in answer.found] == [str(path)]
    assert remote.choose(answer, Wanted(name), "login").info("login") == INFO


def test_a_file_that_is_not_there(tmp_path):
    wanted = Wanted("$(touch x)/y")
    answer = answer_of(tmp_path, wanted)
    assert answer.looked == "$(touch x)/y"
    with pytest.raises(ClusterEnded, match=r"there is no \$\(touch x\)/y on login"):
        remote.choose(answer, wanted, "login")


def test_a_file_that_others_can_read(tmp_path):
    make(tmp_path, "default/cluster").chmod(0o644)
    found = remote.choose(answer_of(tmp_path, Wanted()), Wanted(), "login")
    with pytest.raises(error.ConnectionFileError, match="chmod 600"):
        found.info("login")


def test_a_file_for_engines(tmp_path):
    make(tmp_path, "default/cluster", role="engine")
    with pytest.raises(error.ConnectionFileError, match="is for engines"):
        remote.choose(answer_of(tmp_path, Wanted()), Wanted(), "login").info("login")


def test_the_state_of_a_job_is_told(tmp_path):
    command = tmp_path / "bin" / "squeue"
    command.parent.mkdir()
    command.write_text('#!/bin/sh\necho "$*" >&2\nprintf "PENDING|Resources|N/A|n/a|12\\nmore\\n"\n')
    command.chmod(0o755)
    path = {"PATH": f"{command.parent}:{os.environ['PATH']}"}
    answer = answer_of(tmp_path, Wanted(job="12"), path)
    assert answer.job == "-h -t all -j 12 -o %T|%r|%S|%B|%A"  # stderr comes, too, and first
    command.write_text('#!/bin/sh\nprintf "PENDING|Resources|N/A|n/a|12\\nmore\\n"\n')
    assert answer_of(tmp_path, Wanted(job="12"), path).job == "PENDING|Resources|N/A|n/a|12"


def test_without_slurm_a_job_has_no_state(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "uname", "ls", "cat", "sed", "head", "cut"):
        found = subprocess.run(["sh", "-c", f"command -v {name}"], capture_output=True, text=True).stdout
        (tools / name).symlink_to(found.strip())
    answer = answer_of(tmp_path, Wanted(job="12"), {"PATH": str(tools)})
    assert answer.job is None and answer.command == ""


def test_an_answer_that_is_cut_off():
    with pytest.raises(error.TunnelError, match="it said: This account is not available"):
        remote.parse("This account is not available\n", "mark", "login")


# ---------------------------------------------------------------- the choice


def found(name: str, dead: bool = False, jobs: tuple[str, ...] = (), **changes: object) -> Found:
    content = msgspec.json.format(msgspec.json.encode(info(**changes))).decode()
    return Found(f"/state/{name}/client.json", "-rw-------", content, dead, list(jobs))


def answer(*several: Found, **changes: object) -> Answer:
    return Answer(**{"host": "login1", "state": "/state", "found": list(several), **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Wanted(), "default/cluster"),
        (Wanted(cluster_id="b"), "default/cluster-b"),
        (Wanted(cluster_id=""), "default/cluster"),
        (Wanted(profile="hpc"), "hpc/cluster-new"),
        (Wanted(job="9"), "hpc/cluster-old"),
        (Wanted(job="10"), "hpc/cluster-new"),
    ],
)
def test_choices(wanted, chosen):
    several = answer(
        found("hpc/cluster-new", jobs=("10", "11")),
        found("default/cluster-b"),
        found("hpc/cluster-old", job="9"),
        found("default/cluster"),
    )
    assert remote.choose(several, wanted, "login").path == f"/state/{chosen}/client.json"


def test_a_job_of_an_array():
    several = answer(found("a/cluster", job="50"), job="RUNNING|None|N/A|node1|50")
    assert remote.choose(several, Wanted(job="48_1"), "login").path == "/state/a/cluster/client.json"


@pytest.mark.parametrize(
    "state", ["CANCELLED|None|N/A|node1|9", "slurm_load_jobs error: Invalid job id specified"]
)
def test_files_of_a_job_that_was_killed_stay(state):
    several = answer(found("a/cluster", job="9"), job=state)
    with pytest.raises(error.TunnelError, match=r"has ended|there is no job 9"):
        remote.choose(several, Wanted(job="9"), "login")
    with pytest.raises(ClusterEnded, match="job 9, which the controller was in, has ended"):
        remote.choose(several, Wanted("/state/a/cluster/client.json", job="9"), "login")


def test_a_controller_outlives_its_engines_job():
    several = answer(found("a/cluster", jobs=("9",)), job="CANCELLED|None|N/A|node1|9")
    assert remote.choose(several, Wanted(job="9"), "login").path == "/state/a/cluster/client.json"


def test_those_that_died_are_passed_over():
    several = answer(found("default/cluster", dead=True), found("default/cluster-b"))
    assert remote.choose(several, Wanted(), "login").path == "/state/default/cluster-b/client.json"
    with pytest.raises(error.TunnelError, match=r"has died.*There are: profile 'default' cluster id 'b'"):
        remote.choose(several, Wanted(cluster_id=""), "login")


@pytest.mark.parametrize(
    ("job", "kind", "words"),
    [
        ("PENDING|Resources|2026-01-02T14:05:00|n/a", JobWaits, "(Resources), it is expected to start at"),
        ("PENDING|None|N/A|n/a", JobWaits, "job 5 is PENDING: there is nothing"),
        ("RUNNING|None|2026-01-02T14:05:00|node7", NotSeen, "RUNNING on node7, but no cluster of it"),
        ("TIMEOUT|TimeLimit|2026-01-02T14:05:00|node7", error.TunnelError, "has ended (TIMEOUT)"),
        ("slurm_load_jobs error: Invalid job id specified", error.TunnelError, "there is no job 5 on login"),
        (None, error.TunnelError, "no squeue"),
    ],
)  # fmt: skip
def test_jobs_without_a_cluster(job, kind, words):
    with pytest.raises(kind) as caught:
        remote.choose(answer(found("a/cluster", job="6"), job=job), Wanted(job="5"), "login")
    assert words in str(caught.value)
    if kind is not JobWaits:
        assert "There are: profile 'a' job 6." in str(caught.value)
    if kind is NotSeen:
        assert caught.value.host == "node7"


@pytest.mark.parametrize(
    ("command", "words"), [("", "load what makes it available"), ("/x", "start one there")]
)
def test_no_cluster_at_all(command, words):
    with pytest.raises(error.TunnelError, match="no cluster of profile x runs on login") as caught:
        remote.choose(answer(command=command), Wanted(profile="x"), "login")
    assert words in str(caught.value)


def test_addresses_from_the_other_host():
    all_of_them = ["tcp://10.0.0.1:5", "tcp://[fe80::1]:5", "tcp://127.0.0.1:5"]
    assert remote.candidates(info(addresses=all_of_them), "login1") == [all_of_them[2], *all_of_them[:2]]
    assert remote.candidates(info(addresses=all_of_them), "login2") == all_of_them[:2]


@pytest.mark.parametrize(
    ("job", "name"),
    [(12, "12"), ("12_3", "12_3"), ("7.pbs1", "7.pbs1"), ("-1", None), ("x", None), (True, None)],
)
def test_names_of_jobs(job, name):
    if name is None:
        with pytest.raises(ValueError, match="named by its number"):
            remote.job_name(job)
    else:
        assert remote.job_name(job) == name


# ---------------------------------------------------------------- what a client can be told


def test_a_job_of_this_host(tmp_path):
    config = Config(state_dir=tmp_path)
    make(tmp_path, "default/cluster", job="4")
    record = '{"controller": {"pid": 1}, "engines": {"sets": {"a": {"job": "5"}, "b": {"pid": 3}}}}'
    path = make(tmp_path, "hpc/cluster-a", record=record)
    assert locate.file_of_job(config, "5") == path
    assert locate.jobs_of(tmp_path / "default/cluster/client.json") == {"4"}
    with pytest.raises(error.ConnectionFileError, match=r"squeue -j 6.*ssh='user@host', job=6"):
        locate.file_of_job(config, "6")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ssh": "a", "sshserver": "b"}, "not both"),
        ({"ssh": "a", "sshkey": "/nosuch"}, "no such file"),
        ({"ssh": "-v"}, "dash"),
        ({"sshserver": "a", "password": "x"}, "mpiparallel attach"),
        ({"ssh": "a", "job": "x y"}, "by its number"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        Client(**options)


def test_ssh_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(error.TunnelError, match="openssh-client"):
        Client(ssh="login")
