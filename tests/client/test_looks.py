"""How clients, views and results show themselves, as text and as HTML."""

from __future__ import annotations

import html.parser
import time

import msgspec
import pytest
from helpers import wait_until
from hypothesis import given
from hypothesis import strategies as st
from IPython.lib.pretty import pretty

from client.fake import FakeController
from mpiparallel.client import cards, looks
from mpiparallel.client import html as drawing
from mpiparallel.client.client import Client
from mpiparallel.client.looks import Card, Squares
from mpiparallel.wire.messages import EngineInfo, Goodbye


class Tags(html.parser.HTMLParser):
    """Collects tags and text, and sees that each tag is closed."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def engines(n: int, per_host: int, worlds: int = 1, size: int = 0) -> list[EngineInfo]:
    """Return `n` engines on as many hosts as they need."""
    each = n // worlds
    return [
        EngineInfo(
            number, f"world{number // each}", number % each, size or each, f"node{number // per_host}",
            1000 + number, "Open MPI v5.0.11, package: Open MPI conda@1f83 Distribution, ident: 5.0.11",
        )
        for number in range(n)
    ]  # fmt: skip


# ---------------------------------------------------------------- cards


def test_a_card_as_text() -> None:
    card = Card(
        "Thing", "well", "good", [("here", "1"), ("elsewhere", "2")], ["host", "engines", "", "empty"],
        [["node1", "0-3", Squares([("good", "x")]), ""], ["node12", "4", Squares([]), ""]],
        ["a\nwarning"], [("x = 1", "says so"), ("x()", "")],
    )  # fmt: skip
    assert looks.text(card).splitlines() == [
        "Thing: well",
        "  here       1",
        "  elsewhere  2",
        "  host    engines",
        "  node1   0-3",
        "  node12  4",
        "  ! a warning",
        "  next: x = 1  says so",
        "        x()",
    ]


def test_many_and_long_notes_are_cut() -> None:
    card = Card("Thing", "ill", notes=[f"{number} " + "long " * 100 for number in range(9)])
    shown = looks.text(card).splitlines()[1:]
    assert len(shown) == 6 and shown[-1] == "  ! ... 4 more"
    assert all(len(line) <= looks.LONGEST + 4 for line in shown)


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
CARDS = st.builds(
    Card,
    TEXT,
    TEXT,
    st.sampled_from(["good", "busy", "bad", "off"]),
    st.lists(st.tuples(TEXT, TEXT), max_size=3),
    st.just(("one", "two")),
    st.lists(
        st.tuples(TEXT, TEXT | st.builds(Squares, st.lists(st.tuples(st.just("good"), TEXT), max_size=3))),
        max_size=3,
    ),
    st.lists(TEXT, max_size=8),
    st.lists(st.tuples(TEXT, TEXT), max_size=3),
)


@given(CARDS)
def test_whatever_is_on_a_card_it_is_text(card: Card) -> None:
    """No text of anybody's becomes a tag, an attribute or an order to the terminal."""
    drawn = Tags(drawing.draw(card))
    assert {tag for tag, _ in drawn.tags} <= {"div", "span", "b", "code", "table", "tr", "td"}
    assert {name for _, attrs in drawn.tags for name in attrs} <= {"style", "title"}
    titles = [attrs["title"] for _, attrs in drawn.tags if "title" in attrs]
    assert titles == [
        says for row in card.rows for cell in row if isinstance(cell, Squares) for _, says in cell.moods
    ]
    looks.text(card)


def test_html_is_escaped() -> None:
    evil = '<script>alert("1")</script>'
    infos = [EngineInfo(0, evil, 0, 1, evil, 1, evil)]
    card = cards.present_client(infos, {7: evil}, host=evil, cluster_id=evil, name=evil)
    drawn = drawing.draw(card)
    assert "<script" not in drawn and "&lt;script&gt;" in drawn


