#!/bin/bash
# Slurm, one task per GPU; the tasks find each other automatically:
#
#     sbatch cloud/slurm.sh munchausen_dqn/minatar_breakout
#     NAME=second sbatch --nodes 2 --gpus-per-node 4 --ntasks-per-node 4 cloud/slurm.sh PRESET --env.num-envs 64
#
# When a job reaches its time limit or is preempted, a run on host environments writes a checkpoint; other runs keep
# their last one. The run continues when the job is requeued, or submitted again with the same NAME.
#SBATCH --job-name=bellmax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log
set -euo pipefail

preset=$1
shift
# A folder that all nodes see, and a virtual environment with bellmax.
runs=${RUNS:-$PWD/runs}
if [ -n "${VENV:-}" ]; then
    source "$VENV/bin/activate"
fi

together=()
if [ "$SLURM_NTASKS" -gt 1 ]; then
    together=(--coordinator auto)
fi
# Newer versions of srun give each task one CPU by default.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
srun bellmax train "$preset" --devices "$SLURM_NTASKS" "$@" \
    --out "$runs/${NAME:-first}" --resume "${together[@]}"
