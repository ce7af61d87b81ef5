"""The exit codes of ``mpiparallel``, all of them."""

from __future__ import annotations

DONE = 0
FAILED = 1
USAGE = 2
ALREADY_STARTED = 10
ALREADY_STOPPED = 11
NO_CLUSTER = 12
INTERRUPTED = 130

# For --help.
TEXT = """\
exit codes:
  0 done   1 failed   2 wrong usage   10 runs already   11 stopped already   12 no such cluster
  130 interrupted
  run ends with its script's; submit --follow and logs -f JOB with the job's, which is its script's (143
  or 137: Slurm has ended it)
"""