def test_text_gives_no_orders_to_the_terminal() -> None:
    card = Card("Thing", "ill", notes=["\x1b[31mred\x07 and \u202eback"])
    assert looks.text(card).splitlines()[1] == "  !  [31mred  and  back"


# ---------------------------------------------------------------- engines by host


def test_engines_are_told_by_host() -> None:
    tasks = dict.fromkeys(range(32), 0) | {8: 1, 9: 3, 10: 1}
    card = cards.present_client(engines(32, 8), {}, host="login1", tasks=tasks, unassigned=5, pending=2)
    assert looks.text(card).splitlines() == [
        "Client: 32 engines on 4 hosts, 3 busy",
        "  controller  on login1",
        "  MPI         Open MPI 5.0.11",
        "  queue       2 tasks of this client not done, 5 tasks waiting for an engine",
        "  host   engines  work",
        "  node0  0-7      idle",
        "  node1  8-15     3 busy, 2 queued",
        "  node2  16-23    idle",
        "  node3  24-31    idle",
        "  next: rc[:].apply_sync(f, x)                      f(x) on every engine",
        "        rc.load_balanced_view().map_sync(f, items)  items, to whoever is free",
        "        rc.where()                                  what they are doing",
    ]
    drawn = Tags(drawing.draw(card))
    squares = [attrs["title"] for tag, attrs in drawn.tags if "title" in attrs]
    assert len(squares) == 32
    assert squares[9] == "engine 9: rank 9 of 32, pid 1009, 3 tasks"


def test_worlds_are_told_apart_and_their_dead_are_counted() -> None:
    infos = engines(8, 4, worlds=2)
    del infos[2]
    assert looks.text(cards.present_client(infos[:3], {})).splitlines()[4] == "  node0  0-1, 3   3 of 4 ranks"
    card = cards.present_client(infos, {2: "rank 2 on node0 was killed by SIGKILL"}, tasks=None)
    assert card.state == "7 engines on 2 hosts, in 2 worlds"
    assert [row[:3] for row in card.rows] == [
        ["node0", "0-1, 3", "1: 3 of 4 ranks"],
        ["node1", "4-7", "2"],
    ]
    assert card.notes == ["engine 2 left: rank 2 on node0 was killed by SIGKILL"]


def test_a_thousand_engines_are_not_a_thousand_squares() -> None:
    drawn = drawing.draw(cards.present_client(engines(1024, 64), {}))
    assert "title=" not in drawn and "960-1023" in drawn
    assert len(drawn) < 30_000
    shown = looks.text(cards.present_client(engines(1024, 1), {})).splitlines()
    assert len(shown) < 60 and "  ... 984 more" in shown


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("MPICH Version: 4.3.0 MPICH Release date: Mon Feb 3 09:09:47 AM CST 2025", "MPICH 4.3.0"),
        ("Intel(R) MPI Library 2021.13 for Linux* OS", "Intel(R) MPI 2021.13"),
        ("", ""),
        ("something else", "something else"),
    ],
)
def test_names_of_mpis(said: str, name: str) -> None:
    assert looks.mpi_name(said) == name


# ---------------------------------------------------------------- what objects say


def said(thing) -> str:
    """Return what is shown at the prompt; the HTML says the same."""
    text = pretty(thing)
    assert len(text.splitlines()) > 1
    assert len(repr(thing).splitlines()) == 1
    drawn = Tags(thing._repr_html_()).text
    for word in text.split():
        assert word in drawn or word in ("next:", "!") or word.endswith(":") or word.isdigit(), word
    return text


def test_a_client(client) -> None:
    text = said(client)
    assert text.startswith("Client: 4 engines on here, idle\n")
    assert "rc[:].apply_sync(f, x)" in text
    assert pretty([client]) == f"[{client!r}]"  # among others it is one line


