"""Programs of `real_writer` on an engine, where this text is executed: the calls and what they gave."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

LONGEST = 4 << 20
PAUSE = (0.15, 0.3)  # seconds: others report after 0.1 that they are blocked
REDUCTIONS = ("Allreduce", "Reduce", "Scan", "Exscan")


class Runner:
    """One rank's part of a program.

    Attributes
    ----------
    sent, got
        Messages as (communicator, sender, receiver, tag, content, length), in the world's ranks.
    longest
        Seconds of the longest call.
    """

    def __init__(self, comm: Any, members: dict[str, list[int]], objects: bool, seed: int) -> None:
        self.me, self.members, self.objects = comm.rank, members, objects
        self.rng = random.Random(seed * 1000 + self.me)
        self.comms = {"w": comm}
        for name, ranks in members.items():
            if name != "w":
                place = ranks.index(self.me) if self.me in ranks else -1
                self.comms[name] = comm.Split(0 if place >= 0 else MPI.UNDEFINED, place)
        self.slots: dict[str, tuple[Any, Callable[[Any, Any], None]]] = {}
        self.probed: Callable[[str], None] | None = None
        self.sent: list[tuple[Any, ...]] = []
        self.got: list[tuple[Any, ...]] = []
        self.longest = 0.0

    def run(self, ops: list[dict[str, Any]]) -> None:
        for op in ops:
            if self.rng.random() < 0.1:
                self.pause()
            began = time.monotonic()
            getattr(self, op["kind"])(op)
            if op["kind"] != "compute":
                self.longest = max(self.longest, time.monotonic() - began)

    def pause(self) -> None:
        """Keep the others waiting: asleep, in Python, or in C code that lets other threads run."""
        how = self.rng.randrange(3)
        until = time.monotonic() + self.rng.uniform(*PAUSE)
        while (left := until - time.monotonic()) > 0:
            if how == 0:
                time.sleep(left)
            elif how == 1:
                sum(range(1000))
            else:
                np.ones(200_000).sum()

    def compute(self, op: dict[str, Any]) -> None:
        self.pause()

    # ------------------------------------------------------------ messages

    def _message(self, op: dict[str, Any]) -> Any:
        size = op["size"] if op["size"] > 0 else self.rng.choice((1, 100_000))
        content = self.rng.randrange(256)
        self.sent.append((op["comm"], self.me, op["peer"], op["tag"], content, size))
        data = np.full(size, content, np.uint8)
        return bytes(data) if self.objects else data

    def _take(self, comm: str, data: Any, status: MPI.Status) -> None:
        if not self.objects:
            data = data[: status.Get_count(MPI.BYTE)]
        data = np.frombuffer(data, np.uint8)
        assert (data == data[0]).all(), "parts of different messages"
        source = self.members[comm][status.Get_source()]
        self.got.append((comm, source, self.me, status.Get_tag(), int(data[0]), len(data)))

    def _place(self, op: dict[str, Any], rank: int) -> int:
        return self.members[op["comm"]].index(rank) if rank >= 0 else MPI.ANY_SOURCE

    def _keep(self, op: dict[str, Any], request: Any, done: Callable[[Any, Any], None]) -> None:
        self.slots[op["slot"]] = request, done

    def send(self, op: dict[str, Any]) -> None:
        name = ("i" if op["slot"] else "") + ("ssend" if op["size"] < 0 else "send")
        name = name if self.objects else name.capitalize()
        call = getattr(self.comms[op["comm"]], name)
        request = call(self._message(op), self._place(op, op["peer"]), op["tag"])
        if op["slot"]:
            self._keep(op, request, lambda obj, status: None)

    def recv(self, op: dict[str, Any]) -> None:
        source = self._place(op, op["peer"])
        self._receive(op, source, op["tag"] if op["tag"] >= 0 else MPI.ANY_TAG)

    def _receive(self, op: dict[str, Any], source: int, tag: int) -> None:
        comm, status = self.comms[op["comm"]], MPI.Status()
        if self.objects and op["slot"]:
            request = comm.irecv(LONGEST + 1000, source, tag)
            self._keep(op, request, lambda obj, status: self._take(op["comm"], obj, status))
        elif self.objects:
            self._take(op["comm"], comm.recv(source=source, tag=tag, status=status), status)
        else:
            data = np.empty(LONGEST, np.uint8)
            if op["slot"]:
                request = comm.Irecv(data, source, tag)
                self._keep(op, request, lambda obj, status: self._take(op["comm"], data, status))
            else:
                comm.Recv(data, source, tag, status)
                self._take(op["comm"], data, status)

    def probe(self, op: dict[str, Any]) -> None:
        comm, status = self.comms[op["comm"]], MPI.Status()
        source, tag = self._place(op, op["peer"]), op["tag"] if op["tag"] >= 0 else MPI.ANY_TAG
        if self.rng.random() < 0.5:
            comm.Probe(source, tag, status)
            self.probed = lambda op: self._receive(op, status.Get_source(), status.Get_tag())
        else:
            message = comm.mprobe(source, tag) if self.objects else comm.Mprobe(source, tag)
            self.probed = lambda op: self._receive_matched(op, message)

    def precv(self, op: dict[str, Any]) -> None:
        self.probed(op)

    def _receive_matched(self, op: dict[str, Any], message: Any) -> None:
        data = None if self.objects else np.empty(LONGEST, np.uint8)

        def done(obj: Any, status: Any) -> None:
            self._take(op["comm"], obj if self.objects else data, status)

        if op["slot"]:
            self._keep(op, message.irecv() if self.objects else message.Irecv(data), done)
        else:
            status = MPI.Status()
            done(message.recv(status) if self.objects else message.Recv(data, status), status)

    def sendrecv(self, op: dict[str, Any]) -> None:
        comm, status = self.comms[op["comm"]], MPI.Status()
        to, source, message = self._place(op, op["peer"]), self._place(op, op["source"]), self._message(op)
        if self.objects:
            data = comm.sendrecv(message, to, op["tag"], None, source, op["rtag"], status)
        else:
            data = np.empty(LONGEST, np.uint8)
            comm.Sendrecv(message, to, op["tag"], data, source, op["rtag"], status)
        self._take(op["comm"], data, status)

    # ------------------------------------------------------------ requests

    def wait(self, op: dict[str, Any]) -> None:
        kept = [self.slots.pop(slot) for slot in op["slots"] if slot in self.slots]
        requests, statuses = [request for request, _ in kept], []
        call = MPI.Request.waitall if self.objects else MPI.Request.Waitall
        found = call(requests, statuses)
        found = found if self.objects else [None] * len(kept)
        for (_, done), obj, status in zip(kept, found, statuses, strict=True):
            done(obj, status)

    def waitany(self, op: dict[str, Any]) -> None:
        slots = [slot for slot in op["slots"] if slot in self.slots]
        if slots:
            requests, status = [self.slots[slot][0] for slot in slots], MPI.Status()
            if self.objects:
                index, obj = MPI.Request.waitany(requests, status)
            else:
                index, obj = MPI.Request.Waitany(requests, status), None
            self.slots.pop(slots[index])[1](obj, status)

    # ------------------------------------------------------------ collectives

    def coll(self, op: dict[str, Any]) -> None:
        name, _, root = op["call"].rstrip(")").partition("(root=")
        comm, n = self.comms[op["comm"]], op["size"] // 8
        rank, size, roots = comm.rank, comm.size, [int(root)] if root else []
        here = roots in ([], [rank])
        if name[0].islower():
            everybody = list(range(size))
            value: Any = everybody if name == "scatter" else rank
            result = getattr(comm, name)(value, **({"root": int(root)} if root else {}))
            expected = {"gather": everybody, "allgather": everybody, "allreduce": sum(everybody)}
            expected |= {"bcast": int(root or 0), "scatter": rank}
            assert result == (expected[name] if here or name in ("bcast", "scatter") else None), (op, result)
            return
        own, ranks = np.full(n, rank + 1.0), np.arange(1.0, size + 1)
        all_ = np.repeat(ranks, n)
        into, want = np.zeros(n), None
        arguments: tuple[Any, ...]
        if name == "Barrier":
            arguments = ()
        elif name == "Bcast":
            into, want = own, np.full(n, int(root) + 1.0)
            arguments = (own,)
        elif name in REDUCTIONS:
            count = {"Scan": rank + 1, "Exscan": rank}.get(name, size)
            want = np.full(n, ranks[:count].sum())
            arguments = (own, into, MPI.SUM)
        elif name == "Gather":
            into = want = all_
            into = np.zeros(n * size)
            arguments = (own, into if here else None)
        elif name in ("Scatter", "Scatterv"):
            want, out = own, all_ if here else None
            arguments = ((out, [n] * size) if here and name == "Scatterv" else out, into)
        elif name == "Alltoall":
            into, want = np.zeros(n * size), all_
            arguments = (np.repeat(own[:1], n * size), into)
        else:
            raise ValueError(name)
        told = here or name in ("Bcast", "Scatter", "Scatterv")

        def done(obj: Any, status: Any) -> None:
            assert want is None or not told or np.array_equal(into, want), op

        if name == "Exscan" and rank == 0:
            want = None
        if op["slot"]:
            self._keep(op, getattr(comm, "I" + name.lower())(*arguments, *roots), done)
        else:
            getattr(comm, name)(*arguments, *roots)
            done(None, None)
