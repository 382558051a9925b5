# shellcheck shell=bash
# Shared by the job files: run a program, and put the job back into the queue when it was stopped before its end.
#
#     source recipes/slurm/run_until_done.sh
#     run_until_done COMMAND [ARGUMENT]...
#
# COMMAND is a program, or a function of the job file, and runs once on each node. A job file may do this several times.

most_restarts=50
# An array's first number alone would mean all of its tasks.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
asked='' cancelled='' interrupted=''

# Slurm sends USR1 to this shell alone, as the job's --signal says: in good time before the limit. It is passed on as
# TERM to the step's programs. Not through srun, which would end them at once.
trap 'asked=yes interrupted=yes; scancel --signal=TERM "$job"' USR1
# This shell gets TERM with scancel and scontrol requeue. What becomes of the job is then not for it to say.
trap 'cancelled=yes interrupted=yes' TERM

# The launcher has this long to wait for its processes to save; its own 30 seconds may be less than a step and a save.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-270}

# The part of a node. Slurm signals every process of a step at once; launchers report an interruption as 1, not as 75.
in_task() {
    local code interrupted=''
    trap 'interrupted=yes' TERM  # heeded when the command has ended
    "$@"
    code=$?
    if [ "$code" -ne 0 ] && [ -n "$interrupted" ]; then code=75; fi
    return "$code"
}

run_until_done() {
    local step code=75 cores=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
    if [ -z "$asked" ]; then
        # A step, for preemption with a grace time signals steps only. It would not take over the job's cores by
        # itself. What is left when one node has failed ends after --wait.
        srun --ntasks-per-node=1 --cpus-per-task="$cores" --kill-on-bad-exit=0 --wait=300 \
            bash -c "$(declare -f in_task "$1")"$'\n''in_task "$@"' bash "$@" &
        step=$!
        interrupted=yes
        while [ -n "$interrupted" ]; do  # a signal ends the waiting, not the step
            interrupted=''
            wait "$step"
            code=$?
        done
    fi
    if [ "$code" -eq 0 ]; then return; fi
    if [ "$code" -eq 75 ] && [ -z "$cancelled" ]; then
        if [ "${SLURM_RESTART_COUNT:-0}" -lt "$most_restarts" ]; then
            echo "job $job was interrupted and goes back into the queue"
            scontrol requeue "$job"
        else
            echo "job $job was interrupted, and has been requeued $most_restarts times; submit it again to go on"
        fi
    fi
    exit "$code"
}
