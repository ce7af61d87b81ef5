"""Run by mpiexec (see test_guard.py): what guarded communicators know, and what others do with that."""

from __future__ import annotations

import pickle
import sys
import threading
import traceback
from typing import Any

import numpy as np
from mpi4py import MPI

from mpiparallel.engine import evidence, guard
from mpiparallel.engine.guard.plain import Request
from mpiparallel.engine.guard.requests import _parts as parts_of
from mpiparallel.engine.guard.waiting import watch
from mpiparallel.error import CommunicatorBroken, DeadlockError, PeerFailed
from mpiparallel.wire.waits import Part
from tests.engine.guard.guard_ranks import LONG, PLAIN, RANK, SIZE, renew_all, together, when_blocked


def cuts() -> None:
    """The courier ends a wait by the error that it has for it; another number changes nothing."""
    g = guard.install(MPI.COMM_WORLD)
    comm = MPI.COMM_WORLD
    for error in (PeerFailed(1, "ValueError: no"), DeadlockError("nobody moves")):
        if RANK == 0:
            seen: list[Any] = []
            done: list[bool] = []

            def cut(g: guard.Guard, error: Exception = error, seen: Any = seen, done: Any = done) -> None:
                done.extend([g.cut(seen[0].number + 1, KeyError("wrong")), g.cut(seen[0].number, error)])

            thread = when_blocked(cut, g, seen)
            try:
                comm.Barrier()
                raise AssertionError("the barrier ended")
            except type(error) as raised:
                assert raised is error
            thread.join()
            assert done == [False, True] and g.current() is None
            assert [entry[0] for entry in g.take_broken()] == [comm._state.id]
            comm._state.broken = None
            guard.guard.faults.mark_broken(comm._state, "a wait was cut")
        together()
        renew_all(g)
        assert comm.allreduce(1) == SIZE


def ledgers() -> None:
    """What was begun, sent and received is counted, and the parts of waits name it."""
    g = guard.install(MPI.COMM_WORLD)
    comm = MPI.COMM_WORLD
    right, left = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    data, other = np.zeros(2), np.zeros(2)
    comm.Barrier()
    comm.Bcast(data, SIZE - 1)
    comm.allreduce(1)
    comm.Ibarrier().Wait()
    comm.isend(1, right, 5).wait()
    comm.Send(data, right, 5)
    comm.recv(None, left, 5)
    pending = comm.Irecv(other, left, 6)
    probed = comm.Mprobe(left, 5)
    g.begin_task()
    ledger = g.ledgers(["world", "nobody's"])["world"]
    assert ledger.collectives == 4
    assert ledger.recent == ["Barrier", f"Bcast(root={SIZE - 1})", "allreduce", "Barrier"], ledger.recent
    assert ledger.sent == [[right, 5, 2]] and ledger.received == [[left, 5, 2]], ledger
    assert ledger.pending == [[left, 6]] and not ledger.opaque
    assert list(g.members("world")) == list(range(SIZE))
    assert not comm._state.used_by_task
    probed.Recv(other)
    together()
    comm.Send(data, right, 6)
    MPI.Request.Waitall([pending])
    after = g.ledgers(["world"])["world"]
    assert after.pending == [] and [left, 6, 1] in after.received
    assert comm._state.used_by_task
    cancelled = comm.Irecv(other)
    assert g.ledgers(["world"])["world"].pending == [[-1, -1]]
    cancelled.Cancel()
    cancelled.Wait()
    assert g.ledgers(["world"])["world"] == after

    if RANK == 0:
        seen: list[Any] = []

        def help_out(g: guard.Guard) -> None:
            PLAIN.send("go on", right, 1)

        thread = when_blocked(help_out, g, seen)
        comm.Allreduce(data, other)
        thread.join()
        assert seen[0].call == "Allreduce" and seen[0].members == {"world": list(range(SIZE))}
        parts = [Part("collective", "world", "Allreduce", 4, 16)]
        assert seen[0].parts == parts, seen
        assert seen[0].names == {"world": "MPI.COMM_WORLD"}
    else:
        if right_of(0) == RANK:
            PLAIN.recv(source=0, tag=1)
        comm.Allreduce(data, other)
    if RANK == 0:
        seen = []

        def answer(g: guard.Guard) -> None:
            PLAIN.send("go on", right, 2)

        thread = when_blocked(answer, g, seen)
        requests = [comm.Irecv(data, right, 1), comm.Irecv(other, right, 2)]
        MPI.Request.Waitany(requests)
        MPI.Request.Waitall(requests)
        thread.join()
        parts = {Part("receive", "world", peer=right, tag=tag) for tag in (1, 2)}
        assert seen[0].any and set(seen[0].parts) == parts, seen
    elif right_of(0) == RANK:
        PLAIN.recv(source=0, tag=2)
        comm.Send(data, 0, 1)
        comm.Send(data, 0, 2)
    persistent = comm.Send_init(data, MPI.PROC_NULL)
    assert g.ledgers(["world"])["world"].opaque
    persistent.Free()
    comm.Barrier()


