#!/usr/bin/env bash
# Builds TensorRT plans of a Piper or Kokoro voice on the machine that will run them.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
# shellcheck source=build_scripts/preflight.sh
source "$SCRIPTS/preflight.sh"
# shellcheck source=build_scripts/steps.sh
source "$SCRIPTS/steps.sh"
# shellcheck source=build_scripts/plans.sh
source "$SCRIPTS/plans.sh"

VOICE=${VOICE:-}
VOICE_NAME=${VOICE_NAME:-}
VOICE_KIND=${VOICE_KIND:-auto}
VOICE_PATTERN=${VOICE_PATTERN:-split}
BUCKETS=${BUCKETS:-}
PRECISION=${PRECISION:-fp16}
ENGINE_DIR=${ENGINE_DIR:-}
export CUDA_MODULE_LOADING=${CUDA_MODULE_LOADING:-LAZY}

usage() {
    cat <<END
Usage: VOICE=FILE.onnx $PROGRAM [--dry-run] [--overwrite] [--keep-work]

Builds TensorRT plans of a Piper or Kokoro voice. A whole voice does not build, since the length of
its speech depends on the text; so it is cut, or built for fixed numbers of tokens.

  --dry-run    print the commands on stdout, and what this machine lacks on stderr; build nothing
  --overwrite  replace a voice folder that was built otherwise
  --keep-work  keep the intermediate files beside the voice folder

Environment, with the value of this run:
  VOICE=$VOICE                          the voice; Piper's settings are in FILE.onnx.json beside it
  VOICE_NAME=${VOICE_NAME:-(that of the file)}     name of the voice
  VOICE_KIND=$VOICE_KIND                 piper, kokoro or auto (by the names of the inputs)
  VOICE_PATTERN=$VOICE_PATTERN             split: encoder.onnx stays on the processor, the vocoder gets a plan
                                  for each number of frames; buckets: a Kokoro export without loops
                                  gets a plan for each number of tokens
  BUCKETS="${BUCKETS:-(split: 128 256 512, buckets: 32 64 128)}"
                                  1 to 8 sizes from 8 to 8192; each plan has the weights again
  PRECISION=$PRECISION                  fp16 (norms, softmax, phases and STFT in fp32) or fp32
  ENGINE_DIR=${ENGINE_DIR:-(engines/voices/build/VOICE_NAME-PRECISION)}
                                  where the voice goes
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

OVERWRITE=no KEEP_WORK=no
parse_options() {
    while (($#)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --dry-run) DRY_RUN=yes ;;
            --overwrite) OVERWRITE=yes ;;
            --keep-work) KEEP_WORK=yes ;;
            *) fail "$EXIT_USAGE" "$1 is no option of this script: see --help." ;;
        esac
        shift
    done
}

SIZES=()
check_overrides() {
    local size words
    if [[ -z $VOICE ]]; then
        [[ $DRY_RUN == yes ]] || fail "$EXIT_USAGE" "VOICE is not set: give the .onnx file of a voice."
        VOICE=$PWD/voice.onnx # so that a dry run shows what would happen
    fi
    require_plain_path VOICE "$VOICE"
    if [[ -z $VOICE_NAME ]]; then
        VOICE_NAME=${VOICE##*/}
        VOICE_NAME=${VOICE_NAME%.onnx}
    fi
    [[ $VOICE_NAME =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || fail "$EXIT_USAGE" \
        "VOICE_NAME=$VOICE_NAME has other signs than letters, digits, . _ and -."
    require_choice VOICE_KIND "$VOICE_KIND" piper kokoro auto
    require_choice VOICE_PATTERN "$VOICE_PATTERN" split buckets
    require_choice PRECISION "$PRECISION" fp16 fp32
    if [[ $VOICE_PATTERN == buckets && $VOICE_KIND == piper ]]; then
        fail "$EXIT_USAGE" "VOICE_PATTERN=buckets is for Kokoro: a Piper voice needs split."
    fi
    if [[ -z $BUCKETS ]]; then
        [[ $VOICE_PATTERN == split ]] && BUCKETS='128 256 512' || BUCKETS='32 64 128'
    fi
    read -ra words <<<"$BUCKETS"
    ((${#words[@]} >= 1 && ${#words[@]} <= 8)) ||
        fail "$EXIT_USAGE" "BUCKETS=$BUCKETS does not have 1 to 8 sizes."
    for size in "${words[@]}"; do
        require_number BUCKETS "$size" 8 8192
        SIZES+=("$BUCKETS") # decimal now
    done
    mapfile -t SIZES < <(printf '%s\n' "${SIZES[@]}" | sort -nu)
    check_plan_settings
    ENGINE_DIR=${ENGINE_DIR:-$ROOT/engines/voices/build/$VOICE_NAME-$PRECISION}
    check_common_overrides
    [[ -f $VOICE ]] ||
        problem "$EXIT_CHECKPOINT" "there is no voice $VOICE: give an existing .onnx file."
}

name_build() {
    local source=
    [[ ! -f $VOICE ]] || source=$(digest_of "$VOICE")
    BUILD_KEY=$(build_key_of voice "$VOICE_NAME" "$VOICE_KIND" "$VOICE_PATTERN" "${SIZES[*]}" \
        "$PRECISION" "$source" "$BUILDER_LEVEL" "$WORKSPACE_MB" "$KEEP_ONNX" \
        "${TENSORRT_VERSION_FOUND:-}" "${SM:-}" "${L4T:-}")
}

check_machine() {
    local size package
    check_tensorrt
    for package in onnx onnxruntime numpy; do
        require_package "$package" "run \`pip install 'duplex-asr[build]'\`"
    done
    size=$(($(stat --dereference --format %s "$VOICE" 2>/dev/null || echo 0) / 1000000 + 1))
    # Derived, never measured: the builder's kernels (about 1 GB), then copies of the weights.
    check_memory "${NEEDED_MEMORY_MB:-$((1200 + 2 * size))}" "${NEEDED_TOTAL_MB:-$((2000 + 4 * size))}"
    check_disk "$ENGINE_DIR" "${NEEDED_DISK_MB:-$((500 + (2 + ${#SIZES[@]}) * 2 * size))}"
}

build() {
    local parts=() size inputs=("$VOICE")
    for size in "${SIZES[@]}"; do
        if [[ $VOICE_PATTERN == split ]]; then
            parts+=("vocoder-$size")
        else
            parts+=("voice-$size")
        fi
    done
    [[ ! -f $VOICE.json ]] || inputs+=("$VOICE.json")
    STEPS_TOTAL=$((${#parts[@]} + 2))
    begin_build "$ENGINE_DIR.work"
    step prepare "cut the voice into graphs and try them on the processor" "$WORK/graphs" \
        "${inputs[@]}" -- \
        "$PYTHON" "$SCRIPTS/prepare_voice.py" "$VOICE" --kind "$VOICE_KIND" \
        --pattern "$VOICE_PATTERN" --precision "$PRECISION" --name "$VOICE_NAME" \
        --buckets "${SIZES[@]}" --output @OUT@
    build_plans "$WORK/graphs" "${parts[@]}"
    seal_plans "$WORK/graphs"
}

# Of a part, as long as there is no trtexec.json to ask.
onnx_of() {
    if [[ $VOICE_PATTERN == split ]]; then
        echo vocoder.onnx
    else
        echo "$1.onnx"
    fi
}

main "$@"
