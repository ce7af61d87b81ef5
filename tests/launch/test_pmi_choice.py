"""A way of srun that it does not know is refused before anything is submitted."""

from __future__ import annotations

import pytest

from mpiparallel import launchoptions
from mpiparallel.error import LaunchError
from mpiparallel.launch import pmi
from mpiparallel.launch.argv import MPI, Dialect


@pytest.mark.parametrize(
    ("dialect", "plugins", "remedy"),
    [
        (Dialect.OPENMPI, ("none", "pmi2", "pmix"), "Use 'pmix', or leave it out"),
        (Dialect.MPICH, ("none", "pmi2", "pmix"), "Use 'pmi2', or leave it out"),
        (Dialect.OPENMPI, ("none", "pmi2"), "Use 'none': mpiexec starts"),
    ],
)
def test_a_wrong_one(
    monkeypatch: pytest.MonkeyPatch, dialect: Dialect, plugins: tuple[str, ...], remedy: str
) -> None:
    monkeypatch.setattr(pmi, "offered", lambda: plugins)
    options = launchoptions.check({"srun_mpi": "pmx"}, "test")
    with pytest.raises(LaunchError) as error:
        pmi.choose(options, MPI("mpiexec", dialect))
    assert f"srun_mpi='pmx': this srun knows {', '.join(plugins)} only" in str(error.value)
    assert remedy in str(error.value)


def test_what_is_known_or_cannot_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    options = launchoptions.check({"srun_mpi": "pmi2"}, "test")
    which = MPI("mpiexec", Dialect.OPENMPI)
    monkeypatch.setattr(pmi, "offered", lambda: ("pmi2", "pmix"))
    assert pmi.choose(options, which) == "pmi2"
    monkeypatch.setattr(pmi, "offered", lambda: ())
    assert pmi.choose(options, which) == "pmi2"
    monkeypatch.setattr(pmi, "offered", lambda: ("pmix",))
    assert pmi.choose(options, which, there=False) == "pmi2"
