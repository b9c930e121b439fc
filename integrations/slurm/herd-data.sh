#!/usr/bin/env bash
# Does the stage `data` of a recipe on a Slurm cluster: each step is a job array, and after it a short job that submits the next.
#
#     integrations/slurm/herd-data.sh RECIPE OUT
#
# RECIPE, OUT and the program must be seen by all nodes; OUT may be an address such as s3://bucket/run. What is done is not
# done again: run the same command after an interruption. Settings, from the environment:
#
#     HERD            the program                                     [herd]
#     MEMORY          memory of a task                                [2GB]
#     CPUS            cores of a task                                 [2]
#     AT_ONCE         tasks at the same time                          [500]
#     TRIES           times that a step may leave tasks undone        [4]
#     SBATCH_OPTIONS  more options of sbatch, such as a partition
set -euo pipefail
[[ $# == 2 ]] || { echo "usage: $0 RECIPE OUT" >&2; exit 2; }

recipe=$1 out=$2
herd=${HERD:-herd} memory=${MEMORY:-2GB} cpus=${CPUS:-2} at_once=${AT_ONCE:-500} tries=${TRIES:-4}
self=$(realpath "${HERD_SUBMIT:-$0}")
export HERD=$herd MEMORY=$memory CPUS=$cpus AT_ONCE=$at_once TRIES=$tries HERD_SUBMIT=$self

if [[ ${SLURM_ARRAY_TASK_ID:-} ]]; then
    # One task of a step. RAYON_NUM_THREADS keeps it to its cores.
    export RAYON_NUM_THREADS=$cpus
    exec "$herd" data task "$recipe" "$HERD_STEP" "$SLURM_ARRAY_TASK_ID/$HERD_TASKS" --out "$out" --memory "$memory"
fi

read -r step tasks missing < <("$herd" data next "$recipe" --out "$out" --plain && echo) || true
if [[ $step == done ]]; then
    echo "done: $out/data"
    exit
fi
[[ $step ]] || { echo "herd data next failed" >&2; exit 1; }
if [[ $step == "${HERD_STEP:-}" ]]; then
    tried=$((${HERD_TRIED:-1} + 1))
    [[ $tried -le $tries ]] || { echo "$step: tasks $missing failed $tries times; see the logs of their jobs" >&2; exit 1; }
else
    tried=1
fi
export HERD_STEP=$step HERD_TASKS=$tasks HERD_TRIED=$tried
# Memory of the program itself and of its buffers comes on top of what rows may take.
megabytes=$(($(numfmt --from=si "${memory%B}") / 1000000 + 500))
# shellcheck disable=SC2086 # options are words
job=$(sbatch --parsable --job-name="herd-$step" --array="$missing%$at_once" --cpus-per-task="$cpus" --mem="${megabytes}M" \
    --export=ALL ${SBATCH_OPTIONS:-} "$self" "$recipe" "$out")
# shellcheck disable=SC2086
sbatch --parsable --job-name=herd-next --dependency="afterany:${job%%;*}" --export=ALL ${SBATCH_OPTIONS:-} "$self" "$recipe" "$out" >/dev/null
echo "$step: tasks $missing of $tasks, job ${job%%;*}, try $tried"
