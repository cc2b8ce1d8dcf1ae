#!/usr/bin/env bash
# Builds TensorRT plans of Whisper, without TensorRT-LLM, on the machine that will run them.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
CHECKPOINT_MAY_BE_FOLDER=yes
# shellcheck source=build_scripts/preflight.sh
source "$SCRIPTS/preflight.sh"
# shellcheck source=build_scripts/steps.sh
source "$SCRIPTS/steps.sh"
# shellcheck source=build_scripts/checkpoint.sh
source "$SCRIPTS/checkpoint.sh"
# shellcheck source=build_scripts/plans.sh
source "$SCRIPTS/plans.sh"

MODEL_NAME=${MODEL_NAME:-base.en}
PRECISION=${PRECISION:-}
ENGINE_DIR=${ENGINE_DIR:-}
CHECKPOINT=${CHECKPOINT:-}
TOKENIZER=${TOKENIZER:-}
THRESHOLDS=${THRESHOLDS:-}
export CUDA_MODULE_LOADING=${CUDA_MODULE_LOADING:-LAZY}

usage() {
    cat <<END
Usage: $PROGRAM [--dry-run] [--from FILE] [--overwrite] [--keep-work] [GRAPHS_DIR]

Builds TensorRT plans of Whisper $MODEL_NAME: downloads the checkpoint, writes graphs for TensorRT,
builds a plan of each with trtexec, and writes an engine folder for \`duplex-asr serve --engine DIR\`.
A build that was interrupted goes on where it stopped when the same command runs again.

  GRAPHS_DIR   graphs that \`duplex-asr build CHECKPOINT.pt --backend tensorrt --output GRAPHS_DIR\`
               wrote elsewhere; then no checkpoint and no Python packages are needed here
  --dry-run    print the commands on stdout, and what this machine lacks on stderr; build nothing
  --from FILE  take the checkpoint from FILE instead of the network; its sha256 is checked
  --overwrite  replace an engine folder that was built otherwise
  --keep-work  keep the intermediate files beside the engine folder

Environment, with the value of this run:
  MODEL_NAME=$MODEL_NAME              one of: $(checkpoint_names);
                                  with CHECKPOINT any name
  PRECISION=${PRECISION:-fp16}                  fp16 (norms and softmax in fp32) or fp32
  ENGINE_DIR=${ENGINE_DIR:-(GRAPHS_DIR-plans, or engines/MODEL_NAME/build/tensorrt-PRECISION)}
                                  where the engine goes
  CHECKPOINT=$CHECKPOINT                     a checkpoint of your own: an OpenAI-format .pt, or a Hugging
                                  Face folder with config.json and safetensors
  TOKENIZER=$TOKENIZER                      ranks in tiktoken format, for models that do not use OpenAI's
  THRESHOLDS=$THRESHOLDS                     NAME=VALUE words, the [transcription] thresholds of this model
  DOWNLOAD_DIR=$DOWNLOAD_DIR
                                  where checkpoints are kept
  CHECKPOINT_URL=$CHECKPOINT_URL
                                  a mirror of OpenAI's checkpoints
  STALL_S=$STALL_S                      seconds after which a server that sends nothing is given up
$PLAN_SETTINGS_HELP

$EXIT_CODES_HELP
END
}

main() {
    parse_options "$@"
    check_overrides
    look_at_machine
    name_build
    stop_if_built "$ENGINE_DIR" "$BUILD_KEY"
    check_machine
    build
}

OVERWRITE=no KEEP_WORK=no FROM_FILE='' GRAPHS=''
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
            -*) fail "$EXIT_USAGE" "$1 is no option of this script: see --help." ;;
            *)
                [[ -z $GRAPHS ]] || fail "$EXIT_USAGE" "$1 is one GRAPHS_DIR too many."
                GRAPHS=$1
                ;;
        esac
        shift
    done
}

check_overrides() {
    [[ -n $GRAPHS ]] || PRECISION=${PRECISION:-fp16}
    [[ -z $PRECISION ]] || require_choice PRECISION "$PRECISION" fp16 fp32
    check_plan_settings
    if [[ -n $GRAPHS ]]; then
        [[ -z $CHECKPOINT$FROM_FILE ]] ||
            fail "$EXIT_USAGE" "GRAPHS_DIR and a checkpoint are both named: give one of them."
        require_plain_path GRAPHS "$GRAPHS"
        check_graphs
        ENGINE_DIR=${ENGINE_DIR:-$GRAPHS-plans}
    else
        if [[ -z $CHECKPOINT ]]; then
            require_checkpoint_name "$MODEL_NAME"
        elif ! [[ $MODEL_NAME =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]]; then
            fail "$EXIT_USAGE" "MODEL_NAME=$MODEL_NAME has other signs than letters, digits, . _ and -."
        fi
        check_checkpoint_overrides
        [[ -z $TOKENIZER || -f $TOKENIZER ]] ||
            problem "$EXIT_CHECKPOINT" "there is no TOKENIZER $TOKENIZER: give an existing file."
        ENGINE_DIR=${ENGINE_DIR:-$ROOT/engines/$MODEL_NAME/build/tensorrt-$PRECISION}
    fi
    check_common_overrides
}

check_graphs() {
    local precision
    [[ -f $GRAPHS/trtexec.json && -f $GRAPHS/manifest.json ]] ||
        fail "$EXIT_CHECKPOINT" "$GRAPHS has no trtexec.json or no manifest.json: make it with \
\`duplex-asr build CHECKPOINT.pt --backend tensorrt --output $GRAPHS\`."
    precision=$(sed -n 's/^ *"precision": "\([a-z0-9]*\)".*/\1/p' "$GRAPHS/manifest.json")
    [[ ${PRECISION:-$precision} == "$precision" ]] || fail "$EXIT_USAGE" "PRECISION=$PRECISION is \
asked for and the graphs in $GRAPHS are for $precision: leave PRECISION unset."
    PRECISION=$precision
}

# Graphs have the sha256 of everything they consist of in their manifest.
name_build() {
    local source
    if [[ -n $GRAPHS ]]; then
        source=$(digest_of "$GRAPHS/manifest.json")
    else
        source=$(source_sha256 "$MODEL_NAME")
    fi
    BUILD_KEY=$(build_key_of tensorrt "$MODEL_NAME" "$PRECISION" "$source" "$TOKENIZER" "$THRESHOLDS" \
        "$BUILDER_LEVEL" "$WORKSPACE_MB" "$KEEP_ONNX" "${TENSORRT_VERSION_FOUND:-}" "${SM:-}" "${L4T:-}")
}

check_machine() {
    local size
    check_tensorrt
    if [[ -z $GRAPHS ]]; then
        size=$(checkpoint_megabytes "$MODEL_NAME")
        require_package onnx "run \`pip install 'duplex-asr[build]'\`, or make the graphs on a PC and \
give their folder"
    else
        size=$(du -sm "$GRAPHS" | cut -f 1)
    fi
    # Derived, never measured: the builder's kernels (about 1 GB), then copies of the weights.
    check_memory "${NEEDED_MEMORY_MB:-$((1200 + 2 * size))}" "${NEEDED_TOTAL_MB:-$((2000 + 4 * size))}"
    check_disk "$ENGINE_DIR" "${NEEDED_DISK_MB:-$((500 + 4 * size))}"
}

build() {
    local parts=(encoder decoder) word options=()
    if [[ -n $GRAPHS ]] && command -v "$PYTHON" >/dev/null; then
        mapfile -t parts < <("$PYTHON" "$SCRIPTS/seal_engine.py" arguments "$GRAPHS")
    fi
    STEPS_TOTAL=$((${#parts[@]} + (${#GRAPHS} > 0 ? 1 : 3)))
    begin_build "$ENGINE_DIR.work"
    if [[ -z $GRAPHS ]]; then
        GRAPHS=$WORK/graphs
        get_checkpoint "$MODEL_NAME"
        [[ -z $TOKENIZER ]] || options+=(--tokenizer "$TOKENIZER")
        for word in $THRESHOLDS; do
            options+=(--threshold "$word")
        done
        step graphs "write the graphs for TensorRT" "$GRAPHS" "$CHECKPOINT_FILE" -- \
            env "PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" -m duplex_asr build \
            "$CHECKPOINT_FILE" --backend tensorrt --precision "$PRECISION" --name "$MODEL_NAME" \
            "${options[@]}" --output @OUT@
    fi
    build_plans "$GRAPHS" "${parts[@]}"
    seal_plans "$GRAPHS"
}

onnx_of() { echo "$1.onnx"; } # of a part, as long as there is no trtexec.json to ask

main "$@"
