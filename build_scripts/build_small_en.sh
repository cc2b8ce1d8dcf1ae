#!/usr/bin/env bash
# Whisper small.en as a TensorRT-LLM engine, with the better words of a larger model; see
# build_trtllm.sh. Beside a voice engine on 8 GB, base.en is the safer choice.
set -euo pipefail

export MODEL_NAME=${MODEL_NAME:-small.en}
export WEIGHT_ONLY_PRECISION=${WEIGHT_ONLY_PRECISION:-int8}

PROGRAM=${0##*/} exec "$(dirname "${BASH_SOURCE[0]}")/build_trtllm.sh" "$@"
