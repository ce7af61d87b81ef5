"""Requests: what non-blocking calls return, and the waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpi4py import MPI

from mpiparallel.engine.guard.classes import FromHandle, StandIn
from mpiparallel.engine.guard.faults import broke_off, mark_broken
from mpiparallel.engine.guard.plain import Grequest, Prequest, Request, Status
from mpiparallel.engine.guard.remains import kept
from mpiparallel.engine.guard.state import CommState, Receive
from mpiparallel.engine.guard.waiting import wait
from mpiparallel.wire.waits import Part

_test, _pickled_test = Request.Test, Request.test
_new_request = Request.__new__


class _Waits(FromHandle):
    """What guarded requests of all kinds share.

    `_part` is (function, arguments) for the part of a wait, or None; `_receive` is set until a receive is
    known to be complete; `_state` is that of the communicator, if it is known.
    """

    __slots__ = ()

    def __new__(cls, request: Request | None = None) -> Any:
        """Stand for the operation of `request`."""
        base: Any = super()
        self = base.__new__(cls, request)
        self._state = getattr(request, "_state", None)
        self._part = getattr(request, "_part", None)
        self._receive = getattr(request, "_receive", None)
        return self

    def Wait(self: Any, status: Status | None = None) -> bool:
        """Wait for the operation to complete."""
        if not self.Test(status):
            _wait([self], "Wait", lambda: self.Test(status))
        return True

    def wait(self, status: Status | None = None) -> Any:
        """Wait for the operation to complete, and return the object received."""
        done = self.test(status)
        if not done[0]:
            done = _wait([self], "wait", lambda: _if_first(self.test(status)))
        return done[1]

    def Test(self: Any, status: Status | None = None) -> bool:
        """Tell whether the operation is complete."""
        if getattr(self, "_receive", None) is None:  # others may have made it, too
            return _test(self, status)
        if status is None:
            status = Status()
        done = _test(self, status)
        if done:
            self._complete(status)
        return done

    def test(self: Any, status: Status | None = None) -> Any:
        """Tell whether the operation is complete, and return the object received."""
        if getattr(self, "_receive", None) is None:
            return _pickled_test(self, status)
        if status is None:
            status = Status()
        done = _pickled_test(self, status)
        if done[0]:
            self._complete(status)
        return done

    def _complete(self: Any, status: Status) -> None:
        receive = self._receive
        if receive is not None:
            self._receive = None
            receive.complete(status)

    def Free(self: Any) -> None:
        """Let go of the operation."""
        if getattr(self, "_receive", None) is not None:
            self._receive.state.opaque = True
        Request.Free(self)

    # ------------------------------------------------------------ several at once

    @classmethod
    def Testall(cls, requests: Sequence[Request], statuses: list[Status] | None = None) -> bool:
        """Tell whether all operations are complete."""
        statuses = _statuses(requests, statuses)
        done = Request.Testall(requests, statuses)
        if done:
            _all_complete(requests, statuses)
        return done

    @classmethod
    def testall(cls, requests: Sequence[Request], statuses: list[Status] | None = None) -> Any:
        """Tell whether all operations are complete, and return the objects received."""
        statuses = _statuses(requests, statuses)
        done = Request.testall(requests, statuses)
        if done[0]:
            _all_complete(requests, statuses)
        return done

    @classmethod
    def Waitall(cls, requests: Sequence[Request], statuses: list[Status] | None = None) -> bool:
        """Wait for all operations to complete."""
        if not cls.Testall(requests, statuses):
            _wait(requests, "Waitall", lambda: cls.Testall(requests, statuses))
        return True

    @classmethod
    def waitall(cls, requests: Sequence[Request], statuses: list[Status] | None = None) -> Any:
        """Wait for all operations to complete, and return the objects received."""
        done = cls.testall(requests, statuses)
        if not done[0]:
            done = _wait(requests, "waitall", lambda: _if_first(cls.testall(requests, statuses)))
        return done[1]

    @classmethod
    def Testany(cls, requests: Sequence[Request], status: Status | None = None) -> Any:
        """Tell whether one of the operations is complete."""
        status = _status(requests) if status is None else status
        index, done = Request.Testany(requests, status)
        if done:
            _one_complete(requests, index, status)
        return index, done

    @classmethod
    def testany(cls, requests: Sequence[Request], status: Status | None = None) -> Any:
        """Tell whether one of the operations is complete, and return the object received."""
        status = _status(requests) if status is None else status
        index, done, message = Request.testany(requests, status)
        if done:
            _one_complete(requests, index, status)
        return index, done, message

    @classmethod
    def Waitany(cls, requests: Sequence[Request], status: Status | None = None) -> int:
        """Wait for one of the operations to complete."""
        index, done = cls.Testany(requests, status)
        if not done:
            index, _ = _wait(requests, "Waitany", lambda: _if_second(cls.Testany(requests, status)), any=True)
        return index

    @classmethod
    def waitany(cls, requests: Sequence[Request], status: Status | None = None) -> Any:
        """Wait for one of the operations to complete, and return the object received."""
        index, done, message = cls.testany(requests, status)
        if not done:
            index, _, message = _wait(
                requests, "waitany", lambda: _if_second(cls.testany(requests, status)), any=True
            )
        return index, message

    @classmethod
    def Testsome(cls, requests: Sequence[Request], statuses: list[Status] | None = None) -> Any:
        """Return which of the operations are complete."""
        statuses = _statuses(requests, statuses)
        indices = Request.Testsome(requests, statuses)
        if indices:
            _some_complete(requests, indices, statuses)
        return indices

    @classmethod
    def testsome(cls, requests: Sequence[Request], statuses: list[Status] | None = None) -> Any:
        """Return which of the operations are complete, and the objects received."""
        statuses = _statuses(requests, statuses)
        done = Request.testsome(requests, statuses)
        if done[0]:
            _some_complete(requests, done[0], statuses)
        return done

    @classmethod
    def Waitsome(cls, requests: Sequence[Request], statuses: list[Status] | None = None) -> Any:
        """Wait for some of the operations to complete."""
        indices = cls.Testsome(requests, statuses)
        if indices == []:
            indices = _wait(requests, "Waitsome", lambda: cls.Testsome(requests, statuses), any=True)
        return indices

    @classmethod
    def waitsome(cls, requests: Sequence[Request], statuses: list[Status] | None = None) -> Any:
        """Wait for some of the operations to complete, and return the objects received."""
        done = cls.testsome(requests, statuses)
        if done[0] == []:
            done = _wait(requests, "waitsome", lambda: _if_first(cls.testsome(requests, statuses)), any=True)
        return done


class GuardedRequest(_Waits, Request, metaclass=StandIn, stands_for=Request):
    """A request that knows what it is about."""

    __slots__ = ("_part", "_receive", "_state")


class GuardedPrequest(_Waits, Prequest, metaclass=StandIn, stands_for=Prequest):
    """A persistent request."""

    __slots__ = ("_part", "_receive", "_state")


class GuardedGrequest(_Waits, Grequest, metaclass=StandIn, stands_for=Grequest):
    """A generalized request."""

    __slots__ = ("_part", "_receive", "_state")

    @classmethod
    def Start(cls, *args: Any, **kwargs: Any) -> Grequest:
        """Create and return a user-defined request."""
        return cls(Grequest.Start(*args, **kwargs))


def _if_first(done: Any) -> Any:
    return done if done[0] else None


def _if_second(done: Any) -> Any:
    return done if done[1] else None


def _status(requests: Sequence[Request]) -> Status | None:
    """Return what tells of the message, if one of these may bring any that is counted."""
    return Status() if any(getattr(request, "_receive", None) for request in requests) else None


def _statuses(requests: Sequence[Request], statuses: list[Status] | None) -> list[Status] | None:
    if statuses is not None or not any(getattr(request, "_receive", None) for request in requests):
        return statuses
    return []  # mpi4py fills it up


def _one_complete(requests: Sequence[Request], index: int, status: Status | None) -> None:
    if index >= 0 and getattr(requests[index], "_receive", None) is not None:
        requests[index]._complete(status)


def _all_complete(requests: Sequence[Request], statuses: list[Status] | None) -> None:
    if statuses is not None:
        _some_complete(requests, range(len(requests)), statuses)


def _some_complete(requests: Sequence[Request], indices: Any, statuses: list[Status] | None) -> None:
    if statuses is not None:
        for index, status in zip(indices, statuses, strict=False):
            _one_complete(requests, index, status)


def _parts(requests: Sequence[Request]) -> list[Part]:
    """Return the parts of requests that were under way when the wait began, as far as they are known.

    Of one that is over meanwhile nothing may be said: its receive counts as received.
    """
    found = []
    for request in requests:
        part = getattr(request, "_part", None) if request else None
        if part is None:
            found.append(Part("other"))
        else:
            found += part[0](*part[1:])
    return found


def _wait(requests: Sequence[Request], call: str, test: Callable[[], Any], any: bool = False) -> Any:
    """Wait for operations that the user holds; what is broken off is broken for all of them."""
    try:
        return wait(test, call, _parts, [request for request in requests if request], any=any)
    except BaseException as error:
        for request in requests:
            state = getattr(request, "_state", None)
            if isinstance(error, MPI.Exception):
                if state is not None:
                    broke_off(error, state, call, request, None)
            elif request:
                kept.append(request)
                if state is not None:
                    mark_broken(state, f"{call} was broken off by {type(error).__name__}")
        raise


# ---------------------------------------------------------------- how calls make them


def collective_request(
    state: CommState, signature: Any, data: Any, start: Callable[..., Request], *args: Any
) -> Request:
    """Start a collective whose request the user gets."""
    name = "I" + (signature if isinstance(signature, str) else signature[0]).lower()
    if state.broken:
        state.refuse(name)
    plain = None
    try:
        plain = start(*args)
        index = state.collectives
        state.collectives = index + 1
        state.recent.append(signature)
        state.spoilt = True  # whether the user's request ever completes is not known
    except BaseException as error:
        broke_off(error, state, name, plain, args)
        raise
    request = _new_request(GuardedRequest, plain)
    request._state = state
    request._receive = None
    request._part = (_collective_part, state, state.generation, signature, index, data, args)
    return request


def _collective_part(
    state: CommState, generation: int, signature: Any, index: int, data: Any, args: Any
) -> list[Part]:
    return [state.collective(signature, index, data) if generation == state.generation else Part("other")]


def send_request(state: CommState, plain: Request, dest: int, tag: int, index: int, data: Any) -> Request:
    """Return the guarded request of a send; the last arguments are those of `CommState.send`."""
    request = _new_request(GuardedRequest, plain)
    request._state = state
    request._receive = None
    request._part = (_send_part, state, state.generation, dest, tag, index, data)
    return request


def _send_part(state: CommState, generation: int, dest: int, tag: int, index: int, data: Any) -> list[Part]:
    return [state.send(dest, tag, index, data) if generation == state.generation else Part("other")]


def receive_request(state: CommState, plain: Request, source: int, tag: int) -> Request:
    """Return the guarded request of a receive."""
    request = _new_request(GuardedRequest, plain)
    request._state = state
    request._receive = receive = Receive(state, source, tag)
    request._part = (_receive_part, receive)
    return request


def _receive_part(receive: Receive) -> list[Part]:
    return [receive.part()]


def exchange_request(
    state: CommState, plain: Request, out: tuple[int, int, int, Any], source: int, tag: int
) -> Request:
    """Return the guarded request of a send and a receive; `out` has the arguments of `CommState.send`."""
    request = receive_request(state, plain, source, tag)
    if out[0] >= 0:
        request._part = (_exchange_part, state, state.generation, out, request._receive)
    return request


def _exchange_part(
    state: CommState, generation: int, out: tuple[int, int, int, Any], receive: Receive
) -> list[Part]:
    return [*_send_part(state, generation, *out), receive.part()]


def uncounted(state: CommState, plain: Request) -> Request:
    """Return the guarded request of something that is not counted."""
    state.opaque = True
    kind = GuardedPrequest if isinstance(plain, Prequest) else GuardedRequest
    request = kind(plain)
    request._state = state
    return request