def test_a_client_with_work(client, fake) -> None:
    fake.paused.set()
    result = client[:].apply_async(abs, -1)
    assert "4 tasks of this client not done" in said(client)
    assert "rc.where()" in said(client)
    fake.release(client)
    assert result.get() == [1, 1, 1, 1]


def test_a_client_without_engines(socket_dir) -> None:
    controller = FakeController(socket_dir, engines=0)
    try:
        with Client(msgspec.to_builtins(controller.info)) as client:
            text = said(client)
            assert text.startswith("Client: no engines\n")
            assert "rc.wait_for_engines(4)" in text and "mpiparallel engines -n 4" in text
    finally:
        controller.close()


def test_a_closed_client_and_what_it_has_made(client) -> None:
    view, lview, result = client[:], client.load_balanced_view(), client[0].apply_async(abs, -1)
    result.get()
    client.close()
    text = said(client)
    assert text.startswith("Client: closed\n") and "next: rc = ipp.Client()" in text
    assert said(view).startswith("DirectView: its client is closed\n")
    assert said(lview).startswith("LoadBalancedView: its client is closed\n")
    assert said(result).startswith("AsyncResult of abs: finished\n")


def test_a_client_whose_controller_has_left(client, fake) -> None:
    fake.call(fake.tell_all, Goodbye("it was shut down"))
    assert wait_until(lambda: client._connection.gone)
    text = said(client)
    assert text.startswith("Client: connection lost\n  ! The controller is gone")
    assert "mpiparallel list" in text


def test_a_controller_that_does_not_answer(client, fake) -> None:
    fake.silent = True
    began = time.monotonic()
    text = said(client)
    assert time.monotonic() - began < 2.0  # two cards, each with its question
    assert text.startswith("Client: 4 engines on here\n")


def test_a_client_that_looks_for_its_controller(client, fake) -> None:
    fake.kill()
    assert wait_until(lambda: client._connection.lost)
    text = said(client)
    assert text.startswith("Client: looks for its controller\n  last seen  4 engines on here\n")
    assert "rc.close()" in text


def test_a_client_in_a_forked_child(client, monkeypatch) -> None:
    monkeypatch.setattr(client._connection, "pid", 1)
    assert "it belongs to process 1, of which this one is a child" in said(client)


def test_in_a_callback_nobody_waits_for_the_answer(client, fake) -> None:
    """A callback runs in the thread that would receive it."""
    shown: list[str] = []
    fake.paused.set()
    result = client[0].apply_async(abs, -1)
    result.add_done_callback(lambda _: shown.append(pretty(client)))
    fake.release(client)
    assert result.get() == 1
    assert wait_until(lambda: shown) and shown[0].startswith("Client: 4 engines on here\n")


def test_names_are_those_of_the_prompt(client, monkeypatch) -> None:
    class Shell:
        user_ns = {"_": client, "bad name": client, "mine": client}

    monkeypatch.setattr(looks, "get_ipython", lambda: Shell)
    assert "mine[:].apply_sync(f, x)" in said(client)
    assert "mine[[1, 2]].apply_sync(f, x)" in said(client[1:3])
    assert "mine[3].apply_sync(f, x)" in said(client[3])
    Shell.user_ns["v"] = view = client[:]
    assert 'v["name"]' in said(view)


# ---------------------------------------------------------------- views


def test_a_view(client) -> None:
    view = client[1:3]
    text = said(view)
    assert text.startswith("DirectView: 2 engines on here\n")
    assert "  host  engines\n  here  1-2\n" in text  # nobody has left
    view.set_flags(block=True, label="mine")
    assert "flags  block=True, label='mine'" in said(view)
    assert said(client.direct_view()).startswith("DirectView: 4 engines on here, and all that come later\n")
    assert said(client.broadcast_view()).startswith("BroadcastView: 4 engines on here\n")


