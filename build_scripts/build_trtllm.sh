#!/usr/bin/env bash
# Builds a TensorRT-LLM engine folder of any Whisper size on the machine that will run it.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
# shellcheck source=build_scripts/preflight.sh
source "$SCRIPTS/preflight.sh"
# shellcheck source=build_scripts/steps.sh
source "$SCRIPTS/steps.sh"
# shellcheck source=build_scripts/checkpoint.sh
source "$SCRIPTS/checkpoint.sh"

PROMPT_TOKENS=14   # longest prompt of the engine; Whisper's own has 2 to 4 tokens
TEXT_POSITIONS=448 # of every Whisper decoder, prompt and answer together

MODEL_NAME=${MODEL_NAME:-base.en}
WEIGHT_ONLY_PRECISION=${WEIGHT_ONLY_PRECISION:-none}
MAX_BATCH_SIZE=${MAX_BATCH_SIZE:-1}
MAX_BEAM_WIDTH=${MAX_BEAM_WIDTH:-1}
MAX_NEW_TOKENS=${MAX_NEW_TOKENS:-100}
MAX_INPUT_LEN=${MAX_INPUT_LEN:-3000}
PAGED_KV=${PAGED_KV:-enable}
CONTEXT_FMHA=${CONTEXT_FMHA:-enable}
ENGINE_DIR=${ENGINE_DIR:-}
CHECKPOINT=${CHECKPOINT:-}
TRTLLM_VERSION=${TRTLLM_VERSION:-}
CONVERT_CHECKPOINT=${CONVERT_CHECKPOINT:-}
export CUDA_MODULE_LOADING=${CUDA_MODULE_LOADING:-LAZY} # without it CUDA loads every kernel it has