def requests() -> None:
    """What requests tell of themselves: until they are over, which is before their receive is counted."""
    guard.install(MPI.COMM_WORLD)
    comm = MPI.COMM_WORLD
    right, left = (RANK + 1) % SIZE, (RANK - 1) % SIZE
    data, other = np.zeros(2), np.zeros(2)
    together()
    comm.isend(1, right, 2).Wait()
    sends = {
        "Isend": comm.Isend(LONG, right, 1),
        "isend": comm.isend(LONG, right, 2),
        "issend": comm.issend(1, right, 2),
        "in parts": comm.Isend([LONG, 500_000, MPI.DOUBLE], right, 1),
        "Isendrecv": comm.Isendrecv(LONG, right, 3, other, left, 4),
    }
    found = {name: parts_of([request])[0] for name, request in sends.items()}
    nbytes = len(pickle.dumps(LONG, pickle.HIGHEST_PROTOCOL))
    assert found["Isend"] == Part("send", "world", "", 0, LONG.nbytes, right, 1), found
    assert found["isend"].index == 1 and abs(found["isend"].nbytes - nbytes) < 100, found
    assert found["issend"] == Part("send", "world", "", 2, -1, right, 2), found
    assert found["in parts"] == Part("send", "world", "", 1, 4_000_000, right, 1), found
    both = [Part("send", "world", "", 0, LONG.nbytes, right, 3), Part("receive", "world", peer=left, tag=4)]
    assert parts_of([sends["Isendrecv"]]) == both
    receive = comm.Irecv(data, left, 7)
    assert parts_of([receive]) == [Part("receive", "world", peer=left, tag=7)]
    comm.Send(data, right, 7)
    while not Request.Test(receive):  # as mpi4py sees it: not counted yet
        pass
    assert comm._state.ledger().pending == [[left, 4], [left, 7]]
    assert parts_of([receive]) == [Part("other")]
    comm._state.generation += 1
    assert parts_of([sends["Isend"], sends["Isendrecv"]]) == [Part("other")] * 3
    comm._state.generation -= 1
    for tag, count in ((1, 2), (2, 0), (3, 1)):
        for _ in range(count):
            comm.Recv(np.zeros_like(LONG), left, tag)
    assert [comm.recv(source=left, tag=2) is not None for _ in range(3)] == [True] * 3
    comm.Send(data, right, 4)
    MPI.Request.Waitall(list(sends.values()))


def right_of(rank: int) -> int:
    return (rank + 1) % SIZE


