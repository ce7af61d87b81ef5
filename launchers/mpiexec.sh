#!/bin/sh
# Start one world of engines with mpiexec.
#
# mpiparallel runs this file in the folder where the cluster was started. To change how engines start at your
# site (load a module, choose a fabric, wrap the command), put a copy of it at
# ~/.config/mpiparallel/launchers/mpiexec.sh and edit that; it needs no mpiparallel code.
#
#   arguments               those of mpiexec: [options] -n N python -m mpiparallel.engine ...
#   MPIPARALLEL_MPIEXEC     the mpiexec that was found
#   MPIPARALLEL_N           the number of ranks; engines refuse to be another number
#
# Keep `exec`: mpiparallel sends its signals to the process that it started.
set -eu

exec "${MPIPARALLEL_MPIEXEC:-mpiexec}" "$@"
