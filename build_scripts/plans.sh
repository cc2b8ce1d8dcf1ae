# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts that source this use its variables
# Sourced after preflight.sh and steps.sh: TensorRT plans of graphs by trtexec.

# The part of trtexec's options that says how to build, for all plans alike.
BUILDER_LEVEL=${BUILDER_LEVEL:-3}
WORKSPACE_MB=${WORKSPACE_MB:-512}
KEEP_ONNX=${KEEP_ONNX:-no}

PLAN_SETTINGS_HELP="\
  BUILDER_LEVEL=$BUILDER_LEVEL                 0 to 5: low builds fast in little memory, high runs faster
  WORKSPACE_MB=$WORKSPACE_MB                64 to 65536 MB of scratch memory a layer may ask for
  KEEP_ONNX=$KEEP_ONNX                    yes: keep the graphs in the engine folder
  TRTEXEC=${TRTEXEC:-(found out)}             trtexec, which JetPack has in /usr/src/tensorrt/bin
  TENSORRT_VERSION=${TENSORRT_VERSION:-(found out)}    10.0 to 10.x
  PYTHON=$PYTHON                  the Python that has the packages onnx and onnxruntime
  SM=${SM:-(found out)}                  GPU architecture, 87 for an Orin
  NEEDED_MEMORY_MB, NEEDED_TOTAL_MB, NEEDED_DISK_MB
                                  what the checks ask for, instead of the estimate
  SIGN_OF_LIFE_S=30               seconds between two lines while a step runs"

check_plan_settings() {
    require_number BUILDER_LEVEL "$BUILDER_LEVEL" 0 5
    require_number WORKSPACE_MB "$WORKSPACE_MB" 64 65536
    require_choice KEEP_ONNX "$KEEP_ONNX" yes no
    [[ -z ${TENSORRT_VERSION:-} ]] || require_version TENSORRT_VERSION "$TENSORRT_VERSION"
}

# trtexec and its version; PRECISION decides whether TensorRT 11 could do it.
check_tensorrt() {
    local number
    require_tool "$PYTHON" "install Python 3, or set PYTHON"
    if find_trtexec >/dev/null; then
        TRTEXEC=$(find_trtexec)
        number=$(version_number "${TENSORRT_VERSION_FOUND:-0.0}")
        if ((number < 10000)); then
            problem "$EXIT_WRONG_VERSION" "$TRTEXEC is of TensorRT \
${TENSORRT_VERSION_FOUND:-of unknown version} and the graphs need 10: use JetPack 6 or newer."
        elif ((number >= 11000)) && [[ $PRECISION == fp16 ]]; then
            problem "$EXIT_WRONG_VERSION" "TensorRT $TENSORRT_VERSION_FOUND has no --fp16 any more, \
which ended with 10: set PRECISION=fp32, or use TensorRT 10."
        fi
    else
        TRTEXEC=${TRTEXEC:-/usr/src/tensorrt/bin/trtexec}
        problem "$EXIT_MISSING_TOOL" "there is no $TRTEXEC: on a Jetson get it with \
\`sudo apt install nvidia-jetpack\`, or set TRTEXEC."
    fi
    check_architecture
}

require_package() { # PYTHON_PACKAGE HOW_TO_GET
    [[ -n $(package_version "$1") ]] ||
        problem "$EXIT_MISSING_TOOL" "the Python package $1 is not installed for $PYTHON: $2."
}

# build_plans GRAPHS PART...: a plan for each part of GRAPHS/trtexec.json, in $WORK/plans.
# On a dry run the graphs may not exist yet; then the printed commands read that file themselves.
build_plans() {
    local graphs=$1 part arguments onnx plan
    shift
    if [[ $DRY_RUN == yes ]]; then
        printf '\n'
        show mkdir -p "$WORK/plans"
    else
        mkdir -p "$WORK/plans"
    fi
    for part in "$@"; do
        onnx=$part.onnx plan=$part.plan
        STEP_PRELUDE=
        if [[ -f $graphs/trtexec.json ]] && command -v "$PYTHON" >/dev/null; then
            mapfile -t arguments < <("$PYTHON" "$SCRIPTS/seal_engine.py" arguments "$graphs" "$part")
            onnx=${arguments[0]} plan=${arguments[1]}
            arguments=("${arguments[@]:2}")
        else
            onnx=$(onnx_of "$part")
            STEP_PRELUDE="mapfile -t arguments < <(\
$(show "$PYTHON" "$SCRIPTS/seal_engine.py" arguments "$graphs" "$part"))"
            arguments=(@ARGUMENTS@)
        fi
        # The onnx is an input with its weights beside it, hence the whole folder.
        step "$part" "build the plan of $part (minutes)" "$WORK/plans/$plan" "$graphs" -- \
            "$TRTEXEC" "--onnx=$graphs/$onnx" --saveEngine=@OUT@ "${arguments[@]}" --noTF32 \
            "--builderOptimizationLevel=$BUILDER_LEVEL" "--memPoolSize=workspace:$WORKSPACE_MB" \
            "--timingCacheFile=$WORK/timing.cache" --skipInference
    done
    STEP_PRELUDE=
}

seal_plans() { # GRAPHS
    local options=(--built-with "build_key=$BUILD_KEY"
        --built-with "builder=level $BUILDER_LEVEL, workspace $WORKSPACE_MB MB")
    mapfile -t -O "${#options[@]}" options < <(built_with_machine)
    [[ $KEEP_ONNX == no ]] || options+=(--keep-graphs)
    step seal "write the engine folder with its manifest" "$WORK/engine" "$1" "$WORK/plans" -- \
        "$PYTHON" "$SCRIPTS/seal_engine.py" plans --graphs "$1" --plans "$WORK/plans" \
        --output @OUT@ "${options[@]}"
    finish_build "$WORK/engine" "$ENGINE_DIR"
}
