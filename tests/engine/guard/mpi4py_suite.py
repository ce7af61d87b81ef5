"""Run by mpiexec (see test_mpi4py_suite.py): mpi4py's own tests, on guarded communicators.

usage: mpiexec -n N python mpi4py_suite.py FOLDER-OF-THE-TESTS [MODULE ...]
"""

from __future__ import annotations

import faulthandler
import sys
import unittest
from collections.abc import Iterator
from typing import Any

from mpi4py import MPI

from mpiparallel.engine import guard

# Not among them: tests of what the guard leaves as it is (datatypes, info, ports, spawning, sessions,
# packing, intercommunicators), and those that take long when cores are few: of files' views, and of the
# persistent forms of calls whose other forms are tested.
MODULES = [
    *("test_attributes", "test_cco_buf", "test_cco_nb_buf", "test_cco_nb_vec", "test_cco_ngh_buf"),
    *("test_cco_ngh_obj", "test_cco_obj", "test_cco_pr_buf"),
    *("test_cco_vec", "test_comm", "test_comm_topo", "test_errhandler", "test_exceptions", "test_file"),
    *("test_grequest", "test_group", "test_handle", "test_io.TestIOBasicSelf", "test_io.TestIOBasicWorld"),
    *("test_msgspec", "test_msgzero", "test_objmodel", "test_p2p_buf", "test_p2p_buf_matched"),
    *("test_p2p_buf_part", "test_p2p_obj", "test_p2p_obj_matched", "test_pickle", "test_request", "test_rma"),
    *("test_rma_nb", "test_status", "test_subclass", "test_threads", "test_util_pkl5", "test_util_sync"),
    "test_win",
]

# What is left out, by the end of its name, and why.
SKIPPED = {
    ".testCommLock": "looks at the locks of mpi4py's pickled collectives, which the guard does not use",
    "TestObjModel.testCAPI": "wants mpi4py's C interface to make objects of the module's classes",
    "TestObjModel.testReduce": "pickles copies of null handles, whose class is not that of the module",
}


def each(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Yield the tests of a suite."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from each(test)
        else:
            yield test


class Result(unittest.TextTestResult):
    """Ends all ranks at the first failure: the others would wait for this one."""

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        super().addError(test, err)
        self._end()

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:
        super().addFailure(test, err)
        self._end()

    def _end(self) -> None:
        self.printErrors()
        self.stream.flush()
        MPI.COMM_WORLD.Abort(1)


def main(folder: str, *modules: str) -> int:
    faulthandler.dump_traceback_later(250, exit=True)  # to be seen before the time is over
    plain = MPI.COMM_WORLD
    rank = plain.rank
    guard.install(plain)
    sys.path.insert(0, folder)
    suite = unittest.TestSuite()
    for test in each(unittest.defaultTestLoader.loadTestsFromNames(modules or MODULES)):
        if not test.id().endswith(tuple(SKIPPED)):
            suite.addTest(test)
    result = unittest.TextTestRunner(stream=sys.stderr, resultclass=Result, verbosity=0).run(suite)
    print(f"rank {rank}: {result.testsRun} tests, {len(result.skipped)} skipped", flush=True)
    faulthandler.cancel_dump_traceback_later()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
