"""Run by mpiexec (see test_recovery.py): ranks send one another random messages while ranks are killed.

Every message between those that live arrives once and in order; the same holds for the beginning of what a
rank sent that died. At the end, those that live make communicators.
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
from deaths import STEPS, plan
from mpi4py import MPI

from mpiparallel.engine.groups import CommLost
from mpiparallel.engine.mail import Mail, RanksLost
from mpiparallel.engine.recovery import Parting, recover
from mpiparallel.engine.world import join_world
from mpiparallel.wire.messages import Message, Notice, Renew, Result, Submit

SIZES = (0, 10, 4096, 4097, 70_000, 70_000, 1_500_000)
KEY = struct.Struct("<QQ")
COMMS = 6


def body(key: int, size: int) -> np.ndarray:
    """Return `size` bytes that `key` determines."""
    return (np.arange(size, dtype=np.uint64) * 2654435761 + key).astype(np.uint8)


def die(after: float = 0.0) -> None:
    """Be killed, in `after` seconds."""
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)


def die_soon(after: float) -> None:
    """Go on, to be killed in the middle of anything."""
    threading.Thread(target=die, args=[after], daemon=True).start()


class Rank:
    """Talks to all others until everybody has said that it has ended."""

    def __init__(self, scenario: str, seed: int) -> None:
        self.scenario = scenario
        self.world = join_world()
        self.mail = Mail(self.world, self.deliver)
        self.dice = random.Random(f"{seed}-{self.world.rank}")
        deaths = plan(scenario, seed, self.world.size)
        self.where, self.when = deaths.get(self.world.rank, ("", 0.0))
        self.doomed = sorted(deaths)
        zero = dict.fromkeys(range(self.world.size), 0)
        self.sent, self.notices, self.expected, self.expected_notices = (dict(zero) for _ in range(4))
        self.ended: set[int] = set()
        self.comms: list = []  # and the sum that runs on each
        self.sums = self.refused = 0

    # ------------------------------------------------------------ what arrives

    def deliver(self, source: int, message: Message) -> None:
        header, payload = message
        if isinstance(header, Notice):
            if header.text == "die":
                die()
            assert int(header.text) == self.expected_notices[source], (source, header)
            self.expected_notices[source] += 1
        elif isinstance(header, Renew):
            self.take(header)
        else:
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
            self.refused += 1
            return
        assert (comm.size, comm.rank) == (len(header.members), header.members.index(self.world.rank))
        one, total = np.ones(1, "i8"), np.zeros(1, "i8")
        self.comms.append((comm, comm.Iallreduce(one, total), total, one))

    def finish_sums(self) -> None:
        for one in list(self.comms):
            comm, request, total, _ = one
            if request.Test():
                assert total[0] == comm.size
                self.sums += 1
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
        if not others:
            return
        if what < 0.15:
            to = dice.choice(others)
            self.mail.post(to, [Message(Notice("c", "r", str(self.notices[to])))])
            self.notices[to] += 1
        elif world.rank == world.leader and what < 0.6:
            # The widest go by a broadcast.
            targets = dice.sample(world.alive, dice.randint(1, len(world.alive)))
            shared, own = body(key, size), KEY.pack(key, size)
            messages = {
                rank: Message(
                    Submit(self.number(rank), "c", "push", [rank], common=1, parts=[1]), [shared, own]
                )
                for rank in (targets if what < 0.4 else world.alive)
            }
            self.mail.post_to_all(messages, 1, collective=dice.random() < 0.8)
        else:
            to = dice.choice(others)
            header = Result(self.number(to), world.rank, "ok")
            self.mail.post(to, [Message(header, [body(key, size), KEY.pack(key, size)])])

    def make_comms(self) -> None:
        for i in range(COMMS):
            members = list(self.world.alive)
            if i:
                members = self.dice.sample(members, self.dice.randint(1, len(members)))
            if self.scenario == "order" and i == 0:
                self.mail.post(self.doomed[0], [Message(Notice("c", "r", "die"))])
            renew = Message(Renew("c", "d", self.mail.new_comm(members), members))
            for rank in members:
                self.mail.deliver_here(renew) if rank == self.world.rank else self.mail.post(rank, [renew])

    # ------------------------------------------------------------ the loop

    def step(self) -> None:
        try:
            self.mail.progress()
        except RanksLost:
            leader = self.world.leader
            began = time.monotonic()
            loss = recover(self.world, self.mail, self.in_recovery)
            assert loss.new_leader == (leader in loss.ranks) and not set(loss.ranks) & set(self.world.alive)
            milliseconds = 1000 * (time.monotonic() - began)
            print(f"[{self.world.rank}] lost {loss.ranks} {milliseconds:.0f} ms", flush=True)
        self.finish_sums()

    def in_recovery(self) -> None:
        MPI.COMM_WORLD.Revoke()
        if self.where == "recovery":
            die_soon(self.when)

    def run_until(self, condition) -> None:
        while not condition():
            self.step()
            os.sched_yield()

    def end(self) -> None:
        others = [rank for rank in self.world.alive if rank != self.world.rank]
        for rank in others:
            self.mail.post(rank, [Message(Result(self.number(rank), self.world.rank, "aborted"))])

    def run(self) -> None:
        world = self.world
        if self.where == "time":
            die_soon(self.when)
        for i in range(STEPS):
            if (self.where, self.when) == ("step", i):
                die()
            self.send_something()
            for _ in range(self.dice.randint(0, 4)):
                self.step()
        by_message = self.scenario == "order"
        self.run_until(lambda: by_message or world.lost == self.doomed)
        # The last leader ends last, when all have heard of all deaths.
        if world.rank == world.leader:
            self.run_until(lambda: self.ended >= set(world.alive) - {world.rank})
            self.make_comms()
        self.end()
        self.run_until(lambda: self.ended >= set(world.alive) - {world.rank})
        self.run_until(lambda: self.mail.idle and not self.comms and world.lost == self.doomed)
        parting = Parting(world, self.mail)
        while not parting.done():
            os.sched_yield()
        print(f"rank {world.rank} fine: {self.sums} sums, {self.refused} refused", flush=True)
        if not parting.can_finalize:
            os._exit(0)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(60, exit=True)
    try:
        Rank(sys.argv[1], int(sys.argv[2])).run()
    except BaseException:
        traceback.print_exc()
        MPI.COMM_WORLD.Abort(1)
