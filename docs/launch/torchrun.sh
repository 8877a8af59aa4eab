#!/bin/bash
# train.py by torchrun, on one machine or on several that share the file system of its outputs.
#
#   RUN=first PROCESSES=8 docs/launch/torchrun.sh scale=paper trainer=ddp ...
#   RUN=first PROCESSES=8 NODES=2 NODE=0 HEAD=node1 docs/launch/torchrun.sh ...   # on node1
#   RUN=first PROCESSES=8 NODES=2 NODE=1 HEAD=node1 docs/launch/torchrun.sh ...   # on the other
#
# The same command goes on with the run, which RUN and the overrides name. See docs/scaling.md.
set -euo pipefail
: "${RUN:?is a name for the run, the same on all machines}"
: "${PROCESSES:?is the number of GPUs of a machine}"
cd "$(dirname "$0")/../.."

exec "${PYTHON:-.venv/bin/python}" -m torch.distributed.run \
  --nnodes="${NODES:-1}" --node-rank="${NODE:-0}" --nproc-per-node="$PROCESSES" \
  --master-addr="${HEAD:-127.0.0.1}" --master-port="${PORT:-29400}" --rdzv-id="$RUN" \
  train.py "trainer.devices=$PROCESSES" "trainer.num_nodes=${NODES:-1}" "$@"
