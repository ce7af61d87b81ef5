"""Run by mpiexec (see test_recovery.py): ranks send one another random messages while ranks are killed.

Every message between those that live arrives once and in order; the same holds for the beginning of what a
rank sent that died.
"""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import struct
import sys
import threading
import time
import traceback

import numpy as np
from mpi4py import MPI

from mpiparallel.engine.groups import CommLost
from mpiparallel.engine.mail import Mail, RanksLost
from mpiparallel.engine.recovery import Parting, recover
from mpiparallel.engine.world import join_world
from mpiparallel.wire.messages import Message, Notice, Renew, Result, Submit

SIZES = (0, 10, 4096, 4097, 70_000, 70_000, 1_500_000)
KEY = struct.Struct("<QQ")
COUNT = 150


def body(key: int, size: int) -> np.ndarray:
    """Return `size` bytes that `key` determines."""
    return (np.arange(size, dtype=np.uint64) * 2654435761 + key).astype(np.uint8)


def die(after: float = 0.0) -> None:
    """Be killed, in `after` seconds."""
    if after:
        time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)


class Rank:
    """Talks to all others until everybody has said that it has ended."""

    def __init__(self, seed: int, dying: bool, deaths: list[tuple[str, float]]) -> None:
        self.dying = dying  # whether any rank dies
        self.world = join_world()
        self.mail = Mail(self.world, self.deliver)
        self.dice = random.Random(f"{seed}-{self.world.rank}")
        self.deaths = deaths  # of this rank: (where, when)
        self.sent = dict.fromkeys(range(self.world.size), 0)
        self.notices = dict.fromkeys(range(self.world.size), 0)
        self.expected = dict.fromkeys(range(self.world.size), 0)
        self.expected_notice = dict.fromkeys(range(self.world.size), 0)
        self.ended: set[int] = set()
        self.recoveries = 0
        self.comms: list = []  # and what runs on them
        self.sums = 0

    # ------------------------------------------------------------ what arrives

    def deliver(self, source: int, message: Message) -> None:
        header, payload = message
        if isinstance(header, Notice):
            assert int(header.text) == self.expected_notice[source], (source, header)
            self.expected_notice[source] += 1
            return
        if isinstance(header, Renew):
            self.take(header)
            return
        assert source not in self.ended
        number = int(header.request)
        assert number == self.expected[source], (source, number, self.expected[source])
        self.expected[source] += 1
        if isinstance(header, Result) and header.status == "aborted":
            self.ended.add(source)
            return
        key, size = KEY.unpack(payload[-1])
        assert bytes(payload[0]) == body(key, size).tobytes(), (source, number, size)

    def take(self, header: Renew) -> None:
        try:
            comm = self.mail.take_comm(header.made)
        except CommLost:
            assert self.dying, header  # MPI may have heard of it first
            return
        assert comm.size == len(header.members) and comm.rank == header.members.index(self.world.rank)
        one, total = np.ones(1, "i8"), np.zeros(1, "i8")
        try:
            request = comm.Iallreduce(one, total)
        except MPI.Exception:
            assert self.world.survives
            return
        self.comms.append((comm, request, total, one))

    def finish_sums(self) -> None:
        for one in list(self.comms):
            comm, request, total, _ = one
            try:
                if not request.Test():
                    continue
                assert total[0] == comm.size or self.world.lost, (total[0], comm.size)
                self.sums += 1
            except MPI.Exception:
                assert self.world.survives
            self.comms.remove(one)

    # ------------------------------------------------------------ what is sent

    def number(self, to: int) -> str:
        self.sent[to] += 1
        return str(self.sent[to] - 1)

    def send_something(self) -> None:
        world, dice = self.world, self.dice
        others = [rank for rank in world.alive if rank != world.rank]
        key, size = dice.randrange(1 << 30), dice.choice(SIZES)
        what = dice.random()
        if what < 0.15:
            to = dice.choice(others)
            self.mail.post(to, [Message(Notice("c", "r", str(self.notices[to])))])
            self.notices[to] += 1
        elif world.rank == world.leader and what < 0.2:
            members = dice.sample(world.alive, dice.randint(1, len(world.alive)))
            made = self.mail.new_comm(members)
            renew = Message(Renew("c", "d", made, members))
            for rank in members:
                self.mail.deliver_here(renew) if rank == world.rank else self.mail.post(rank, [renew])
        elif world.rank == world.leader and what < 0.6:
            targets = dice.sample(world.alive, dice.randint(1, len(world.alive)))
            shared, own = body(key, size), KEY.pack(key, size)
            messages = {
                rank: Message(
                    Submit(self.number(rank), "c", "push", [rank], common=1, parts=[1]), [shared, own]
                )
                for rank in targets
            }
            self.mail.post_to_all(messages, 1, collective=dice.random() < 0.7)
        else:
            to = dice.choice(others)
            header = Result(self.number(to), world.rank, "ok")
            self.mail.post(to, [Message(header, [body(key, size), KEY.pack(key, size)])])

    # ------------------------------------------------------------ the loop

    def step(self) -> None:
        try:
            self.mail.progress()
        except RanksLost:
            self.recoveries += 1
            began = time.monotonic()
            loss = recover(self.world, self.mail, self.in_recovery)
            self.check(loss)
            print(f"[{self.world.rank}] lost {loss.ranks} {1e3 * (time.monotonic() - began):.0f} ms", flush=True)
        self.finish_sums()

    def check(self, loss) -> None:
        assert loss.ranks == sorted(loss.ranks) and not set(loss.ranks) & set(self.world.alive)
        assert loss.new_leader == any(rank < self.world.leader for rank in loss.ranks)

    def in_recovery(self) -> None:
        for comm, _, _, _ in self.comms:
            comm.Revoke()
        for where, when in self.deaths:
            if where == "recovery":
                threading.Thread(target=die, args=[when], daemon=True).start()

    def run(self) -> None:
        for where, when in self.deaths:
            if where == "time":
                threading.Thread(target=die, args=[when], daemon=True).start()
        for i in range(COUNT):
            if len(self.world.alive) > 1:
                self.send_something()
            if ("step", i) in self.deaths:
                die()
            for _ in range(self.dice.randint(0, 4)):
                self.step()
        said: set[int] = set()
        while True:
            others = set(self.world.alive) - {self.world.rank}
            for rank in others - said:
                said.add(rank)
                self.mail.post(rank, [Message(Result(self.number(rank), self.world.rank, "aborted"))])
            self.step()
            if self.ended >= others and self.mail.idle and (self.dying or not self.comms):
                # A sum may wait for a rank that could not make the communicator because another one died.
                break
            os.sched_yield()
        parting = Parting(self.world, self.mail)
        while not parting.done():
            os.sched_yield()
        for rank in others:
            assert self.expected[rank] > 0
        print(f"rank {self.world.rank} fine, lost {self.world.lost}, {self.sums} sums", flush=True)
        if not parting.can_finalize:
            os._exit(0)


