"""The allocation that a program is in, by its environment alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpiparallel.launch.allocation import Allocation, expand, find, per_node


@pytest.mark.parametrize(
    ("listed", "hosts"),
    [
        ("node1", ["node1"]),
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[1-2,5],login2", ["node1", "node2", "node5", "login2"]),
        ("n[008-011]", ["n008", "n009", "n010", "n011"]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("a1,b[7],c", ["a1", "b7", "c"]),
        ("gpu[1-2]-ib,x", ["gpu1-ib", "gpu2-ib", "x"]),
        ("", []),
    ],
)
def test_lists_of_hosts(listed: str, hosts: list[str]) -> None:
    assert expand(listed) == hosts


@pytest.mark.parametrize("listed", ["node[1-", "node]1", "node[a-b]", "node[1-2-3]", "node[]", "n[1-x]"])
def test_what_is_no_list_of_hosts(listed: str) -> None:
    with pytest.raises(ValueError, match="is not a list of hosts"):
        expand(listed)


@pytest.mark.parametrize(
    ("text", "numbers"), [("2", [2]), ("16(x2),3", [16, 16, 3]), ("1,4(x3)", [1, 4, 4, 4]), ("", [])]
)
def test_numbers_of_tasks(text: str, numbers: list[int]) -> None:
    assert per_node(text) == numbers


@pytest.mark.parametrize("text", ["two", "2(y3)", "2(x)", "-1"])
def test_what_are_no_numbers_of_tasks(text: str) -> None:
    with pytest.raises(ValueError, match="is not a list of numbers"):
        per_node(text)


SLURM = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_TASKS_PER_NODE": "2(x2)"}


@pytest.mark.parametrize(
    ("changes", "ntasks"),
    [({"SLURM_NTASKS": "3"}, 3), ({"SLURM_NPROCS": "3"}, 3), ({}, 4), ({"SLURM_TASKS_PER_NODE": ""}, 2)],
)
def test_slurm(changes: dict[str, str], ntasks: int) -> None:
    found = find({**SLURM, **changes})
    assert found == Allocation("slurm", "12", ("node1", "node2"), ntasks)
    assert str(found) == "job 12 on 2 nodes"


def test_in_a_step_the_number_of_tasks_is_what_fits() -> None:
    step = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1", "SLURM_TASKS_PER_NODE": "1", "SLURM_NODELIST": "node1"}
    found = find({**SLURM, **step, "SLURM_JOB_CPUS_PER_NODE": "4(x2)", "SLURM_CPUS_PER_TASK": "2"})
    assert found == Allocation("slurm", "12", ("node1", "node2"), 4)


def test_old_names_of_slurm() -> None:
    found = find({"SLURM_JOBID": "7", "SLURM_NODELIST": "a", "SLURM_NTASKS": "1"})
    assert found == Allocation("slurm", "7", ("a",), 1) and str(found) == "job 7 on a"


def test_pbs(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("n1\nn1\nn2\nn2\n")
    environ = {"PBS_JOBID": "5.server", "PBS_NODEFILE": str(tmp_path / "nodes")}
    assert find(environ) == Allocation("pbs", "5.server", ("n1", "n2"), 4, str(tmp_path / "nodes"))


def test_lsf(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("n1\nn2\nn2\n")
    job = {"LSB_JOBID": "9"}
    many = {"LSB_MCPU_HOSTS": "n1 1 n2 2"}
    each = {"LSB_HOSTS": "n1 n2 n2"}
    file = {"LSB_DJOB_HOSTFILE": str(tmp_path / "hosts")}
    assert find({**job, **many}) == find({**job, **each}) == Allocation("lsf", "9", ("n1", "n2"), 3)
    expected = Allocation("lsf", "9", ("n1", "n2"), 3, str(tmp_path / "hosts"))
    assert find({**job, **file}) == find({**job, **file, **many}) == expected
    with pytest.raises(ValueError, match="expected hosts and their slots"):
        find({**job, "LSB_MCPU_HOSTS": "n1 1 n2"})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_CONF": "/etc/slurm.conf"},
        {"SLURM_JOB_ID": "1"},
        {"PBS_JOBID": "1"},
        {"PBS_JOBID": "1", "PBS_NODEFILE": "/no/such/file"},
        {"LSB_JOBID": "1"},
        {"LSB_JOBID": "1", "LSB_DJOB_HOSTFILE": "/no/such/file"},
    ],
)
def test_no_allocation(environ: dict[str, str]) -> None:
    assert find(environ) is None


@pytest.mark.parametrize(
    ("nodes", "here", "spreads"),
    [
        (("node1",), "node1", False),
        (("node1",), "node1.site.org", False),
        (("node1.site.org",), "node1", False),
        (("node1",), "login", True),
        (("node1", "node2"), "node1", True),
        (("10.0.0.1",), "10.0.0.2", True),
    ],
)
def test_whether_it_has_other_hosts(nodes: tuple[str, ...], here: str, spreads: bool) -> None:
    assert Allocation("slurm", "1", nodes, 1).spreads(here) is spreads
