#!/usr/bin/env bash
# A real Slurm on loopback (Debian: apt-get install slurm-wlm; run as root): curates the quickstart's crawl by job arrays and
# compares the result with that of one process.
#
#     integrations/slurm/test.sh target/release/herd
set -euo pipefail
herd=$(realpath "$1")
cd "$(dirname "$0")/../.."
dir=$(mktemp -d)
trap 'kill $(cat "$dir"/*.pid 2>/dev/null) 2>/dev/null || true; rm -rf "$dir"' EXIT
mkdir -p "$dir/state" "$dir/spool"
cores=$(nproc)
cat >"$dir/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MinJobAge=300
ReturnToService=2
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$cores RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$dir/slurm.conf
slurmctld
slurmd
for _ in $(seq 60); do
    sinfo -h -o %T 2>/dev/null | grep -q idle && break
    sleep 0.5
done
sinfo

{
    cat recipes/quickstart.toml
    printf '\n[data.tasks]\nsplit_bytes = 1000000\npartitions = 2\n'
} >"$dir/recipe.toml"
"$herd" data "$dir/recipe.toml" --out "$dir/alone" >/dev/null 2>&1
HERD=$herd MEMORY=300MB CPUS=1 SBATCH_OPTIONS="--output=$dir/log-%A-%a" integrations/slurm/herd-data.sh "$dir/recipe.toml" "$dir/cluster"
for _ in $(seq 600); do
    [[ $("$herd" data next "$dir/recipe.toml" --out "$dir/cluster" --plain) == done ]] && break
    if [[ -z $(squeue -h) ]]; then sleep 3; [[ -z $(squeue -h) ]] && break; fi
    sleep 1
done
for file in documents.parquet rejects.parquet funnel.json summary.json; do
    cmp "$dir/alone/data/$file" "$dir/cluster/data/$file" || { tail -n 5 "$dir"/log-*; exit 1; }
done
echo "Slurm gives the bits of one process: $(find "$dir" -name 'log-*' | wc -l) jobs"
