#!/usr/bin/env bash
# Train on a Slurm cluster, one task per GPU.
set -euo pipefail

if [[ $# -lt 3 || $1 == -* ]]; then
    cat >&2 <<'USAGE'
Usage: slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of train.py]

Environment:
  GPUS           number of GPUs in all (4)
  GPUS_PER_NODE  number of GPUs on one machine (4, or GPUS where that is fewer)
  CPUS_PER_TASK  processor cores for each GPU (5)
  SRUN_ARGS      further arguments of srun, separated by white space
  PYTHON         interpreter (python)
USAGE
    exit 2
fi

gpus=${GPUS:-4}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 4 ? gpus : 4))}
read -r -a srun_args <<< "${SRUN_ARGS:-}"
tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec srun \
    --partition="$1" \
    --job-name="$2" \
    --gres="gpu:$gpus_per_node" \
    --ntasks="$gpus" \
    --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${srun_args[@]+"${srun_args[@]}"} \
    "${PYTHON:-python}" -u "$tools/train.py" "$3" --launcher slurm "${@:4}"
