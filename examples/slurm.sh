#!/bin/bash
# A search under Slurm that goes on by itself after a time limit or a preemption:
#
#     sbatch examples/slurm.sh study.yaml --store sqlite:///hpo.db
#
# Change the lines below to your cluster. The store must outlive the job: a SQLite file on a disk that every node
# mounts locally, or else PostgreSQL; SQLite refuses network file systems.

#SBATCH --job-name=hpo
#SBATCH --nodes=1
#SBATCH --gpus-per-node=1
#SBATCH --time=08:00:00
#SBATCH --output=hpo-%j.log
#SBATCH --open-mode=append
# Two minutes before the time is over Slurm tells this script alone (B:), which tells the search. That has
# compute.grace_seconds, 30 by default, to write checkpoints: keep it well below these 120.
#SBATCH --signal=B:TERM@120
#SBATCH --requeue

set -u

# In the background, since bash runs no trap while a command in the foreground goes on.
hpo run "$@" &
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

# 130: it was interrupted, and the same command goes on. Anything else is its end: 0 found a configuration, also when
# its own deadline (--for, --until) ended it; see `hpo --help` for the others.
if [ "$code" -eq 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