usage() {
    cat <<END
Usage: $PROGRAM [--dry-run] [--from FILE] [--overwrite] [--keep-work]

Builds a TensorRT-LLM engine of Whisper $MODEL_NAME: downloads the checkpoint, converts it, builds
encoder and decoder, and writes an engine folder for \`duplex-asr serve --engine DIR\`. A build that
was interrupted goes on where it stopped when the same command runs again.

  --dry-run    print the commands on stdout, and what this machine lacks on stderr; build nothing
  --from FILE  take the checkpoint from FILE instead of the network; its sha256 is checked
  --overwrite  replace an engine folder that was built otherwise
  --keep-work  keep the intermediate files beside the engine folder

Environment, with the value of this run:
  MODEL_NAME=$MODEL_NAME              one of: $(checkpoint_names)
  WEIGHT_ONLY_PRECISION=$WEIGHT_ONLY_PRECISION      none (fp16), int8 or int4 weights
  MAX_BATCH_SIZE=$MAX_BATCH_SIZE                1 to 64 utterances at once; the daemon uses 1
  MAX_BEAM_WIDTH=$MAX_BEAM_WIDTH                1 to 8; the daemon decodes greedily and uses 1
  MAX_NEW_TOKENS=$MAX_NEW_TOKENS              1 to $((TEXT_POSITIONS - PROMPT_TOKENS)) tokens an utterance
  MAX_INPUT_LEN=$MAX_INPUT_LEN              1 to 3000 mel frames; any value builds 3000, and says why
  PAGED_KV=$PAGED_KV                 enable: KV cache in blocks; disable: contiguous
  CONTEXT_FMHA=$CONTEXT_FMHA             disable, should fused attention not run on the GPU
  ENGINE_DIR=$(default_engine_dir)
                                  where the engine goes
  CHECKPOINT=$CHECKPOINT                     an OpenAI-format .pt of this size of your own, unchecked
  DOWNLOAD_DIR=$DOWNLOAD_DIR
                                  where checkpoints are kept
  CHECKPOINT_URL=$CHECKPOINT_URL
                                  a mirror of OpenAI's checkpoints
  STALL_S=$STALL_S                      seconds after which a server that sends nothing is given up
  TRTLLM_VERSION=${TRTLLM_VERSION:-(the installed one)}
                                  0.11 to 1.2; decides flags and length units
  CONVERT_CHECKPOINT=$CONVERT_CHECKPOINT             convert_checkpoint.py of the same TensorRT-LLM version
  SM=${SM:-(found out)}                  GPU architecture, 87 for an Orin
  NEEDED_MEMORY_MB, NEEDED_TOTAL_MB, NEEDED_DISK_MB
                                  what the checks ask for, instead of the estimate
  SIGN_OF_LIFE_S=30               seconds between two lines while a step runs

$EXIT_CODES_HELP
END
}

default_engine_dir() {
    local precision=$WEIGHT_ONLY_PRECISION
    [[ $precision != none ]] || precision=fp16
    echo "${ENGINE_DIR:-$ROOT/engines/$MODEL_NAME/build/trtllm-$precision}"
}

main() {
    parse_options "$@"
    check_overrides
    choose_version
    look_at_machine
    choose_flags
    name_build
    stop_if_built "$ENGINE_DIR" "$BUILD_KEY"
    check_machine
    explain_input_length
    build
}

OVERWRITE=no KEEP_WORK=no FROM_FILE=
parse_options() {
    while (($#)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --dry-run) DRY_RUN=yes ;;
            --overwrite) OVERWRITE=yes ;;
            --keep-work) KEEP_WORK=yes ;;
            --from)
                (($# > 1)) || fail "$EXIT_USAGE" "--from needs a FILE."
                FROM_FILE=$2
                shift
                ;;
            *) fail "$EXIT_USAGE" "$1 is no option of this script: see --help." ;;
        esac
        shift
    done
}

check_overrides() {
    require_checkpoint_name "$MODEL_NAME"
    require_choice WEIGHT_ONLY_PRECISION "$WEIGHT_ONLY_PRECISION" none int8 int4
    require_number MAX_BATCH_SIZE "$MAX_BATCH_SIZE" 1 64
    require_number MAX_BEAM_WIDTH "$MAX_BEAM_WIDTH" 1 8
    require_number MAX_NEW_TOKENS "$MAX_NEW_TOKENS" 1 $((TEXT_POSITIONS - PROMPT_TOKENS))
    require_number MAX_INPUT_LEN "$MAX_INPUT_LEN" 1 3000
    require_choice PAGED_KV "$PAGED_KV" enable disable
    if [[ $PAGED_KV == enable ]] && ((MAX_BEAM_WIDTH > 1)); then
        fail "$EXIT_USAGE" "MAX_BEAM_WIDTH=$MAX_BEAM_WIDTH does not go with PAGED_KV=enable, where \
Whisper has one beam before TensorRT-LLM 0.13 and in duplex-asr: set PAGED_KV=disable."
    fi
    require_choice CONTEXT_FMHA "$CONTEXT_FMHA" enable disable
    ENGINE_DIR=$(default_engine_dir)
    check_common_overrides
    [[ -z $TRTLLM_VERSION ]] || require_version TRTLLM_VERSION "$TRTLLM_VERSION"
    check_checkpoint_overrides
}

# The installed version decides; a dry run without one shows what a JetPack 6 board has.
choose_version() {
    TRTLLM_VERSION_FOUND=$(package_version tensorrt_llm)
    if [[ -z $TRTLLM_VERSION ]]; then
        TRTLLM_VERSION=${TRTLLM_VERSION_FOUND:-0.12.0}
    elif [[ -n $TRTLLM_VERSION_FOUND && $TRTLLM_VERSION_FOUND != "$TRTLLM_VERSION"* ]]; then
        problem "$EXIT_WRONG_VERSION" "TRTLLM_VERSION=$TRTLLM_VERSION is asked for and TensorRT-LLM \
$TRTLLM_VERSION_FOUND is installed: leave TRTLLM_VERSION unset, or install the other version."
    fi
    VERSION=$(version_number "$TRTLLM_VERSION")
    if ((VERSION < 11)); then
        fail "$EXIT_WRONG_VERSION" "TensorRT-LLM $TRTLLM_VERSION is older than 0.11 and builds \
Whisper in another way: install 0.12.0, the last version for JetPack 6."
    elif ((VERSION >= 1003)); then
        fail "$EXIT_WRONG_VERSION" "TensorRT-LLM $TRTLLM_VERSION has no TensorRT engines any more, \
they ended with 1.2: install 0.12.0, or use build_tensorrt.sh, which needs no TensorRT-LLM."
    elif [[ $MODEL_NAME == large-v3-turbo ]] && ((VERSION < 13)); then
        fail "$EXIT_WRONG_VERSION" "large-v3-turbo needs TensorRT-LLM 0.13 or newer and this is \
$TRTLLM_VERSION: choose another MODEL_NAME, or use build_tensorrt.sh."
    fi
}

check_machine() {
    local size
    size=$(checkpoint_megabytes "$MODEL_NAME")
    require_tool trtllm-build "it comes with TensorRT-LLM, see docs/jetson.md"
    require_tool "$PYTHON" "install Python 3, or set PYTHON"
    [[ -n $TRTLLM_VERSION_FOUND ]] || problem "$EXIT_MISSING_TOOL" \
        "the Python package tensorrt_llm is not installed for $PYTHON: see docs/jetson.md."
    find_converter
    if ((VERSION == 12)) && [[ ${TENSORRT_VERSION_FOUND:-10.3} != 10.3* ]]; then
        problem "$EXIT_WRONG_VERSION" "TensorRT-LLM 0.12 goes with TensorRT 10.3 and this machine \
has $TENSORRT_VERSION_FOUND: use the container or JetPack 6, or build_tensorrt.sh."
    fi
    if ((VERSION == 12)) && [[ $PAGED_KV == enable ]]; then
        say "A paged KV cache of Whisper in TensorRT-LLM 0.12 is documented, and no board has confirmed it:"
        say "  should the engine not load, build it with PAGED_KV=disable, which costs no memory at batch 1."
    fi
    if [[ ${SM:-} == 87 ]] && ((VERSION != 12)); then
        warn "TensorRT-LLM 0.12 is the last one that NVIDIA released for an Orin, not $TRTLLM_VERSION."
    fi
    check_architecture
    # Derived, never measured: Python with torch and the builder's kernels, then copies of weights.
    [[ $WEIGHT_ONLY_PRECISION != int4 || $size -gt 600 ]] ||
        warn "int4 weights cost a small model most of its accuracy, and nobody has published figures."
    check_memory "${NEEDED_MEMORY_MB:-$((1500 + 2 * size))}" "${NEEDED_TOTAL_MB:-$((3000 + 6 * size))}"
    check_disk "$ENGINE_DIR" "${NEEDED_DISK_MB:-$((1000 + 8 * size))}"
}

# The converter is no part of the Python package; it lies in the examples of the sources.
find_converter() {
    local folder=examples/whisper place
    ((VERSION < 20)) || folder=examples/models/core/whisper
    if [[ -z $CONVERT_CHECKPOINT ]]; then
        CONVERT_CHECKPOINT=/opt/TensorRT-LLM/$folder/convert_checkpoint.py
        for place in "$HOME" /usr/src /workspace /app; do
            [[ -f $CONVERT_CHECKPOINT || ! -f $place/TensorRT-LLM/$folder/convert_checkpoint.py ]] ||
                CONVERT_CHECKPOINT=$place/TensorRT-LLM/$folder/convert_checkpoint.py
        done
    fi
    [[ -f $CONVERT_CHECKPOINT ]] || problem "$EXIT_MISSING_TOOL" "there is no $CONVERT_CHECKPOINT: \
get the sources of TensorRT-LLM $TRTLLM_VERSION and set CONVERT_CHECKPOINT to its $folder file."
}

# The flags of both builds. They differ between versions in names and in the unit of lengths:
# up to 0.12 encoder output positions (1500 are 30 s), from 0.13 on mel frames (3000 are 30 s).
choose_flags() {
    local layout=(--remove_input_padding disable) shared=(--moe_plugin disable)
    LENGTH_UNIT=output
    LENGTH=1500
    if ((VERSION < 13)); then
        ENCODER_FLAGS=(--paged_kv_cache disable)
        DECODER_FLAGS=(--paged_kv_cache "$PAGED_KV")
    else
        LENGTH_UNIT=mel
        LENGTH=3000
        if [[ $PAGED_KV == enable ]]; then # for the C++ runner, which wants both
            layout=(--remove_input_padding enable --kv_cache_type paged)
        else # for the Python session, which wants neither
            layout=(--remove_input_padding disable --kv_cache_type continuous)
        fi
        ENCODER_FLAGS=(--max_seq_len "$LENGTH")
        DECODER_FLAGS=()
    fi
    ((VERSION >= 12)) || shared+=(--use_custom_all_reduce disable)
    ((VERSION >= 16)) || shared+=(--enable_xqa disable)
    [[ $CONTEXT_FMHA == enable ]] || shared+=(--context_fmha disable)
    shared+=(--max_batch_size "$MAX_BATCH_SIZE" --bert_attention_plugin float16 "${layout[@]}")
    ENCODER_FLAGS+=("${shared[@]}" --gemm_plugin disable --max_input_len "$LENGTH")
    DECODER_FLAGS+=("${shared[@]}" --gemm_plugin float16 --gpt_attention_plugin float16
        --max_beam_width "$MAX_BEAM_WIDTH"
        --max_input_len "$PROMPT_TOKENS" --max_seq_len $((PROMPT_TOKENS + MAX_NEW_TOKENS))
        --max_encoder_input_len "$LENGTH")
    REMOVE_PADDING=${layout[1]}
}

explain_input_length() {
    ((MAX_INPUT_LEN != 3000)) || return 0
    say "MAX_INPUT_LEN=$MAX_INPUT_LEN is taken as a wish for utterances of at most \
$((MAX_INPUT_LEN / 100)).$((MAX_INPUT_LEN / 10 % 10)) s; the engine is built for 3000 mel frames
all the same:
  - Whisper's encoder of TensorRT-LLM 0.11 to 0.14 has 3000 frames (30 s) as a constant and refuses
    other inputs with 'Static dimension mismatch'; later versions are used in the same way. Shorter
    speech is padded with silence.
  - The decoder has to take all $LENGTH positions (unit: $LENGTH_UNIT) that come out of it.
  - To bound utterances, and with them time and memory, set [endpointer] max_utterance_ms of the
    daemon, or MAX_NEW_TOKENS here."
}

name_build() {
    local source
    source=$(source_sha256 "$MODEL_NAME")
    BUILD_KEY=$(build_key_of trtllm "$MODEL_NAME" "$WEIGHT_ONLY_PRECISION" "$source" \
        "${ENCODER_FLAGS[@]}" "${DECODER_FLAGS[@]}" "$TRTLLM_VERSION" \
        "${TENSORRT_VERSION_FOUND:-}" "${SM:-}" "${L4T:-}")
}

build() {
    local assets=$ENGINE_DIR.work/assets precision=fp16 convert_flags=() kv=contiguous built_with
    [[ $PAGED_KV == disable ]] || kv=paged
    if [[ $WEIGHT_ONLY_PRECISION != none ]]; then
        precision=$WEIGHT_ONLY_PRECISION
        convert_flags=(--use_weight_only --weight_only_precision "$WEIGHT_ONLY_PRECISION")
    fi
    built_with=(
        --built-with "tensorrt_llm=$TRTLLM_VERSION" --built-with "kv_cache=$kv"
        --built-with "encoder_input_lengths_unit=$LENGTH_UNIT"
        --built-with "remove_input_padding=$REMOVE_PADDING"
        --built-with "max_new_tokens=$MAX_NEW_TOKENS" --built-with "build_key=$BUILD_KEY"
        --built-with "flags encoder=${ENCODER_FLAGS[*]}"
        --built-with "flags decoder=${DECODER_FLAGS[*]}"
    )
    mapfile -t -O "${#built_with[@]}" built_with < <(built_with_machine)
    STEPS_TOTAL=5
    begin_build "$ENGINE_DIR.work"
    get_checkpoint "$MODEL_NAME" "$assets"
    step convert "convert the checkpoint to TensorRT-LLM's format" "$WORK/converted" \
        "$CHECKPOINT_FILE" -- \
        "$PYTHON" "$CONVERT_CHECKPOINT" --model_dir "$assets" --model_name "$MODEL_NAME" \
        --dtype float16 --logits_dtype float16 --output_dir @OUT@ "${convert_flags[@]}"
    build_part encoder "${ENCODER_FLAGS[@]}"
    build_part decoder "${DECODER_FLAGS[@]}"
    step seal "write the engine folder with its manifest" "$WORK/engine" \
        "$WORK/encoder" "$WORK/decoder" -- \
        "$PYTHON" "$SCRIPTS/seal_engine.py" trtllm --encoder "$WORK/encoder" \
        --decoder "$WORK/decoder" --output @OUT@ --name "$MODEL_NAME" --precision "$precision" \
        --checkpoint "$CHECKPOINT_FILE" --assets "$ROOT/duplex_asr/asr/assets" \
        "${built_with[@]}"
    finish_build "$WORK/engine" "$ENGINE_DIR"
}

build_part() { # encoder|decoder FLAG...
    local part=$1 cache=()
    shift
    # The flags of the timing cache are documented from 0.12 on.
    ((VERSION < 12)) || cache=(--input_timing_cache "$WORK/timing.cache"
        --output_timing_cache "$WORK/timing.cache")
    step "$part" "build the $part engine (minutes)" "$WORK/$part" "$WORK/converted" -- \
        trtllm-build --checkpoint_dir "$WORK/converted/$part" --output_dir @OUT@ \
        "$@" "${cache[@]}" --log_level info
}

main "$@"
