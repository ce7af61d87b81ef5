# A controller, engines, and a script, with whose exit code the job ends: what is the same in slurm/job.sbatch,
# pbs/job.pbs and lsf/job.bsub. It is filled in and put in the place of their `job` in double braces.
#
#   launch         how ranks are started (launchers/srun.sh or launchers/mpiexec.sh)
#   script         the command of your script
#
# $job is the number of the job.
set +e

python={{python}}
# What the script prints is in the output file at once.
export PYTHONUNBUFFERED=1
# Clients in this job find the cluster by these names, and so do those on the login node.
export MPIPARALLEL_STATE={{state}} MPIPARALLEL_PROFILE={{profile}} MPIPARALLEL_CLUSTER_ID="$job"
folder="$MPIPARALLEL_STATE/$MPIPARALLEL_PROFILE/cluster-$job"
export MPIPARALLEL_LOG="$folder/engines-job.log" # where the controller looks for the cause when ranks die

(umask 077 && mkdir -p "$folder")
rm -f "$folder/client.json" "$folder/engine.json" "$folder/engines.end" # of an earlier turn, if it was requeued

say() { echo "mpiparallel: $*" >&2; }

# ---------------------------------------------------------------- what may come meanwhile

set -m # each part is a process group of its own, so that all of it can be ended
# `disown`: bash is to say how the script has ended, but not each of the other parts.

stage=starting # then: running, lost (its engines), failed, ending
main=''        # the part that we wait for
code=143       # its exit code
caught=''      # whether a signal has come
engines='' timer=''

trap 'caught=1; say "job $job reaches its time limit in about {{warn_before}} s"' USR1
trap 'caught=1; stage=ending; say "job $job is being ended"; end TERM "$main"' TERM INT
trap 'caught=1; engines_ended' USR2

end() { [ -n "$2" ] && kill "-$1" -- "-$2" 2> /dev/null; } # a signal, a part

after() { # so many seconds, SIGUSR2 again
    { sleep "$1" && kill -USR2 $$; } &
    timer=$!
    disown "$timer"
}

engines_ended() { # also some time after that, when the script goes on all the same
    local how
    if [ ! -e "$folder/engines.end" ]; then # they have not: LSF has sent this
        say "job $job has reached its time limit"
        stage=ending
        end TERM "$main"
        return
    fi
    how="exit code $(cat "$folder/engines.end")"
    case $stage in
        starting)
            say "the engines could not be started ($how). They said:"
            tail -n 40 "$MPIPARALLEL_LOG" >&2
            stage=failed
            end TERM "$main"
            ;;
        running)
            [ "$how" = "exit code 0" ] && return # the script has sent them home
            # It has got an error for what ran on them, and may have something to save.
            say "the engines have ended ($how). The script has 60 s to end by itself. They said last:"
            tail -n 10 "$MPIPARALLEL_LOG" >&2
            stage=lost
            after 60
            ;;
        lost)
            say "the script has not ended although its engines have; it is ended now"
            stage=failed
            end TERM "$main"
            after 10
            ;;
        failed)
            end KILL "$main"
            ;;
    esac
}

await_main() {
    caught=1
    while [ -n "$caught" ]; do # a signal interrupts `wait`
        caught=''
        wait "$main"
        code=$?
    done
}

# ---------------------------------------------------------------- its parts

"$python" -m mpiparallel.controller --directory "$folder" --cluster-id "$job" --ip '*' --fresh \
    {{controller_args}} >> "$folder/controller.log" 2>&1 &
controller=$!
disown "$controller"
while [ $stage = starting ] && [ ! -e "$folder/engine.json" ]; do
    if ! kill -0 $controller 2> /dev/null; then
        say "the controller could not be started. It said:"
        tail -n 40 "$folder/controller.log" >&2
        exit 1
    fi
    sleep 0.1
done

if [ $stage = starting ]; then
    {
        {{launch}} "$python" -m mpiparallel.engine --connection-file "$folder/engine.json" --engine-set job \
            {{engine_args}} >> "$MPIPARALLEL_LOG" 2>&1
        echo $? > "$folder/engines.end"
        kill -USR2 $$
    } &
    engines=$!
    disown "$engines"
    "$python" -m mpiparallel wait -n {{n}} --timeout {{engine_timeout}} > /dev/null &
    main=$!
    await_main
fi

if [ $stage = starting ] && [ $code -eq 0 ]; then
    stage=running
    {{script}} &
    main=$!
    await_main
elif [ $stage = starting ]; then
    say "the engines and the controller have said:"
    tail -n 40 "$MPIPARALLEL_LOG" "$folder/controller.log" >&2
fi

# ---------------------------------------------------------------- the end

trap '' USR1 USR2 TERM INT
[ $stage = failed ] && code=1
{
    kill -TERM $controller # it sends the engines home
    [ $stage = ending ] && end TERM "$engines" # which may be busy, and the batch system is in a hurry
    for _ in {1..100}; do
        kill -0 $controller || kill -0 "$engines" || break
        sleep 0.1
    done
    for part in "$timer" "$main" "$engines" $controller; do
        end KILL "$part" # what is left of it
    done
    wait
} 2> /dev/null
exit $code