def test_a_balanced_view(client) -> None:
    lview = client.load_balanced_view(targets=[0, 2], retries=2, timeout=3, ranks=2, after="a_0")
    text = said(lview)
    assert text.startswith("LoadBalancedView: 2 engines on here\n")
    for word in ("retries=2", "timeout=3.0", "ranks=2", "after="):
        assert word in text
    assert "rc.load_balanced_view([0, 2]).map_sync(f, items)" in text
    assert "ranks" not in said(client.load_balanced_view()).splitlines()[1]


def test_a_view_whose_engines_have_left(client, fake) -> None:
    view, one, every = client[:], client[2], client.direct_view()
    fake.call(fake.remove_engine, 2)
    assert wait_until(lambda: len(client.ids) == 3)
    text = said(view)
    assert text.startswith("DirectView: 3 engines on here\n")
    assert "! engine 2 left: it was killed" in text and "next: rc[:]  a view of those" in text
    assert said(one).startswith("DirectView: no engines\n")
    assert "left" not in said(every)
    assert "! engine 2 left: it was killed" in said(client)
    for number in (0, 1, 3):
        fake.call(fake.remove_engine, number)
    assert wait_until(lambda: not client.ids)
    assert "rc.wait_for_engines(4)" in said(every)


# ---------------------------------------------------------------- results


class Unreadable:
    """Something that must not be unpickled to be shown."""

    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_a_result(client, fake) -> None:
    fake.paused.set()
    result = client[:].apply_async(abs, -1)
    text = said(result)
    assert text.startswith("AsyncResult of abs: pending\n") and "0 of 4 done" in text
    assert "not done  0-3" in text and "ar.wait_interactive()" in text
    assert "ar.msg_ids" in text
    one = client[0].apply_async(abs, -1)
    assert f"rc.get_result({one.msg_ids[0]!r})" in said(one)
    fake.release(client)
    result.wait()
    text = said(result)
    assert text.startswith("AsyncResult of abs: finished\n") and "done  0-3" in text and "ar.get()" in text


def test_no_value_is_looked_at(client) -> None:
    result = client[0].apply_async(Unreadable)
    result.wait(5)
    assert "finished" in said(result)


def test_a_result_with_errors(client) -> None:
    view = client[:]
    view.scatter("x", [0, 1, 0, 0], block=True)
    result = view.execute("print('hello'); 1 / x[0]")
    result.wait()
    text = said(result)
    assert text.startswith("AsyncResult of execute: failed, 3 of 4 tasks\n")
    assert "! [0, 2-3] ZeroDivisionError: division by zero" in text
    assert "ar.get(return_exceptions=True)" in text and "ar.display_outputs()" in text


def test_an_aborted_result(client, fake) -> None:
    fake.paused.set()
    result = client[:2].apply_async(abs, -1)
    result.abort()
    result.wait(5)
    text = said(result)
    assert "not begun  0-1" in text and "! [0-1] TaskAborted: it did not begin" in text


def test_results_without_engines(client) -> None:
    assert said(client.load_balanced_view().map_async(abs, [])).startswith("AsyncMapResult of abs: finished")
    assert "0 of 0 done" in said(client.load_balanced_view().map_async(abs, []))


def test_a_map(client, fake) -> None:
    fake.paused.set()
    result = client.load_balanced_view().map_async(abs, range(3000), chunksize=2)
    text = said(result)
    assert text.startswith("AsyncMapResult of abs: pending\n")
    assert "0 of 3000 done" in text and "on whichever is free" in text
    fake.release(client)
    assert result.get() == list(range(3000))
    assert "3000 of 3000 done" in said(result)


def test_an_imap(client) -> None:
    values = client.load_balanced_view().imap(abs, iter(range(100)), max_outstanding=4)
    text = said(values)
    assert text.startswith("LazyMapIterator: reads its inputs as values are taken\n")
    assert next(values) == 0
    assert "given      1 value" in said(values)
    values.close()
    assert said(values).startswith("LazyMapIterator: ended\n")