def derived() -> None:
    """Communicators that are made of guarded ones are guarded; all members call each by the same id."""
    g = guard.install(MPI.COMM_WORLD)
    comm = MPI.COMM_WORLD
    group = comm.group
    half = group.Incl(list(range(SIZE // 2 + 1)))
    made = {
        "Dup": comm.Dup(),
        "Dup with info": comm.Dup(MPI.INFO_NULL),
        "Clone": comm.Clone(),
        "Split": comm.Split(RANK % 2, -RANK),
        "Split_type": comm.Split_type(MPI.COMM_TYPE_SHARED),
        "Create": comm.Create(half),
        "Create_group": comm.Create_group(half) if half.rank != MPI.UNDEFINED else MPI.COMM_NULL,
        "Create_cart": comm.Create_cart([SIZE], [True]),
        "Create_graph": comm.Create_graph(list(range(1, SIZE + 1)), [right_of(r) for r in range(SIZE)]),
        "Create_dist_graph_adjacent": comm.Create_dist_graph_adjacent([(RANK - 1) % SIZE], [right_of(RANK)]),
    }
    made["Sub"] = made["Create_cart"].Sub([True])
    made["Dup of Split"] = made["Split"].Dup()
    new, request = comm.Idup()
    request.Wait()
    made["Idup"] = new
    copy = MPI.Intracomm(made["Dup"])
    assert copy._state is made["Dup"]._state and copy == made["Dup"]
    ids = set()
    for name, one in made.items():
        if not one:
            continue
        id = one._state.id
        everybody = one.allgather((id, RANK))
        assert {other for other, _ in everybody} == {id}, (name, everybody)
        assert list(g.members(id)) == [rank for _, rank in everybody], name
        assert one.allreduce(RANK) == sum(rank for _, rank in everybody)
        assert isinstance(one, MPI.Intracomm) and one._state.rank == one.rank
        ids.add(id)
    assert len(ids) == sum(bool(one) for one in made.values()), ids
    before = g.members(made["Dup"]._state.id)
    assert tuple(before) == tuple(range(SIZE))
    assert isinstance(made["Create_cart"], MPI.Cartcomm) and made["Create_cart"]._state.topology == [
        [SIZE],
        [1],
    ]

    graph = made["Create_dist_graph_adjacent"]
    guard.guard.faults.mark_broken(graph._state, "of a test")
    assert graph._state.id in [id for id, _, _ in g.take_broken()]
    g.renew(graph._state.id, PLAIN.Dup(), range(SIZE), "fresh")
    assert graph.neighbor_allgather(RANK) == [(RANK - 1) % SIZE] and graph._state.id == "fresh"

    gone = made["Dup"]._state.id
    for one in (made["Dup"], made["Split"]):
        one.Free()
        assert not one
    assert g.ledgers([gone]) == {}
    del one, made
    comm.Barrier()


def world() -> None:
    """The guarded world is the world: pickles, attributes, names, before and after it was renewed."""
    plain = MPI.COMM_WORLD
    upper, info = plain.Get_attr(MPI.TAG_UB), plain.Get_attr(MPI.UNIVERSE_SIZE)
    g = guard.install(MPI.COMM_WORLD)
    comm = MPI.COMM_WORLD
    assert type(comm) is MPI.Intracomm and isinstance(plain, MPI.Intracomm)
    assert isinstance(MPI.REQUEST_NULL, MPI.Request) and issubclass(MPI.Cartcomm, MPI.Intracomm)
    for _ in range(2):
        assert pickle.loads(pickle.dumps(comm)) is comm
        assert pickle.loads(pickle.dumps(MPI.Intracomm(comm))) == comm
        assert comm.Get_attr(MPI.TAG_UB) == upper and comm.Get_attr(MPI.UNIVERSE_SIZE) == info
        comm.free()
        assert comm and comm.allreduce(1) == SIZE
        g.begin_task()
        comm.send(1, RANK)
        comm.recv()
        g.break_used("its task ended with ValueError")
        try:
            comm.Barrier()
            raise AssertionError("not broken")
        except CommunicatorBroken as error:
            assert "Barrier on MPI.COMM_WORLD" in str(error) and "ValueError" in str(error)
        assert MPI.COMM_SELF.allgather(1) == [1], "what the task has not used is as it was"
        together()
        renew_all(g)
    alias = MPI.Intracomm(comm)
    g.begin_task()
    g.break_used("again")
    assert g.take_broken() == []
    assert alias.allreduce(1) == SIZE
    other = threading.Thread(target=lambda: MPI.COMM_SELF.sendrecv(1, 0, 3, None, 0, 3))
    other.start()
    other.join()
    assert g.ledgers([MPI.COMM_SELF._state.id])[MPI.COMM_SELF._state.id].opaque


def threads() -> None:
    """Threads may wait, too; only the main thread's wait is told, and unknown threads make all unsure."""
    g = guard.install(MPI.COMM_WORLD)
    comm = MPI.COMM_WORLD
    got: list[Any] = []
    waiting = threading.Thread(target=lambda: got.append(comm.recv(None, (RANK - 1) % SIZE, 11)))
    waiting.start()
    assert g.ledgers(["world"])["world"].opaque, "what the thread will do is not known"
    together()
    assert g.current() is None and watch.waiting is None
    comm.send(RANK, right_of(RANK), 11)
    waiting.join()
    assert got == [(RANK - 1) % SIZE]


def abort(log: str) -> None:
    """MPI_Abort leaves in the log who called it."""
    evidence.install(RANK, 2, log, False)
    guard.install(MPI.COMM_WORLD)
    if RANK == SIZE - 1:
        MPI.COMM_WORLD.Abort(3)
    MPI.COMM_WORLD.Barrier()


if __name__ == "__main__":
    try:
        globals()[sys.argv[1]](*sys.argv[2:])
        together()
        print(f"rank {RANK} fine", flush=True)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        PLAIN.Abort(1)
