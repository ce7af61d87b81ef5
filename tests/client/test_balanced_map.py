"""Balanced maps and imap: windows, order, errors, laziness; with a controller inside the test process."""

from __future__ import annotations

import gc
import itertools

import numpy
import pytest
from helpers import wait_until

import mpiparallel as ipp
from mpiparallel.client import balancedmap, chunks, lazymap
from mpiparallel.wire.messages import Abort, Balance


@pytest.fixture
def lview(client):
    return client.load_balanced_view()


@pytest.fixture
def small_window(monkeypatch):
    """A window of eight chunks, so that short maps are long ones."""
    for module, values in ((balancedmap, {"WINDOW": 8, "BATCH": 4, "FIRST_BATCH": 2, "KEEP": 10}),):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


def fail_on_three(x):
    if x == 3:
        raise ValueError(f"not {x}")
    return x


@pytest.mark.parametrize("chunksize", [1, 3, 7, 100])
@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_map(small_window, lview, count, chunksize):
    wanted = [x * x for x in range(count)]
    assert lview.map_sync(pow, range(count), [2] * (count + 5), chunksize=chunksize) == wanted
    result = lview.map_async(pow, range(count), itertools.repeat(2, count), chunksize=chunksize)
    assert result.get(30) == wanted and len(result) == count and result.progress == count
    assert list(lview.map_async(pow, range(count), [2] * count, chunksize=chunksize)) == wanted


def test_kinds_of_sequences(lview):
    array = numpy.arange(12.0).reshape(4, 3)
    assert lview.map_sync(len, array) == [3, 3, 3, 3]
    assert lview.map_sync(float.__add__, array[0], array[1]) == [3.0, 5.0, 7.0]
    assert lview.map_sync(str.upper, "abc", chunksize=2) == ["A", "B", "C"]
    assert lview.map_sync(str.upper, {"a": 1, "b": 2}) == ["A", "B"]
    assert lview.map_sync(abs, {-1}) == [1]
    assert lview.map_sync(abs, (x for x in (-1, -2))) == [1, 2]
    with pytest.raises(AssertionError):
        lview.map(abs)
    with pytest.raises(TypeError, match="block"):
        lview.map_sync(abs, [1], block=False)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="chunksize"):
            lview.map_sync(abs, [1], chunksize=wrong)


class Watched:
    """A sequence that remembers how far it has been read."""

    def __init__(self, count: int) -> None:
        self.count, self.read = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index):
        if isinstance(index, slice):
            self.read = max(self.read, index.stop)
            return list(range(*index.indices(self.count)))
        return range(self.count)[index]


def as_sequence(count):
    from collections.abc import Sequence

    return type("WatchedSequence", (Watched, Sequence), {})(count)


def test_a_long_map_is_sent_as_the_window_has_room(small_window, fake, client, lview):
    fake.paused.set()
    numbers = as_sequence(100)
    result = lview.map_async(abs, numbers)
    assert wait_until(lambda: result._under_way == 6) and result.progress == 0  # 2 + 4 do, and 4 more do not
    assert numbers.read == 6 and len(result) == 100 and not result.done()
    assert len(client.outstanding) == 6
    fake.release(client)
    assert result.get(30) == list(range(100))
    sent = fake.headers(Balance)
    assert len({header.request for header in sent}) == 1
    assert [header.first for header in sent] == [0, 2, *range(6, 100, 4)]
    assert not any(header.function_frames for header in sent[1:])


def test_a_window_of_bytes(monkeypatch, fake, client, lview):
    monkeypatch.setattr(balancedmap, "WINDOW_BYTES", 300_000)
    monkeypatch.setattr(balancedmap, "FIRST_BATCH", 1)
    monkeypatch.setattr(balancedmap, "BATCH", 1)
    fake.paused.set()
    result = lview.map_async(numpy.sum, numpy.ones((20, 12_500)))  # 100 kB each
    assert wait_until(lambda: result._next == 3)
    fake.release(client)
    assert result.get(30) == [12_500.0] * 20


def test_what_is_kept_of_a_long_map(small_window, client, lview):
    result = lview.map_async(abs, range(40))
    assert result.get(30) == list(range(40))
    # The thread that fed it may be about to end, with the last tasks in its hands.
    assert wait_until(lambda: gc.collect() >= 0 and len(client._connection.tasks) == 0)
    assert not result._live and not client._connection.balanced
    # All is there all the same, made anew.
    assert result.msg_ids == [f"{result._request.id}_{i}" for i in range(40)]
    assert set(result.engine_id) == {0, 1, 2, 3} and result.status == ["ok"] * 40
    assert all(start <= end for start, end in zip(result.started, result.completed, strict=True))
    assert result.serial_time >= 0 and result.wall_time > 0 and result.successful()
    assert result[3] == 3 and result[5:7] == [5, 6]
    first, second = result.split()[:2]
    assert (first.get(), second.get()) == ([0], [1])


