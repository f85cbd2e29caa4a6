#!/bin/bash
# A search over several nodes of a Slurm cluster, which goes on by itself after a time limit or a preemption:
#
#     sbatch --nodes=4 examples/slurm_ray.sh study.yaml --store postgresql+psycopg://USER@HOST/DATABASE
#
# Change the lines below to your cluster. The store must outlive the job, and store.files must be a folder that all
# nodes mount, or a URL.

#SBATCH --job-name=hpo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --output=hpo-%j.log
#SBATCH --open-mode=append
# Two minutes before the time is over Slurm tells this script alone (B:), which tells the search. That has
# compute.grace_seconds, 30 by default, to write checkpoints: keep it well below these 120.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

set -u

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A port of the job's own, should another job share the node.
port=$((20000 + SLURM_JOB_ID % 20000))
export RAY_USAGE_STATS_ENABLED=0
# Steps of a job do not take this over from it by themselves: all workers of a node would share one core.
export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"

# The store's password is the search's alone.
srun --nodes=1 --ntasks=1 --nodelist="$head" --overlap env -u PGPASSWORD \
    ray start --head --block --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" &
started=$!
until ray status --address="$head:$port" >/dev/null 2>&1; do
    kill -0 "$started" || exit 1 # Ray could not be started: see above.
    sleep 1
done
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" --overlap \
        env -u PGPASSWORD ray start --block --address="$head:$port" --num-cpus="$SLURM_CPUS_PER_TASK" &
fi

# In the background, since bash runs no trap while a command in the foreground goes on.
hpo run "$@" --runner ray_tune --ray-address "$head:$port" &
search=$!
trap 'told=yes; kill -TERM "$search"' TERM

# A signal ends `wait` before the search has ended, so it is waited for again.
while
    told=no
    wait "$search"
    code=$?
    [ "$told" = yes ]
do
    :
done

# 130: it was interrupted, and the same command goes on. Anything else is its end: see `hpo --help`.
if [ "$code" -eq 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