def plan(scenario: str, seed: int, n: int) -> dict[int, list[tuple[str, float]]]:
    """Return how each rank dies, if it does; the same on all."""
    dice = random.Random(f"{scenario}-{seed}")
    deaths: dict[int, list[tuple[str, float]]] = {}
    if scenario == "none":
        return deaths
    if scenario == "leader":
        return {0: [("step", dice.randrange(COUNT))]}
    if scenario == "two":
        step = dice.randrange(COUNT)
        return {rank: [("step", step)] for rank in dice.sample(range(n), 2)}
    if scenario == "recovery":
        first, *others = dice.sample(range(n), dice.randint(2, n - 1))
        deaths = {rank: [("recovery", dice.uniform(0, 0.012))] for rank in others}
        return {**deaths, first: [("step", dice.randrange(COUNT))]}
    for rank in dice.sample(range(n), dice.randint(1, n - 1)):
        where = dice.choice(["step", "time", "recovery"])
        when = {"step": dice.randrange(COUNT), "time": dice.uniform(0, 0.4), "recovery": dice.uniform(0, 0.012)}
        deaths[rank] = [(where, when[where])]
    return deaths


if __name__ == "__main__":
    faulthandler.dump_traceback_later(20, exit=True)
    scenario, seed = sys.argv[1], int(sys.argv[2])
    deaths = plan(scenario, seed, MPI.COMM_WORLD.size)
    try:
        Rank(seed, bool(deaths), deaths.get(MPI.COMM_WORLD.rank, [])).run()
    except BaseException:
        traceback.print_exc()
        MPI.COMM_WORLD.Abort(1)
