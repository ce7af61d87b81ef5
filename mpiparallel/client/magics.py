"""``%px`` and its kin: IPython's commands for engines.

Registered by `activation`, which imports this module only where IPython runs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, no_var_expand

from mpiparallel import error
from mpiparallel.client import activation, autopx, interrupting
from mpiparallel.client import magicoptions as opt
from mpiparallel.client.control import signal_number
from mpiparallel.client.looks import name_of
from mpiparallel.client.wherecell import CellWhereabouts
from mpiparallel.config import noninteractive
from mpiparallel.ranges import engines as engines_text

if TYPE_CHECKING:
    from mpiparallel.client.asyncresult import AsyncResult
    from mpiparallel.client.views import DirectView

PATIENCE = 10.0  # seconds for cells to end that were interrupted
CELLS = 100  # that are remembered, for %pxwhere
LONG = 10  # targets; of more, the first and last ones are named


class StillRunning(error.EngineError):
    """A cell was interrupted and has not ended."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class ParallelMagics(Magics):
    """The magics of one view.

    Attributes
    ----------
    view : DirectView or None
        Whose engines run the cells; None until there is a client.
    suffix : str
        What is behind the names of the magics.
    last_result : AsyncResult or None
        Of the last cell.
    verbose, stream_output, fold, progress_after_seconds, signal_on_interrupt
        What holds when a cell's options do not say something else; ``%pxconfig`` sets them.
    """

    registered = True  # or IPython refuses them; their names are made here, as they have suffixes

    def __init__(self, shell: Any, view: DirectView | None, suffix: str = "") -> None:
        self.view = view
        self.suffix = suffix
        self.last_result: AsyncResult | None = None
        self._cells: dict[str, str] = {}  # the last ones, by their requests
        self.verbose = False
        self.stream_output: bool | None = None
        self.fold: bool | None = None
        self.progress_after_seconds = 2.0
        self.signal_on_interrupt = "SIGINT"
        line = {
            f"px{suffix}": self.px,
            f"pxresult{suffix}": self.result,
            f"pxconfig{suffix}": self.pxconfig,
            f"pxwhere{suffix}": self.pxwhere,
            f"autopx{suffix}": self.autopx,
        }
        if not suffix:
            line["result"] = self.result
        self.magics = {"line": line, "cell": {f"px{suffix}": self.cell_px}}
        super().__init__(shell=shell)
        shell.configurables.remove(self)  # or it would hold on to views that were activated once
        autopx.of_shell(shell).suffixes.add(suffix)

    @property
    def has_client(self) -> bool:
        """Whether there is a client which is not closed."""
        return self.view is not None and self.view.client._connection.gone is None

    def _get_view(self) -> DirectView:
        if self.view is None or not self.has_client:
            gone = "" if self.view is None else f", and theirs is gone ({self.view.client._connection.gone})"
            by = "mpiparallel.Client(), or by mpiparallel.Cluster(n=4).start_and_connect_sync()"
            if others := activation.open_clients():  # which need not be of the same cluster
                by += f"; {name_of(others[0], 'client')}.activate() has them use one that is open"
            raise UsageError(f"the parallel magics need a Client{gone}: make one by {by}")
        return self.view

    # ------------------------------------------------------------ cells

    @no_var_expand
    def px(self, line: str = "") -> AsyncResult | None:
        """Run a line of Python on the engines.

        >>> %px import os  # doctest: +SKIP
        >>> %px print(os.getpid())  # doctest: +SKIP
        [stdout:0] 4101
        [stdout:1] 4102
        """
        return self._run(line, opt.parse(self.cell_px, ""))

    @opt.options(*opt.EXECUTION, *opt.OUTPUT, *opt.FOLD, opt.LOCAL)
    def cell_px(self, line: str = "", cell: str = "") -> AsyncResult | None:
        """Run the cell on the engines.

        It may hold whatever a cell of IPython may: magics, shell commands, await.
        """
        return self._run(cell, opt.parse(self.cell_px, line))

    def _run(self, cell: str, args: argparse.Namespace) -> AsyncResult | None:
        view = self._get_view()
        targets = view.targets if args.targets is None else self._targets(view, args.targets)
        block = bool(view.block) if args.block is None else args.block
        if self.verbose if args.verbose is None else args.verbose:
            print(f"{'Parallel' if block else 'Async parallel'} execution on engine(s): {_shown(targets)}")
        if args.local:
            self._check_local(cell)
        result = here = None
        try:
            with interrupting.Held() as held:  # or the engines would go on with what nobody knows of
                result = self._submit(view, cell, targets)
            if args.out:
                self._user_names[args.out] = result
            here = self._run_here(cell) if args.local else None
            if held.came and not block:
                raise KeyboardInterrupt
            if not block:
                return result
            stopped_here = here is not None and here.ename == "KeyboardInterrupt"
            self._wait_and_show(result, args, held.came or stopped_here)
        except KeyboardInterrupt:  # while something was shown, perhaps much
            if result is None or not block:
                raise
            self._stop_showing(result, args)
        if here is not None:
            raise error.AlreadyDisplayedError(here)
        return None

    def _submit(self, view: DirectView, cell: str, targets: Any) -> AsyncResult:
        try:
            result = view.execute(cell, silent=False, targets=targets, block=False)
        except Exception as failure:  # no engines, say
            raise _told_shortly(failure) from None
        result._fname = "%px"
        self.last_result = result
        self._cells[result._tasks[0].request.id] = cell
        if len(self._cells) > CELLS:
            del self._cells[next(iter(self._cells))]
        return result

    def _targets(self, view: DirectView, text: str) -> Any:
        return opt.targets_of(text, view.client.ids, self._user_names)

    @property
    def _user_names(self) -> dict[str, Any]:
        names: dict[str, Any] = self.shell.user_ns  # type: ignore[union-attr]
        return names

    def _check_local(self, cell: str) -> None:
        """Raise UsageError if this process cannot run `cell` now."""
        shell: Any = self.shell
        if not _loop_runs():
            return
        with autopx.of_shell(shell).suspended():
            try:
                code = shell.transform_cell(cell)
            except SyntaxError:
                return  # which is told when the cell is run
        if shell.should_run_async(cell, transformed_cell=code):
            raise UsageError(
                "--local: in a kernel, a cell with await cannot run within another one. "
                "Run it here in a cell of its own, and on the engines by %%px"
            )

    def _run_here(self, cell: str) -> error.RemoteError | None:
        """Run a cell in this process; return its error, which IPython has shown."""
        with autopx.of_shell(self.shell).suspended():
            outcome = self.shell.run_cell(cell)  # type: ignore[union-attr]
        failure = outcome.error_before_exec or outcome.error_in_exec
        return None if failure is None else error.RemoteError(type(failure).__name__, str(failure), "")

    # ------------------------------------------------------------ waiting and showing

    def _wait_and_show(self, result: AsyncResult, args: argparse.Namespace, interrupted: bool) -> None:
        """Wait for `result` and show it. A Ctrl-C ends it on the engines, and is no error here.

        Raises
        ------
        RemoteError
            If a cell failed; `AlreadyDisplayedError` if that has been shown.
        StillRunning
            If it was interrupted, and engines have not ended it.
        """
        stream = self._streams if args.stream is None else args.stream
        signal = args.signal or self.signal_on_interrupt
        fold = self.fold if args.fold is None else args.fold
        with ExitStack() as streaming:
            if stream:
                with interrupting.Held() as held:
                    streaming.enter_context(result.stream_output(fold))
                interrupted = interrupted or held.came
            if not interrupted:
                try:
                    self._wait(result, args.progress_after)
                except KeyboardInterrupt:
                    interrupted = True
            if interrupted:
                self._interrupt(result, signal)
        if result.done():
            result.display_outputs(args.groupby or "type", stream, fold)
        if interrupted:
            self._tell_end(result, signal, shown=stream)
            return
        failure = result.exception()
        if failure is not None:
            raise _shown_error(failure) if stream else _told_shortly(failure)

    def _stop_showing(self, result: AsyncResult, args: argparse.Namespace) -> None:
        """Make sure that a cell ends of which no more is shown."""
        signal = args.signal or self.signal_on_interrupt
        if not result.done():
            self._interrupt(result, signal)
        print(f"Not all output was shown: %pxresult{self.suffix} shows it.", file=sys.stderr)
        self._tell_end(result, signal, shown=True)

    @property
    def _streams(self) -> bool:
        if self.stream_output is None:
            return not noninteractive()
        return self.stream_output

    def _wait(self, result: AsyncResult, progress_after: float | None) -> None:
        after = self.progress_after_seconds if progress_after is None else progress_after
        if not result.wait(after) and after >= 0:
            result.wait_interactive()

    def _interrupt(self, result: AsyncResult, signal: str) -> None:
        print(
            f"Received Keyboard Interrupt. Sending signal {signal} to engines...", file=sys.stderr, flush=True
        )
        number = signal_number(signal)
        if number:
            interrupting.end(result, PATIENCE, number)

    def _tell_end(self, result: AsyncResult, signal: str, shown: bool) -> None:
        """Say what became of an interrupted cell, whose errors may have been shown."""
        if result.done():
            failure = result.exception()
            if failure is not None and not shown:
                _print_error(failure)
            print(interrupting.how_it_ended(result), file=sys.stderr)
            return
        left = engines_text(task.engine for task in result._tasks if not task.done)
        if not signal_number(signal):
            print(f"{left}: at work still. %pxresult{self.suffix} waits for the output.", file=sys.stderr)
            return
        raise StillRunning(
            f"{left}: not ended by signal {signal}. %pxwhere{self.suffix} shows what they do, "
            f"%pxresult{self.suffix} waits for them, client.restart_engines() ends them in any case."
        )

    # ------------------------------------------------------------ the other magics

    @opt.options(*opt.OUTPUT, *opt.FOLD)
    def result(self, line: str = "") -> None:
        """Wait for the last cell, and show what it printed, displayed and returned."""
        args = opt.parse(self.result, line)
        result = self.last_result
        if result is None:
            raise UsageError("%pxresult recalls last %px result, which has not yet been used.")
        if args.out:
            self._user_names[args.out] = result
            return
        try:
            self._wait(result, None)
        except KeyboardInterrupt:  # which ends the waiting alone, as it does for other calls that wait
            left = engines_text(task.engine for task in result._tasks if not task.done)
            told = KeyboardInterrupt(f"{left}: at work still. client.interrupt() ends that.")
            raise _told_shortly(told) from None
        result.display_outputs(args.groupby or "type", fold=self.fold if args.fold is None else args.fold)
        failure = result.exception()
        if failure is not None:
            raise _told_shortly(failure)

    @opt.options(*opt.EXECUTION, *opt.FOLD)
    def pxconfig(self, line: str = "") -> None:
        """Set what %px does when its options do not say it; without options, show that."""
        args = opt.parse(self.pxconfig, line)
        view = self._get_view()
        if not line.strip():
            print(self._settings(view))
        if args.targets is not None:
            view.targets = self._targets(view, args.targets)
        if args.block is not None:
            view.block = args.block
        if args.stream is not None:
            self.stream_output = args.stream
        if args.verbose is not None:
            self.verbose = args.verbose
        if args.progress_after is not None:
            self.progress_after_seconds = args.progress_after
        if args.signal is not None:
            self.signal_on_interrupt = args.signal
        if args.fold is not None:
            self.fold = args.fold

    def _settings(self, view: DirectView) -> str:
        words = [f"--targets {_shown(view.targets)}", "--block" if view.block else "--noblock"]
        words.append("--stream" if self._streams else "--no-stream")
        if self.fold is not None:
            words.append("--fold" if self.fold else "--no-fold")
        words.append("--verbose" if self.verbose else "--no-verbose")
        words.append(f"--progress-after {self.progress_after_seconds:g}")
        return " ".join([*words, f"--signal-on-interrupt {self.signal_on_interrupt}"])

    @opt.options(opt.TARGETS)
    def pxwhere(self, line: str = "") -> Any:
        """Show what the engines are doing at this moment, and where they are in the cells of %px.

        >>> %pxwhere  # doctest: +SKIP
        engines 0-2  blocked 12.1 s in Barrier (MPI.COMM_WORLD, with engine 3)  cell line 2: comm.Barrier()
        engine 3     running 12.1 s                                             cell line 1: work(x)

        """
        args = opt.parse(self.pxwhere, line)
        view = self._get_view()
        targets = None if args.targets is None else self._targets(view, args.targets)
        try:
            places = view.where(targets)
        except Exception as failure:  # an engine that there is not, say
            raise _told_shortly(failure) from None
        return CellWhereabouts(places, self._cells)

    def autopx(self, line: str = "") -> None:
        """Switch between running cells here and running them on the engines.

        >>> %autopx  # doctest: +SKIP
        %autopx enabled
        >>> print(engine_id)  # doctest: +SKIP
        [stdout:0] 0
        [stdout:1] 1
        >>> %autopx  # doctest: +SKIP
        %autopx disabled

        Lines with parallel magics run here all the same.
        """
        switch = autopx.of_shell(self.shell)
        if switch.active == self.suffix:
            switch.active = None
            print("%autopx disabled")
        else:
            self._get_view()
            switch.active = self.suffix
            print("%autopx enabled")


