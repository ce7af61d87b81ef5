"""``mpiparallel profile`` and ``completion``, and settings that reach what is started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from commands import Run, Start, read_until

from mpiparallel import Client
from mpiparallel.cli import make_argument_parser
from mpiparallel.commandline import COMMANDS, PROGRAMS, arguments, completion, exits
from mpiparallel.config import Config
from mpiparallel.error import ConnectionFileError
from mpiparallel.launchoptions import KEYS

pytest_plugins = ["commands"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    (folder / "profiles").mkdir(parents=True)
    monkeypatch.setenv("MPIPARALLEL_SITE", str(folder))
    return folder / "profiles"


def given(*words: str) -> dict:
    return arguments.given(make_argument_parser("start").parse_args(["start", *words]))


# ---------------------------------------------------------------- options


def test_nothing_is_given_where_nothing_was_said() -> None:
    assert given() == {}


def test_settings_on_the_command_line() -> None:
    words = [
        "-n", "4", "-p", "debug", "-t", "1:00:00", "-A", "me", "-N", "2", "--engines", "slurm", "--ip", "*",
        "--mpi-args=--bind-to", "--mpi-args=none", "--set", "requeue=yes", "--set", "modules=a 'b c'",
        "--set", "modules=d", "--set", "environment.A=1=2", "--set", "environment.B=",
        "--set", "partition=no",
    ]  # fmt: skip
    assert given(*words) == {
        "n": 4,
        "partition": "debug",
        "time": "1:00:00",
        "account": "me",
        "nodes": 2,
        "engines": "slurm",
        "controller_ip": "*",
        "mpi_args": ["--bind-to", "none"],
        "requeue": True,
        "modules": ["a", "b c", "d"],
        "environment": {"A": "1=2", "B": ""},
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "colour=red"], "no setting is called 'colour'"),
        (["--set", "nodes"], "'nodes' is not KEY=VALUE"),
        (["--set", "nodes=many"], "expected a whole number"),
        (["--set", "environment=A"], "give environment.NAME=VALUE"),
        (["-t", "1h"], "argument -t/--time: time='1h': expected minutes"),
        (["-N", "0"], "nodes=0: expected a number above zero"),
        (["--engines", "rsh"], "invalid choice: 'rsh'"),
    ],
)
def test_wrong_settings(capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    with pytest.raises(SystemExit) as end:
        given(*words)
    assert end.value.code == exits.USAGE
    assert says in capsys.readouterr().err


def test_a_command_without_a_cluster_of_its_own(site: Path) -> None:
    (site / "hpc.toml").write_text('partition = "debug"\nengine_args = ["--raw-mpi"]\n')
    words = ["start", "--profile", "hpc", "-n", "4", "--dedicated-bridge"]
    found = arguments.settle(make_argument_parser("start").parse_args(words), Config.from_environment())
    assert (found.n, found.partition) == (4, "debug")
    assert found.engine_args == ["--raw-mpi", "--dedicated-bridge"]


@pytest.mark.parametrize("command", [*COMMANDS])
def test_every_subcommand_teaches_by_examples(command: str) -> None:
    parsers = make_argument_parser(command)._subparsers
    assert parsers is not None
    text = parsers._group_actions[0].choices[command].format_help()  # type: ignore[index,call-overload]
    assert f"examples:\n  mpiparallel {command}" in text or "examples:\n  source <(mpiparallel" in text


def test_the_help_knows_every_command_and_exit_code(run: Run) -> None:
    text = run("--help").stdout
    assert all(f"    {name}" in text for name in [*COMMANDS, *PROGRAMS])
    codes = [value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)]
    assert codes == sorted(set(codes))
    assert all(f" {code} " in exits.TEXT for code in codes)


# ---------------------------------------------------------------- profile


def test_a_profile_from_its_beginning(run: Run, site: Path) -> None:
    path = site / "hpc.toml"
    done = run("profile", "new", "hpc", "-n", 3, "-p", "debug", "--set", "environment.A=b c")
    assert (done.returncode, done.stdout) == (
        0, f"{path} is written. Edit it, then: mpiparallel profile check hpc\n"
    )  # fmt: skip
    assert path.stat().st_mode & 0o777 == 0o600
    again = run("profile", "new", "hpc")
    assert again.returncode == 1 and "is there already" in again.stderr
    shown = json.loads(run("profile", "show", "hpc", "-p", "long", "--json").stdout)
    assert shown["file"] == str(path)
    assert [(row["setting"], row["value"]) for row in shown["settings"]] == [
        ("n", 3), ("partition", "long"), ("environment.A", "b c"),
    ]  # fmt: skip
    assert [row["from"].partition(", line")[0] for row in shown["settings"]] == [
        str(path), "the command line", str(path),
    ]  # fmt: skip
    everything = json.loads(run("profile", "show", "hpc", "--all", "--json").stdout)["settings"]
    assert {row["setting"].partition(".")[0] for row in everything} == set(KEYS)
    assert "partition" in run("profile", "show", "hpc").stdout
    (row,) = json.loads(run("profile", "list", "--json").stdout)
    assert (row["profile"], row["engines"], row["clusters"], row["state"]) == ("hpc", "mpi", 0, "right")
    checked = run("profile", "check")
    assert checked.returncode == 0
    assert "partition: engines='mpi' submits no job" in checked.stdout
    assert checked.stdout.endswith("hpc.toml: right, but see above\n")


def test_what_is_wrong_with_profiles(run: Run, site: Path) -> None:
    (site / "good.toml").write_text('engines = "mpi"\n')
    (site / "bad.toml").write_text('partion = "x"\nn = "4"\n')
    done = run("profile", "check")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        f"{site}/bad.toml, line 1: no setting is called 'partion'; did you mean 'partition'?",
        f"{site}/bad.toml, line 2: n='4': expected a whole number",
        f"{site}/good.toml: right",
    ]
    assert run("profile", "check", "good").returncode == 0
    rows = json.loads(run("profile", "check", "--json").stdout)
    assert [len(row["problems"]) for row in rows] == [2, 0]
    shown = run("profile", "show", "bad")
    assert shown.returncode == 1 and "no setting is called 'partion'" in shown.stderr
    assert "wrong: see mpiparallel profile check" in run("profile", "list").stdout
    started = run("start", "-n", 0, "--profile", "bad")
    assert started.returncode == 1 and "bad.toml, line 1: no setting is called 'partion'" in started.stderr


@pytest.mark.parametrize("words", [["show", "god"], ["check", "god"]])
def test_no_such_profile(run: Run, site: Path, words: list[str]) -> None:
    (site / "good.toml").touch()
    done = run("profile", *words)
    assert done.returncode == 1
    assert done.stderr == f"mpiparallel: there is no {site}/god.toml; did you mean 'good'?\n"


def test_programs_that_are_not_here(run: Run, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(site))
    (site / "far.toml").write_text('engines = "lsf"\n')
    (site / "near.toml").write_text('mpiexec = "/no/such/mpiexec"\n')
    done = run("profile", "check")
    assert done.returncode == 0
    assert "'lsf' needs bsub, which is not on the PATH here" in done.stdout
    assert "mpiexec = '/no/such/mpiexec': there is no such program here" in done.stdout


def test_no_profiles_at_all(run: Run, site: Path) -> None:
    assert "write one by: mpiparallel profile new NAME" in run("profile", "list").stdout
    assert "write one by: mpiparallel profile new NAME" in run("profile", "check").stdout
    done = run("profile", "show")
    assert "The profile 'default' has no file" in done.stdout
    assert "all are defaults" in done.stdout


def test_a_cluster_of_a_profile(run: Run, start: Start, site: Path) -> None:
    (site / "hpc.toml").write_text('n = 0\n[environment]\nMPIPARALLEL_HEARTBEAT = "nonsense"\n')
    failed = run("start", "--profile", "hpc")
    assert failed.returncode == 1
    assert "MPIPARALLEL_HEARTBEAT='nonsense': expected a number" in failed.stderr  # the controller says so
    (site / "hpc.toml").write_text("n = 0\n")
    process = start("start", "--profile", "hpc")
    assert "0 engines ready" in read_until(process, "Press Ctrl-C")
    (row,) = json.loads(run("profile", "list", "--json").stdout)
    assert row["clusters"] == 1
    assert run("stop", "--profile", "hpc").returncode == 0


# ---------------------------------------------------------------- completion


def test_what_the_completion_knows() -> None:
    commands = {one.path: one for one in completion.read(make_argument_parser())}
    assert list(commands[()].subcommands) == [*COMMANDS, *PROGRAMS]
    assert list(commands["profile",].subcommands) == ["show", "new", "check", "list"]
    assert {"--profile", "-n", "--set", "-p"} <= set(commands["start",].options)
    kinds = {one.names[-1]: one.kind for one in commands["start",].arguments}
    assert (kinds["--profile"], kinds["--cluster-id"], kinds["--daemonize"]) == ("profile", "cluster", "")
    assert (kinds["--engines"], kinds["--profile-dir"], kinds["-n"]) == ("words", "folder", "any")
    assert [one.kind for one in commands["profile", "show"].positionals] == ["profile"]
    assert commands["run",].positionals[0].kind == "file"


def complete(run: Run, line: str) -> list[str]:
    """Return what bash offers at the end of a line."""
    script = run("completion", "bash").stdout
    words = line.split(" ")
    code = (
        f'{script}\nCOMP_WORDS=("$@")\nCOMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n_mpiparallel\n'
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-uc", code, "bash", *words], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("mpiparallel sta", ["start", "status"]),
        ("mpiparallel start --daem", ["--daemonize"]),
        ("mpiparallel start --engines s", ["srun", "slurm", "ssh"]),
        ("mpiparallel start --engines = s", ["srun", "slurm", "ssh"]),
        ("mpiparallel start --profile h", ["hpc"]),
        ("mpiparallel start --profile =", ["default", "hpc"]),
        ("mpiparallel stop --cluster-id ", ["two"]),
        ("mpiparallel profile ", ["show", "new", "check", "list"]),
        ("mpiparallel profile show ", ["default", "hpc"]),
        ("mpiparallel profile show --js", ["--json"]),
        ("mpiparallel list --profile hpc --j", ["--json"]),
        ("mpiparallel completion ", ["bash", "zsh"]),
        ("mpiparallel start -n ", []),
        ("mpiparallel run scr", ["script.py"]),
    ],
)
def test_completion_in_bash(
    run: Run, site: Path, state: Path, line: str, offers: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "hpc.toml").touch()
    (site / "script.py").touch()
    (state / "default" / "cluster-two").mkdir(parents=True)
    monkeypatch.chdir(site)
    assert complete(run, line) == offers


def test_the_completion_is_a_clean_script(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "completion.bash"
    path.write_text(run("completion", "bash").stdout)
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("no shellcheck")
    done = subprocess.run([checker, "-s", "bash", path], capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("mpiparallel sta", ["start", "status", "start a controller and engines"]),
        ("mpiparallel profile ", ["show", "new", "check", "list"]),
        ("mpiparallel start --engines ", ["slurm", "lsf"]),
        ("mpiparallel results --st", ["--status", "only such tasks"]),
        ("mpiparallel profile show ", ["default", "hpc"]),
    ],
)
def test_completion_in_zsh(
    run: Run, site: Path, state: Path, line: str, offers: list[str], tmp_path: Path
) -> None:
    (site / "hpc.toml").touch()
    (state / "default" / "cluster-two").mkdir(parents=True)
    script = tmp_path / "_mpiparallel"
    script.write_text(run("completion", "zsh").stdout)
    shell = pexpect.spawn(
        "zsh",
        ["-f", "-i"],
        encoding="utf-8",
        timeout=30,
        dimensions=(50, 160),
        env={**os.environ, "TERM": "dumb"},
    )
    try:
        shell.sendline(
            f"unsetopt zle_bracketed_paste; autoload -Uz compinit; compinit -u -D; . {script}; echo OK$?"
        )
        shell.expect("OK0")
        shell.send(f"{line}\t\t")
        shown = ""
        while not all(one in shown for one in offers):
            shown += shell.read_nonblocking(4096, timeout=20)
    finally:
        shell.close(force=True)


# ---------------------------------------------------------------- what is told


def test_who_finds_no_cluster_is_told_how_to_start_that_very_one(run: Run, state: Path) -> None:
    with pytest.raises(ConnectionFileError, match=r"mpiparallel start -n 4$"):
        Client(timeout=0)
    with pytest.raises(ConnectionFileError, match=r"mpiparallel start --profile hpc -n 4$"):
        Client(profile="hpc", timeout=0)
    with pytest.raises(ConnectionFileError, match=r"mpiparallel start --profile hpc --cluster-id a -n 4$"):
        Client(profile="hpc", cluster_id="a", timeout=0)


def test_a_slip_in_the_name_of_a_profile(run: Run, site: Path) -> None:
    (site / "hpc.toml").touch()
    done = run("start", "-n", 0, "--profile", "hcp", "--daemonize", "--json")
    assert done.stderr == (
        "mpiparallel: the profile 'hcp' has no file, so that it is a name only. Did you mean 'hpc'?\n"
    )
    started = json.loads(done.stdout)
    assert (started["profile"], started["engines"], started["state"]) == ("hcp", 0, "running")
    with Client(started["connection_file"]) as client:
        assert client.ids == []
    assert run("stop", "--profile", "hcp").returncode == 0
    assert run("start", "-n", 0, "--json").returncode == 2


def test_who_reads_the_output_may_have_seen_enough(state: Path) -> None:
    command = f"{sys.executable} -m mpiparallel profile show --all | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    assert done.stdout in ("0\n", "1\n")  # it may have said all before that
