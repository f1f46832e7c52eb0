#!/usr/bin/env bash
# Train on several GPUs of one machine, or of several with the variables below.
set -euo pipefail

if [[ $# -lt 2 || $1 == -* || ! $2 =~ ^[1-9][0-9]*$ ]]; then
    cat >&2 <<'USAGE'
Usage: dist_train.sh CONFIG GPUS [arguments of train.py]

GPUS is the number of processes on this machine. Environment:
  NNODES       number of machines (1)
  NODE_RANK    which of them this is, from 0 (0)
  MASTER_ADDR  address of machine 0 (127.0.0.1)
  PORT         free port on machine 0 (29500)
  PYTHON       interpreter (python)
USAGE
    exit 2
fi

tools=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$2" \
    "$tools/train.py" "$1" --launcher pytorch "${@:3}"