def test_errors(small_window, lview):
    result = lview.map_async(fail_on_three, range(20), chunksize=2)
    with pytest.raises(ipp.CompositeError, match="one or more exceptions raised in: fail_on_three") as caught:
        result.get(30)
    [(ename, evalue, _, info)] = caught.value.elist
    assert (ename, evalue) == ("ValueError", "not 3") and info["engine_id"] in range(4)
    assert not result.successful() and "failed" in repr(result)
    values = lview.map_sync(fail_on_three, range(20), chunksize=4, return_exceptions=True)
    assert values[:3] == [0, 1, 2] and values[4:] == list(range(4, 20))
    assert isinstance(values[3], ipp.RemoteError) and values[3].ename == "ValueError"
    found = []
    with pytest.raises(ipp.RemoteError):
        for value in lview.map_async(fail_on_three, range(20)):
            found.append(value)
    assert found == [0, 1, 2]


def test_first_exception(fake, client, lview):
    result = lview.map_async(fail_on_three, range(6))
    with pytest.raises(ipp.CompositeError):
        result.get(10, return_when=ipp.FIRST_EXCEPTION)


def test_what_cannot_be_pickled(small_window, lview):
    unpicklable = (x for x in ())
    with pytest.raises(TypeError, match="pickle"):
        lview.map_sync(abs, [*range(30), unpicklable])
    with pytest.raises(TypeError, match="pickle"):
        lview.map_async(abs, [unpicklable])
    result = lview.map_async(abs, [*range(30), unpicklable])
    with pytest.raises(ipp.CompositeError, match="pickle"):
        result.get(30)
    assert result.get(return_exceptions=True)[:20] == list(range(20))


def test_order_of_arrival(fake, client, lview):
    fake.holding.add(0)
    result = lview.map_async(abs, range(8), ordered=False)
    values = iter(result)
    assert wait_until(lambda: fake.held)
    held = [next(values) for _ in range(6)]  # all but those of engine 0
    fake.holding.clear()
    fake.call(fake._interrupt, 0)
    with pytest.raises(ipp.RemoteError, match="KeyboardInterrupt"):
        held.extend(values)
    assert len(set(held)) == len(held) >= 6


def test_abort_in_the_middle(small_window, fake, client, lview):
    fake.paused.set()
    result = lview.map_async(abs, range(100))
    assert wait_until(lambda: result._next == 6)
    result.abort()
    fake.release(client)
    with pytest.raises(ipp.TaskAborted):
        result.get(10)
    with pytest.raises(RuntimeError, match="already done"):
        result.abort()
    assert len(fake.headers(Balance)) == 2
    everything = result.get(return_exceptions=True)
    assert len(everything) == 100 and isinstance(everything[99], ipp.TaskAborted)


@pytest.mark.parametrize("how", ["view", "client", "result", "list"])
def test_whoever_aborts_a_map_ends_its_sending(small_window, fake, client, lview, how):
    fake.paused.set()
    result, other = lview.map_async(abs, range(100)), client.load_balanced_view().map_async(abs, range(20))
    assert wait_until(lambda: result._next == 6)
    {
        "view": lview.abort,
        "client": client.abort,
        "result": lambda: lview.abort(result),
        "list": lambda: client.abort([result, *other.msg_ids]),
    }[how]()
    fake.release(client)
    with pytest.raises(ipp.TaskAborted):
        result.get(10)
    assert result._next == 6
    assert client.wait([result, other], 10) and not client.outstanding
    if how != "client":
        assert other.get(10, return_exceptions=True)[19] == 19


