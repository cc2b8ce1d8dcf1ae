#!/usr/bin/env bash
# Whisper base.en as a TensorRT-LLM engine for boards with little memory; see build_trtllm.sh.
set -euo pipefail

export MODEL_NAME=${MODEL_NAME:-base.en}
export WEIGHT_ONLY_PRECISION=${WEIGHT_ONLY_PRECISION:-int8}
export MAX_BATCH_SIZE=${MAX_BATCH_SIZE:-1}
export MAX_BEAM_WIDTH=${MAX_BEAM_WIDTH:-1}
export PAGED_KV=${PAGED_KV:-enable}

PROGRAM=${0##*/} exec "$(dirname "${BASH_SOURCE[0]}")/build_trtllm.sh" "$@"
