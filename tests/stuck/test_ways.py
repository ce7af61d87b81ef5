"""Every way to get stuck: one is told why in time, the others are left alone, and the engines can go on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ours import get_stuck
from ways import C_CODE, DEADLOCKS, DEATHS, INTERRUPTS, RAISES, RANKS, Way

import mpiparallel as ipp

pytestmark = pytest.mark.mpi

TOLD_WITHIN = 10.0  # seconds: on a busy machine; docs/design.rst has what was measured


@pytest.fixture(scope="module")
def engines() -> Iterator[ipp.Client]:
    """Engines for all ways in which none of them dies: that they serve the next one is what is tested."""
    with ipp.Cluster(n=RANKS) as rc:
        yield rc


def check(way: Way, rc: ipp.Client) -> None:
    outcome = get_stuck(rc, way)
    assert outcome.told is not None, "nobody was told anything"
    assert outcome.told < TOLD_WITHIN
    for text in way.told:
        assert text in outcome.text
    assert outcome.usable is not None, "no collective works any more"
    survivors = RANKS - len(way.dies)
    if not way.dies:
        assert outcome.kept == RANKS
    elif len(rc.ids) < RANKS:  # those who live have gone on, instead of all being started again
        assert outcome.kept == survivors == len(rc.ids)
    if way.unharmed:
        assert outcome.unharmed == way.unharmed


@pytest.mark.parametrize("way", [*RAISES, *DEADLOCKS, *INTERRUPTS], ids=lambda way: way.slug)
def test_all_ranks_live(way: Way, engines: ipp.Client) -> None:
    check(way, engines)


@pytest.mark.parametrize("way", [*DEATHS, *C_CODE], ids=lambda way: way.slug)
def test_ranks_die(way: Way) -> None:
    with ipp.Cluster(n=RANKS, restart="same") as rc:
        check(way, rc)
