#!/usr/bin/env bash
# Builds the CPU engine of Whisper: downloads the checkpoint, writes graphs for onnxruntime.
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

MODEL_NAME=${MODEL_NAME:-base.en}
PRECISION=${PRECISION:-int8}
ENGINE_DIR=${ENGINE_DIR:-}
CHECKPOINT=${CHECKPOINT:-}
TOKENIZER=${TOKENIZER:-}
THRESHOLDS=${THRESHOLDS:-}

usage() {
    cat <<END
Usage: $PROGRAM [--dry-run] [--from FILE] [--overwrite] [--keep-work] [NAME]

Builds the engine that runs Whisper NAME ($MODEL_NAME if none is given) on any processor: downloads
the checkpoint, writes graphs for onnxruntime, tries them, and writes an engine folder for
\`duplex-asr serve --engine DIR\`. A build that was interrupted goes on where it stopped when the same
command runs again.

  NAME         one of: $(checkpoint_names);
               with CHECKPOINT any name
  --dry-run    print the commands on stdout, and what this machine lacks on stderr; build nothing
  --from FILE  take the checkpoint from FILE instead of the network; its sha256 is checked
  --overwrite  replace an engine folder that was built otherwise
  --keep-work  keep the intermediate files beside the engine folder

Environment, with the value of this run:
  MODEL_NAME=$MODEL_NAME              the same as NAME
  PRECISION=$PRECISION                  int8 (fast), int4 (less memory), fp32 (openai-whisper's numbers)
  ENGINE_DIR=${ENGINE_DIR:-(engines/MODEL_NAME/build/onnx-PRECISION)}
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
  CXX=${CXX:-(g++ or clang++)}
                                  compiles operators for this processor where they help (int8, int4)
  PYTHON=$PYTHON                  the Python that has the packages onnx and onnxruntime
  NEEDED_TOTAL_MB, NEEDED_DISK_MB what the checks ask for, instead of the estimate
  SIGN_OF_LIFE_S=30               seconds between two lines while a step runs

$EXIT_CODES_HELP
END
}

main() {
    parse_options "$@"
    check_overrides
    name_build
    stop_if_built "$ENGINE_DIR" "$BUILD_KEY"
    check_machine
    build
}

OVERWRITE=no KEEP_WORK=no FROM_FILE=''
parse_options() {
    local given=''
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
                [[ -z $given ]] || fail "$EXIT_USAGE" "$1 is one NAME too many."
                given=$1
                ;;
        esac
        shift
    done
    MODEL_NAME=${given:-$MODEL_NAME}
}

check_overrides() {
    require_choice PRECISION "$PRECISION" int8 int4 fp32
    if [[ -z $CHECKPOINT ]]; then
        require_checkpoint_name "$MODEL_NAME"
    elif ! [[ $MODEL_NAME =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]]; then
        fail "$EXIT_USAGE" "MODEL_NAME=$MODEL_NAME has other signs than letters, digits, . _ and -."
    fi
    check_checkpoint_overrides
    [[ -z $TOKENIZER || -f $TOKENIZER ]] ||
        problem "$EXIT_CHECKPOINT" "there is no TOKENIZER $TOKENIZER: give an existing file."
    ENGINE_DIR=${ENGINE_DIR:-$ROOT/engines/$MODEL_NAME/build/onnx-$PRECISION}
    check_common_overrides
}

# What the engine is made of; a new version may write other graphs.
name_build() {
    local version ranks=
    version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$ROOT/duplex_asr/__init__.py")
    [[ ! -f $TOKENIZER ]] || ranks=$(digest_of "$TOKENIZER")
    BUILD_KEY=$(build_key_of onnx "$MODEL_NAME" "$PRECISION" "$(source_sha256 "$MODEL_NAME")" "$ranks" \
        "$THRESHOLDS" "$version")
}

check_machine() {
    local size package
    require_tool "$PYTHON" "install Python 3, or set PYTHON"
    for package in onnx onnxruntime numpy; do
        [[ -n $(package_version "$package") ]] || problem "$EXIT_MISSING_TOOL" "the Python package \
$package is not installed for $PYTHON: run \`pip install 'duplex-asr[build]'\`, or set PYTHON."
    done
    size=$(checkpoint_megabytes "$MODEL_NAME")
    # Measured (docs/benchmarks.md): nearly all of it is the engine being tried, and may be swapped.
    if [[ $PRECISION == fp32 ]]; then
        check_memory 0 "${NEEDED_TOTAL_MB:-$((500 + size * 11 / 5))}"
    else
        check_memory 0 "${NEEDED_TOTAL_MB:-$((500 + size * 7 / 10))}"
    fi
    check_disk "$ENGINE_DIR" "${NEEDED_DISK_MB:-$((100 + size * 11 / 10))}"
    [[ -n $CHECKPOINT$FROM_FILE ]] || check_download_disk "$CHECKPOINT_FILE" "$size"
}

build() {
    local word options=() inputs=("$CHECKPOINT_FILE")
    export STEPS_TOTAL=3
    begin_build "$ENGINE_DIR.work"
    get_checkpoint "$MODEL_NAME"
    if [[ -n $TOKENIZER ]]; then
        options+=(--tokenizer "$TOKENIZER")
        inputs+=("$TOKENIZER")
    fi
    for word in $THRESHOLDS; do
        options+=(--threshold "$word")
    done
    step graphs "write the graphs for onnxruntime and try them" "$WORK/graphs" "${inputs[@]}" -- \
        env "PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" -m duplex_asr build \
        "$CHECKPOINT_FILE" --backend onnx --precision "$PRECISION" --name "$MODEL_NAME" \
        "${options[@]}" --output @OUT@
    step seal "write the engine folder with its manifest" "$WORK/engine" "$WORK/graphs" -- \
        "$PYTHON" "$SCRIPTS/seal_engine.py" onnx --engine "$WORK/graphs" --output @OUT@ \
        --built-with "build_key=$BUILD_KEY"
    finish_build "$WORK/engine" "$ENGINE_DIR"
}

main "$@"