def test_ctrl_c_takes_back_what_has_not_begun(monkeypatch, small_window, fake, client, lview, caplog):
    fake.paused.set()

    def interrupted(self, condition, timeout):
        raise KeyboardInterrupt

    monkeypatch.setattr(balancedmap.AsyncMapResult, "_wait_until", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lview.map_sync(abs, range(100))
    monkeypatch.undo()
    assert "0 of 100 tasks were done; 6 are taken out" in caplog.text and "94 were not sent" in caplog.text
    assert wait_until(lambda: fake.headers(Abort))
    assert wait_until(lambda: not client.outstanding)


def test_a_connection_that_ends_ends_the_map(small_window, fake, client, lview):
    fake.paused.set()
    result = lview.map_async(abs, range(100))
    client.close()
    with pytest.raises((ipp.CompositeError, ipp.EngineError)):
        result.get(10)
    assert result.done()


def test_gangs(lview):
    with lview.temp_flags(ranks=2):
        assert lview.map_sync(pow, range(5), [2] * 5, chunksize=2) == [[x * x] * 2 for x in range(5)]


def test_chunks():
    from mpiparallel.wire import objects

    for sequence in ([1, "a", None], range(9), "text", b"bytes", [[1], {2}], numpy.arange(5)):
        cut = chunks.Chunks([sequence], 2)
        back = [item for index in range(len(cut)) for item in objects.loads(cut.frames(index))[0]]
        assert back == list(sequence)
        assert sum(chunks.Sizes(cut)) == len(sequence) and len(chunks.Sizes(cut)) == len(cut)


# ---------------------------------------------------------------- imap


def test_imap_of_an_infinite_sequence(lview):
    values = lview.imap(pow, itertools.count(), itertools.repeat(2))
    assert list(itertools.islice(values, 50)) == [x * x for x in range(50)]
    values.close()
    assert list(values) == []


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("max_outstanding", [0, 1, 3, "auto"])
def test_imap(lview, ordered, max_outstanding):
    values = lview.imap(abs, range(40), ordered=ordered, max_outstanding=max_outstanding)
    assert sorted(values) == list(range(40))
    values = lview.imap(abs, range(40), max_outstanding=max_outstanding)
    assert list(values) == list(range(40))


def test_imap_draws_no_more_than_it_may(fake, client, lview):
    drawn = []
    fake.paused.set()
    values = lview.imap(abs, (drawn.append(i) or i for i in itertools.count()), max_outstanding=3)
    assert drawn == [0, 1, 2] and len(client.outstanding) == 3
    fake.release(client)
    assert [next(values) for _ in range(4)] == [0, 1, 2, 3]
    assert len(drawn) <= 4 + 3 * lazymap.READY
    values.close()


def test_imap_sends_more_of_short_tasks(lview):
    values = lview.imap(abs, itertools.count())
    assert values._limit() == 8
    for _ in range(20):
        next(values)
    assert values._limit() > 8
    values._seconds = 10.0
    assert values._limit() == 8
    values.close()


def test_imap_cancel_gives_what_was_sent(lview):
    values = lview.imap(abs, itertools.count(), max_outstanding=5)
    values.cancel()
    assert list(values) == [0, 1, 2, 3, 4]


def broken():
    yield 1
    yield 2
    raise LookupError("no more")


def test_imap_raises_what_the_sequence_raises_after_its_values(lview):
    values = lview.imap(abs, broken())
    assert [next(values), next(values)] == [1, 2]
    with pytest.raises(LookupError, match="no more"):
        next(values)
    with pytest.raises(StopIteration):
        next(values)


def test_imap_errors_of_calls(lview):
    values = lview.imap(fail_on_three, range(6))
    found = [next(values) for _ in range(3)]
    with pytest.raises(ipp.RemoteError, match="not 3"):
        next(values)
    assert [*found, *values] == [0, 1, 2, 4, 5]
    values = list(lview.imap(fail_on_three, range(6), return_exceptions=True))
    assert isinstance(values[3], ipp.RemoteError) and values[4:] == [4, 5]


def test_imap_thrown_away_takes_its_tasks_back(fake, client, lview):
    fake.paused.set()
    values = lview.imap(abs, itertools.count(), max_outstanding=5)
    next_values = iter(values)
    del values, next_values
    gc.collect()
    assert wait_until(lambda: fake.headers(Abort)) and wait_until(lambda: not client.outstanding)
    fake.paused.clear()


def test_imap_of_gangs(lview):
    with lview.temp_flags(ranks=2):
        values = lview.imap(abs, range(3))
    assert list(values) == [[0, 0], [1, 1], [2, 2]]


def test_imap_checks_its_options(lview):
    for wrong, problem in ((-1, ValueError), (1.5, TypeError), ("all", TypeError)):
        with pytest.raises(problem, match="max_outstanding"):
            lview.imap(abs, [1], max_outstanding=wrong)


def test_the_data_of_a_long_map_is_sent_when_all_of_it_is(fake, small_window, lview):
    fake.paused.set()
    with lview.temp_flags(track=True):
        result = lview.map_async(abs, range(400))
    with pytest.raises(TimeoutError, match="sent"):
        result.wait_for_send(0.05)
    fake.release(lview.client)
    result.wait_for_send(30)
    assert len(result.msg_ids) == 400
    assert result.get(30) == list(range(400))
