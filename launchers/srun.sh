#!/bin/sh
# Start one world of engines with srun, over the nodes of the allocation that this runs in.
#
# mpiparallel and its batch templates run this file. To change how engines start at your site (load a module,
# choose a fabric, wrap the command), put a copy of it at ~/.config/mpiparallel/launchers/srun.sh and edit that;
# it needs no mpiparallel code.
#
#   arguments               those of srun: [options] -n N python -m mpiparallel.engine ...
#   MPIPARALLEL_SRUN_MPI    how srun starts MPI ranks: "pmix" for Open MPI, "pmi2" for MPICH and Intel MPI (see
#                           `srun --mpi=list`); empty: as Slurm's MpiDefault says
#   MPIPARALLEL_N           the number of ranks; engines refuse to be another number
#
# Keep `exec`: mpiparallel sends its signals to the process that it started.
set -eu

# MPICH names shared memory by the number of its step. A job that was requeued counts its steps from 0 again, and
# may come to a node where its last turn, which was killed, has left some: then MPI_Init fails. Steps that do
# nothing make these numbers new ones.
if [ "${MPIPARALLEL_SRUN_MPI:-}" = pmi2 ]; then
    turn="${SLURM_RESTART_COUNT:-0}"
    while [ "$turn" -gt 0 ]; do
        srun --overlap --nodes=1 --ntasks=1 --input=none true
        turn=$((turn - 1))
    done
fi

# A controller, or another world, may use the same cores: engines wait most of the time. When a rank dies, the
# world has ended, and the others would wait for it for ever. Since Slurm 22.05 srun has to be told the cores of a
# task once more.
exec srun --overlap --kill-on-bad-exit=1 --input=none \
    ${MPIPARALLEL_SRUN_MPI:+"--mpi=$MPIPARALLEL_SRUN_MPI"} \
    ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} "$@"
