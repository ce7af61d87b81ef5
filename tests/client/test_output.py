"""What engines print and display, and how it is shown here."""

from __future__ import annotations

import threading
import time

import pytest
from helpers import wait_until

from mpiparallel import error
from mpiparallel.client.executereply import ExecuteReply, RichOutput
from mpiparallel.client.metadata import Metadata
from mpiparallel.wire import objects


def display(text: str, **content):
    return f"_output('display', content={ {'data': {'text/plain': text}, 'metadata': {}, **content}!r})"


# ---------------------------------------------------------------- replies


def test_execute_returns_replies_also_when_it_blocks(client):
    result = client[:].execute("print('hi')\n1 + 1", silent=False, block=True)
    replies = result.get()
    assert [type(reply) for reply in replies] == [ExecuteReply] * 4
    assert repr(replies[0]) == "<ExecuteReply[1]: 2>"
    assert replies[1].stdout == replies[1]["stdout"] == "hi\n"
    assert replies[2].execution_count == 1
    assert replies[2].data == {"text/plain": "2"}
    assert replies[3].metadata.engine_id == replies[3].engine_id == 3
    assert result.execute_input == ["print('hi')\n1 + 1"] * 4
    assert result.execute_result[0]["data"] == {"text/plain": "2"}
    with pytest.raises(AttributeError):
        _ = replies[0].nothing
    with pytest.raises(KeyError):
        replies[0]["nothing"]


def test_a_single_reply(client, capsys):
    reply = client[2].execute("'x' * 50", silent=False, block=True).get()
    assert repr(reply) == f"<ExecuteReply[1]: {('x' * 50).__repr__()[:29]}...>"
    reply.display()
    assert capsys.readouterr().out == f"Out[2:1]: {'x' * 50!r}\n"
    nothing = client[2].execute("a = 1", silent=False, block=True).get()
    assert repr(nothing) == "<ExecuteReply[2]: >"
    nothing.display()
    assert capsys.readouterr().out == ""


def test_replies_print_themselves_in_ipython(client):
    from IPython.lib.pretty import pretty

    assert pretty(client[1].execute("5", silent=False, block=True).get()) == "Out[1:1]: 5"


def test_rich_output():
    rich = RichOutput(
        {"data": {"image/png": "abc", "text/html": "<b>"}, "metadata": {"image/png": {"width": 5}}}
    )
    assert rich._repr_png_() == ("abc", {"width": 5})
    assert rich._repr_html_() == "<b>"
    assert rich._repr_svg_() is None


def test_a_silent_cell_shows_no_result(client):
    reply = client[0].execute("print('hi')\n5", block=True).get()
    assert repr(reply) == "<ExecuteReply[0]: >"
    assert reply.execute_result is None and reply.execute_input is None
    assert reply.stdout == "hi\n"


# ---------------------------------------------------------------- metadata


def test_output_can_be_read_while_the_task_runs(fake, client):
    fake.call(lambda: None)
    result = client[:].execute("import time\nprint('one')", block=True)
    assert result.stdout == ["one\n"] * 4
    running = client[0].execute("_output('stdout', 'early')\n_output('stderr', 'bad')\n_go = True\nwait()")
    assert wait_until(lambda: running.stdout == "early")
    assert wait_until(lambda: running.stderr == "bad")
    with pytest.raises(error.RemoteError):
        running.get(5)


def test_much_output_is_not_quadratic(client):
    code = "for i in range(20000): _output('stdout', '%09d\\n' % i)\n"
    began = time.monotonic()
    result = client[0].execute(code, block=True)
    assert len(result.stdout) == 200_000
    assert time.monotonic() - began < 20


