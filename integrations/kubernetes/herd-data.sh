#!/usr/bin/env bash
# Does the stage `data` of a recipe on a Kubernetes cluster: each step is an indexed Job.
#
#     integrations/kubernetes/herd-data.sh RECIPE OUT
#
# Runs where kubectl reaches the cluster and where RECIPE and OUT are seen as they are by the pods: with an object store
# (OUT s3://bucket/run, input s3://...) that is anywhere; RECIPE is then given to the pods as a ConfigMap, so it may name no other
# local files. What is done is not done again. Settings, from the environment:
#
#     HERD      the program here                              [herd]
#     IMAGE     an image that has `herd` in PATH              (must be given)
#     MEMORY    memory of a task                              [2GB]
#     CPUS      cores of a task                               [2]
#     AT_ONCE   pods at the same time                         [500]
#     POLL      seconds between two looks at a Job            [5]
#     SECRET    a Secret with the store's credentials as environment variables   [herd-store]
set -euo pipefail
[[ $# == 2 ]] || { echo "usage: $0 RECIPE OUT" >&2; exit 2; }

recipe=$1 out=$2
herd=${HERD:-herd} memory=${MEMORY:-2GB} cpus=${CPUS:-2} at_once=${AT_ONCE:-500} secret=${SECRET:-herd-store}
image=${IMAGE:?name an image that has herd in PATH}
here=$(dirname "$(realpath "$0")")
megabytes=$(($(numfmt --from=si "${memory%B}") / 1000000 + 500))

kubectl create configmap herd-recipe --from-file=recipe.toml="$recipe" --dry-run=client -o yaml | kubectl apply -f -
previous=
while :; do
    read -r step tasks missing < <("$herd" data next "$recipe" --out "$out" --plain && echo) || true
    [[ $step ]] || { echo "herd data next failed" >&2; exit 1; }
    if [[ $step == done ]]; then
        echo "done: $out/data"
        exit
    fi
    [[ $step != "$previous" ]] || { echo "$step: tasks $missing are not done; kubectl logs job/herd-$step" >&2; exit 1; }
    previous=$step
    # Tasks that are done end at once, so the Job has all of them.
    sed -e "s|@STEP@|$step|g; s|@TASKS@|$tasks|g; s|@AT_ONCE@|$at_once|g; s|@IMAGE@|$image|g; s|@OUT@|$out|g" \
        -e "s|@CPUS@|$cpus|g; s|@MEMORY@|$memory|g; s|@MEGABYTES@|$megabytes|g; s|@SECRET@|$secret|g" "$here/job.yaml" |
        kubectl apply -f -
    ended=
    until [[ $ended =~ Complete|Failed ]]; do
        sleep "${POLL:-5}"
        ended=$(kubectl get job "herd-$step" -o jsonpath='{.status.conditions[?(@.status=="True")].type}')
    done
    kubectl delete job "herd-$step" --wait=true
    echo "$step: $tasks tasks"
done
