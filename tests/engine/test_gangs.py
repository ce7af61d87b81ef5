"""Which sets of ranks have a communicator of their own, and tasks that are given back. Without MPI."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpiparallel.engine.gangs import Gangs
from mpiparallel.engine.overseer import Overseer
from mpiparallel.wire.between import Drop, Made, Want

SETS = st.sets(st.integers(0, 5), min_size=2, max_size=5).map(lambda ranks: tuple(sorted(ranks)))


class Ranks:
    """Six ranks that keep what they are told to."""

    def __init__(self, max_sets):
        self.kept = [{} for _ in range(6)]
        self.used = set()
        self.made = 0
        self.gangs = Gangs(self.make, self.tell, self.used.__contains__, max_sets)
        self.gangs.alive(range(6), 0)

    def make(self, places):
        self.made += 1
        return self.made

    def tell(self, place, header):
        if isinstance(header, Made):
            self.kept[place][tuple(header.members)] = header.made
        else:
            assert isinstance(header, Drop)
            assert tuple(header.members) not in self.used
            del self.kept[place][tuple(header.members)]


@given(st.lists(st.tuples(SETS, st.booleans()), max_size=60))
def test_all_members_keep_the_same_and_none_that_is_used_is_dropped(steps):
    ranks, most = Ranks(max_sets=3), 3
    for places, stays in steps:
        ranks.used.add(places)
        most = max(most, len(ranks.used))
        ranks.gangs.want(Want(list(places)))
        for used in ranks.used:
            assert len({ranks.kept[place][used] for place in used}) == 1
        if not stays:
            ranks.used.discard(places)
        known = set().union(*ranks.kept)
        assert len(known) <= most


def test_one_that_could_not_be_made_is_made_again_once():
    ranks = Ranks(max_sets=3)
    ranks.gangs.want(Want([1, 2]))
    ranks.gangs.want(Want([1, 2], failed=1))
    ranks.gangs.want(Want([2, 1], failed=1))
    assert ranks.made == 2


def test_all_and_the_dead_get_none():
    ranks = Ranks(max_sets=3)
    ranks.gangs.want(Want(list(range(6))))
    ranks.gangs.alive(range(5), 1)
    ranks.gangs.want(Want([4, 5]))
    assert ranks.made == 0
    ranks.gangs.want(Want([3, 4]))
    assert ranks.made == 1


def test_a_part_that_is_given_back_is_waited_for_no_more():
    overseer = Overseer(0, range(3), lambda *_: None, lambda *_: None, lambda *_: None)
    overseer.submitted("c-1", "c", [1])
    overseer.submitted("c-2", "c", [1])
    overseer.withdrawn("c-1", 1)
    overseer.withdrawn("c-9", 1)
    assert [request.name for request in overseer.open_on(1)] == ["c-2"]
    assert overseer.is_open_for([1]) and not overseer.is_open_for([2])
    overseer.submitted("c-1", "c", [2])
    assert [request.name for request in overseer.open_on(2)] == ["c-1"]