def test_displays(client):
    code = "\n".join([display("a", transient={"display_id": "1"}), display("b"), "x = 1"])
    result = client[0].execute(code, block=True)
    assert [output["data"]["text/plain"] for output in result.outputs] == ["a", "b"]
    update = display("A", transient={"display_id": "1"}, update=True)
    result = client[0].execute("\n".join([code, update, "x = 1"]), block=True)
    assert [output["data"]["text/plain"] for output in result.outputs] == ["A", "b"]
    assert not any(output.get("update") for output in result.outputs)  # it is to be shown, as the others are
    later = client[0].execute("\n".join([update, update, "x = 1"]), block=True)  # of a display from before
    assert [(one["data"]["text/plain"], one["update"]) for one in later.outputs] == [("A", True)]
    result = client[0].execute(
        "\n".join([code, "_output('clear_output', content={'wait': False})", "x=1"]), block=True
    )
    assert result.outputs == []


def test_published_data(client):
    result = client[0].execute(
        "_output('data', content={'step': 1})\n_output('data', content={'e': 2})\nx=1", block=True
    )
    assert result.data == {"step": 1, "e": 2}


def test_metadata_alone():
    metadata = Metadata(engine_id=3)
    assert metadata.stdout == "" and metadata.outputs == [] and metadata["engine_id"] == 3
    assert metadata.get("nothing", 5) == 5 and metadata.get("stdout") == ""
    assert set(dict(metadata)) == set(metadata)
    with pytest.raises(KeyError):
        Metadata(nothing=1)
    assert objects.loads(objects.dumps(metadata)) == metadata


# ---------------------------------------------------------------- showing


def test_display_outputs_by_type(client, capsys):
    client[:2].execute(
        "print('hi')\nimport sys; _output('stderr', 'oh\\n')\n5", False, block=True
    ).display_outputs()
    shown = capsys.readouterr()
    assert shown.out == "[stdout:0] \nhi\n[stdout:1] \nhi\nOut[0:1]: 5\nOut[1:1]: 5\n"
    assert shown.err == "[stderr:0] \noh\n[stderr:1] \noh\n"


def test_display_outputs_by_engine_and_order(client, capsys):
    code = "\n".join(["print('hi')", display("p1"), display("p2"), "7"])
    result = client[:2].execute(code, silent=False, block=True)
    result.display_outputs("engine")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith("[")] == [
        "hi", "p1", "p2", "Out[0:1]: 7", "hi", "p1", "p2", "Out[1:1]: 7",
    ]  # fmt: skip
    result.display_outputs("order")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in ("p1", "p2")] == ["p1", "p1", "p2", "p2"]
    result.display_outputs("type")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in ("p1", "p2")] == ["p1", "p2", "p1", "p2"]
    result.display_outputs(result_only=True)
    assert capsys.readouterr().out == "Out[0:1]: 7\nOut[1:1]: 7\n"
    with pytest.raises(ValueError, match="groupby='colour'"):
        result.display_outputs("colour")


def test_display_outputs_of_other_results(fake, client, capsys):
    client[0].execute("print('alone')\n3", silent=False, block=True).display_outputs()
    assert capsys.readouterr().out == "alone\nOut[0:1]: 3\n"
    client[:].map_async(abs, [1, 2, 3]).wait_interactive(widget=False)
    capsys.readouterr()
    mapped = client[:].map_async(abs, [1, 2, 3])
    mapped.get(5)
    mapped.display_outputs()
    fake.paused.set()
    pending = client[0].apply_async(int)
    with pytest.raises(TimeoutError):
        pending.display_outputs()


def test_streaming(client, capsys):
    result = client[:2].execute("_output('stdout', 'a\\n')\n_output('stdout', 'b\\n')\n1")
    with result.stream_output():
        result.get(5)
    out = capsys.readouterr().out
    for engine in (0, 1):
        assert f"[stdout:{engine}] \na\nb\n" in out


def test_streaming_shows_each_piece_once_wherever_it_starts(client, capsys):
    for _ in range(20):
        result = client[0].execute("for i in range(100): _output('stdout', '%d\\n' % i)\n")
        if _ % 2:
            _ = result.stdout  # half of it may have been read before
        with result.stream_output():
            result.get(10)
        assert capsys.readouterr().out == "".join(f"{i}\n" for i in range(100))


def test_streaming_ends_with_its_block(client):
    before = threading.active_count()
    result = client[0].execute("print(1)")
    with result.stream_output():
        result.get(5)
    assert threading.active_count() == before
    assert result._tasks[0].watchers == ()
