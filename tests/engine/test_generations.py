"""Ids of renewed communicators."""

from mpiparallel.engine.generations import base_of, generation_of


def test_generations_follow_one_another():
    ids = ["world", "world~0.1", "world~0.2", "world~0.10", "world~2.1"]
    assert sorted(ids, key=generation_of) == ids
    assert {base_of(id) for id in ids} == {"world"}


def test_what_is_derived_from_a_renewed_one_is_another():
    assert base_of("world~0.10/1.2") == "world~0.10/1.2"
    assert base_of("world~0.10/1.2~0.11") == "world~0.10/1.2"
    assert generation_of("world~0.10/1.2") == ()
    assert generation_of("world~0.10/1.2~0.11") == (0, 11)