def remove(shell: Any) -> None:
    """Take all parallel magics out of `shell`."""
    switch = autopx.of_shell(shell)
    shell.input_transformers_cleanup.remove(switch)
    for magics in shell.magics_manager.magics.values():
        ours = [
            name for name, magic in magics.items()
            if isinstance(getattr(magic, "__self__", None), ParallelMagics)
        ]  # fmt: skip
        for name in ours:
            del magics[name]


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _shown(targets: Any) -> str:
    if isinstance(targets, list) and len(targets) > LONG:
        return ", ..., ".join([str(targets[:4])[:-1], str(targets[-4:])[1:]])
    return str(targets)


def _shown_error(failure: Exception) -> error.AlreadyDisplayedError:
    """Return what is raised for an error that the stream has shown."""
    if not isinstance(failure, error.RemoteError):
        failure = error.RemoteError(type(failure).__name__, str(failure), "")
    return error.AlreadyDisplayedError(failure)


def _told_shortly(failure: BaseException) -> BaseException:
    """Return `failure`, of which IPython then shows no more than its text: the rest is in our code."""
    if not hasattr(failure, "_render_traceback_"):
        failure._render_traceback_ = lambda: [f"{type(failure).__name__}: {failure}"]  # type: ignore[attr-defined]
    return failure


def _print_error(failure: BaseException) -> None:
    lines = failure.render_traceback() if isinstance(failure, error.RemoteError) else [str(failure)]
    print("\n".join(lines), file=sys.stderr)
