"""Run by mpiexec (see test_mail.py): ranks send one another random messages and check what arrives."""

from __future__ import annotations

import os
import random
import sys

import numpy as np
from mpi4py import MPI

from mpiparallel.engine.arrivals import Arrival
from mpiparallel.engine.groups import MAX_GROUPS
from mpiparallel.engine.mail import Mail
from mpiparallel.engine.world import join_world
from mpiparallel.wire.messages import Abort, Message, Result, Submit

SIZES = (0, 10, 4096, 4097, 70_000, 3_000_000)


def body(number: int, size: int) -> np.ndarray:
    """Return `size` bytes that `number` determines."""
    return (np.arange(size, dtype=np.uint64) * 2654435761 + number).astype(np.uint8)


def finish(mail: Mail, complete) -> None:
    """Make progress until everybody has sent and received everything."""
    barrier = None
    while True:
        mail.progress()
        if barrier is None and complete() and mail.idle:
            barrier = MPI.COMM_WORLD.Ibarrier()
        if barrier is not None and barrier.Test():
            return
        os.sched_yield()


def to_rank_0(seed: int) -> None:
    """Every rank sends rank 0 results of all sizes; they arrive whole and in order."""
    world, arrived = join_world(), []
    mail = Mail(world, lambda source, message: arrived.append((source, message)))
    count = 40
    if world.rank:
        for i in range(count):
            size = random.Random(seed + i).choice(SIZES)
            mail.post(
                0, [Message(Result("r-1", world.rank, "ok", started=float(i)), [body(i, size), b"end"])]
            )
            mail.progress()
    finish(mail, lambda: world.rank or len(arrived) == count * (world.size - 1))
    for rank in range(1, world.size) if world.rank == 0 else ():
        mine = [message for source, message in arrived if source == rank]
        assert [message.header.started for message in mine] == [float(i) for i in range(count)], rank
        for i, message in enumerate(mine):
            size = random.Random(seed + i).choice(SIZES)
            assert bytes(message.payload[0]) == body(i, size).tobytes() and message.payload[1] == b"end"


def from_rank_0(seed: int) -> None:
    """Rank 0 sends to random sets of ranks, by broadcasts and one by one, and all keep the order."""
    world, arrived = join_world(), []
    mail = Mail(world, lambda source, message: arrived.append(message))
    dice, expected = random.Random(seed), []
    for i in range(6 * MAX_GROUPS):
        targets = sorted(dice.sample(range(world.size), dice.randint(1, world.size)))
        common, own = dice.choice(SIZES), dice.choice(SIZES[:-1])
        expected.append((i, targets, common, own))
        if world.rank == 0:
            shared = [body(i, common)]
            messages = {
                rank: Message(
                    Submit(f"r-{i}", "r", "push", [rank], common=1, parts=[1]), [*shared, body(i + rank, own)]
                )
                for rank in targets
            }
            mail.post_to_all(messages, 1, collective=dice.random() < 0.7)
            if targets == [0]:
                mail.deliver_here(Message(Submit("here", "r", "clear", [0])))
                expected.append((-1, [0], 0, 0))
            mail.progress()
        else:
            dice.random()
            if targets == [0]:
                expected.append((-1, [0], 0, 0))
    mine = [row for row in expected if world.rank in row[1]]
    finish(mail, lambda: len(arrived) == len(mine))
    for (i, _, common, own), (header, payload) in zip(mine, arrived, strict=True):
        assert header.request == ("here" if i < 0 else f"r-{i}"), (header, i)
        if i >= 0:
            assert bytes(payload[0]) == body(i, common).tobytes()
            assert bytes(payload[1]) == body(i + world.rank, own).tobytes()


def control_overtakes(seed: int) -> None:
    """While a message's long frame is on its way, control passes it and data waits behind it."""
    world, arrived = join_world(), []
    mail = Mail(world, lambda source, message: arrived.append(message.header.request))
    frame = bytearray(5000)
    on_its_way = world.bulk.Irecv([frame, MPI.BYTE], 0, 99)
    large = Message(Submit("large", "r", "push", [0]))
    mail._arrivals.add(0, Arrival([], [on_its_way], messages=[large]))
    mail.deliver_here(Message(Submit("small", "r", "clear", [0])))
    mail.deliver_here(Message(Abort("abort", [0])))
    mail.progress()
    assert arrived == ["abort"], arrived
    world.bulk.Isend([body(1, 5000), MPI.BYTE], 0, 99).Wait()
    finish(mail, lambda: len(arrived) == 3)
    assert arrived == ["abort", "large", "small"], arrived


if __name__ == "__main__":
    {test.__name__: test for test in (to_rank_0, from_rank_0, control_overtakes)}[sys.argv[1]](
        int(sys.argv[2])
    )
    print(f"rank {MPI.COMM_WORLD.rank} fine", flush=True)
