"""``python -m mpiparallel`` is the command ``mpiparallel``."""

import sys

from mpiparallel.cli import main

if __name__ == "__main__":
    sys.exit(main())
