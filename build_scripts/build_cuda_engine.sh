#!/usr/bin/env bash
# Builds the native CUDA engine, one shared library, with nothing but the CUDA toolkit.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$SCRIPTS")
SOURCES=$ROOT/engines/cuda
# shellcheck source=build_scripts/preflight.sh
source "$SCRIPTS/preflight.sh"

NVCC=${NVCC:-}
CXX=${CXX:-g++}
JOBS=${JOBS:-$(nproc)}

usage() {
    cat <<END
Usage: $PROGRAM [--dry-run] [--tests] --arch sm_NN [--arch sm_NN ...] --output DIR
       $PROGRAM [--dry-run] --reference --output DIR

Builds the native Whisper engine (engines/cuda) for the GPUs named by --arch. It needs the CUDA
toolkit, 12.6 or newer, and no GPU; it prints what each kernel takes of one.

  --arch sm_NN  sm_87 for Jetson Orin, sm_90 for H100; at least sm_80; may be repeated
  --reference   build the plain C++ engine for this machine's CPU instead, with $CXX alone
  --output DIR  the library goes here: libduplex_whisper.so, or libduplex_whisper_reference.so
  --tests       build the test programs too; they run on a GPU of the given architecture
  --dry-run     print the commands, build nothing

Environment, with the value of this run:
  NVCC=$NVCC  the compiler; PATH and /usr/local/cuda/bin are searched if this is empty
  CXX=$CXX    the C++ compiler
  JOBS=$JOBS  files compiled at once

Exit codes:
  0   done                                11  the CUDA toolkit is too old
  2   wrong option                        30  a file does not compile
  10  nvcc or the C++ compiler is missing 33  a kernel does not fit an Orin's multiprocessor
END
}

main() {
    parse_options "$@"
    if [[ $KIND == reference ]]; then
        command -v "$CXX" >/dev/null ||
            problem "$EXIT_MISSING_TOOL" "there is no C++ compiler $CXX: install g++ or set CXX."
        prepare_output
        build_reference
    else
        find_nvcc
        prepare_output
        build_cuda
    fi
}

KIND=cuda OUTPUT='' ARCHITECTURES=() WITH_TESTS=no
parse_options() {
    while (($#)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --dry-run) DRY_RUN=yes ;;
            --reference) KIND=reference ;;
            --tests) WITH_TESTS=yes ;;
            --arch | --output)
                (($# > 1)) || fail "$EXIT_USAGE" "$1 needs a value: see --help."
                if [[ $1 == --arch ]]; then ARCHITECTURES+=("$2"); else OUTPUT=$2; fi
                shift
                ;;
            *) fail "$EXIT_USAGE" "$1 is no option of this script: see --help." ;;
        esac
        shift
    done
    local arch
    for arch in "${ARCHITECTURES[@]}"; do
        if ! [[ $arch =~ ^sm_[0-9]{2,3}$ ]] || ((${arch#sm_} < 80)); then
            fail "$EXIT_USAGE" "--arch $arch is not sm_80 or newer: write it like sm_87."
        fi
    done
    if [[ $KIND == cuda && ${#ARCHITECTURES[@]} == 0 ]]; then
        fail "$EXIT_USAGE" "no --arch is given: sm_87 is Jetson Orin, sm_90 is H100."
    elif [[ $KIND == reference && ${#ARCHITECTURES[@]} != 0 ]]; then
        fail "$EXIT_USAGE" "--reference is for the CPU and takes no --arch."
    fi
    require_plain_path OUTPUT "$OUTPUT"
    require_number JOBS "$JOBS" 1 256
}

find_nvcc() {
    local candidate version
    for candidate in ${NVCC:+"$NVCC"} nvcc /usr/local/cuda/bin/nvcc; do
        if [[ $candidate == "${NVCC:-$candidate}" ]] && command -v "$candidate" >/dev/null; then
            NVCC=$candidate
            version=$("$NVCC" --version | sed -n 's/.*release \([0-9]*\.[0-9]*\).*/\1/p')
            CUDA_VERSION=$version
            (($(version_number "${version:-0.0}") >= 12006)) ||
                problem "$EXIT_WRONG_VERSION" "$NVCC is of CUDA $version: 12.6 or newer is needed."
            return
        fi
    done
    NVCC=${NVCC:-nvcc} CUDA_VERSION=unknown
    problem "$EXIT_MISSING_TOOL" "there is no nvcc: install the CUDA toolkit (cuda-nvcc and \
cuda-cudart-dev are enough), or set NVCC to where it is."
}

WORK=
prepare_output() {
    [[ $DRY_RUN == no ]] || return 0
    mkdir -p "$OUTPUT" 2>/dev/null || fail "$EXIT_USAGE" "$OUTPUT cannot be made: choose another."
    WORK=$(mktemp -d "$OUTPUT/.build.XXXXXX") ||
        fail "$EXIT_USAGE" "$OUTPUT cannot be written: choose another."
    trap 'rm -rf "$WORK"' EXIT
}

run() { # COMMAND...
    if [[ $DRY_RUN == yes ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@" || fail "$EXIT_STEP" "${1##*/} ended with status $?: the lines above say why."
    fi
}

publish() { # FILE...: they take their names only when all is well
    local file
    for file in "$@"; do
        run mv "${WORK:-.}/$file" "$OUTPUT/$file"
        say "$OUTPUT/$file is ready."
    done
}

# The sources' own warnings are errors here; a newer compiler's may not stop a user.
CXX_FLAGS=(-std=c++17 -O3 -Wall -Wextra -fPIC -fvisibility=hidden)
LINK_FLAGS=(-shared -static-libstdc++ -static-libgcc "-Wl,--exclude-libs=ALL")

build_reference() {
    local library=libduplex_whisper_reference.so
    run "$CXX" "${CXX_FLAGS[@]}" -march=native -fopenmp-simd "${LINK_FLAGS[@]}" \
        "$SOURCES"/host/*.cpp "$SOURCES"/reference/*.cpp -o "${WORK:-.}/$library"
    publish "$library"
}

build_cuda() {
    local arch target flags=() sources=() library=libduplex_whisper.so started=$SECONDS
    local outputs=("$library")
    for arch in "${ARCHITECTURES[@]}"; do
        # The products of warpgroups are instructions of the H100's generation alone: nvcc has them
        # under a name of its own, sm_90a, whose code every sm_90 runs.
        target=${arch/%sm_90/sm_90a}
        flags+=(-gencode "arch=compute_${target#sm_},code=$target")
    done
    flags+=(-std=c++17 -O3 -ftz=true -lineinfo
        --expt-relaxed-constexpr -Xptxas -v -ccbin "$CXX" -cudart static
        "-DDW_ARCHITECTURES=\"${ARCHITECTURES[*]}\"" "-DDW_CUDA_VERSION=\"$CUDA_VERSION\""
        -Xcompiler "-fPIC,-fvisibility=hidden,-Wall,-Wextra")
    sources=("$SOURCES"/kernels/*.cu "$SOURCES"/host/*.cpp)
    [[ $WITH_TESTS == no ]] || sources+=("$SOURCES"/reference/plain.cpp "$SOURCES"/tests/*.c*)
    compile_all "${sources[@]}" -- "$NVCC" "${flags[@]}"
    run "$NVCC" "${flags[@]}" -shared -Xcompiler -static-libstdc++,-static-libgcc \
        -Xlinker --exclude-libs=ALL "${WORK:-.}"/kernels-*.o "${WORK:-.}"/host-*.o \
        -o "${WORK:-.}/$library"
    if [[ $WITH_TESTS == yes ]]; then
        run "$NVCC" "${flags[@]}" "${WORK:-.}"/kernels-*.o "${WORK:-.}"/host-*.o \
            "${WORK:-.}"/reference-*.o "${WORK:-.}/tests-test_kernels.o" -o "${WORK:-.}/test_kernels"
        run "$CXX" "${WORK:-.}/tests-test_engine.o" "${WORK:-.}/host-tensors.o" -ldl \
            -o "${WORK:-.}/test_engine"
        outputs+=(test_kernels test_engine)
    fi
    if [[ $DRY_RUN == no ]]; then
        say "compiled for ${ARCHITECTURES[*]} in $((SECONDS - started)) s with CUDA $CUDA_VERSION"
        list_kernels
    fi
    publish "${outputs[@]}"
}

# compile_all SOURCE... -- COMMAND...: as many at once as JOBS says, the log of each in a file.
compile_all() {
    local sources=() source object running=0
    while [[ $1 != -- ]]; do
        sources+=("$1")
        shift
    done
    shift
    for source in "${sources[@]}"; do
        object=$(basename "$(dirname "$source")")-$(basename "${source%.*}").o
        if [[ $DRY_RUN == yes ]]; then
            run "$@" -c "$source" -o "./$object"
            continue
        fi
        if ((running >= JOBS)); then
            wait -n || compile_failed
            running=$((running - 1))
        fi
        { "$@" -c "$source" -o "$WORK/$object" >"$WORK/$object.log" 2>&1 ||
            { touch "$WORK/$object.failed" && false; }; } &
        running=$((running + 1))
    done
    while ((running > 0)); do
        wait -n || compile_failed
        running=$((running - 1))
    done
}

compile_failed() {
    local mark
    wait
    for mark in "$WORK"/*.failed; do
        grep -v '^ptxas info\|bytes stack frame' "${mark%.failed}.log" | head -n 40 >&2
    done
    fail "$EXIT_STEP" "nvcc ended with an error: the lines above say why."
}

# Registers, shared memory and spills of each kernel. An Orin's multiprocessor has 65536 registers
# and 163 KB of shared memory for one block; what a kernel asks for at its start is not in ptxas'
# list, static_asserts in the sources hold it below the same limit. Another nvcc than the one of the tests
# may spill a register or two, which costs nothing; many would.
MOST_SPILLS=128 # bytes a thread, written and read
list_kernels() {
    local status=0
    cat "$WORK"/kernels-*.log | if command -v c++filt >/dev/null; then c++filt; else cat; fi |
        awk -v most_spills="$MOST_SPILLS" '
        /Compiling entry function/ {
            name = $0; sub(/.*entry function .(void )?/, "", name); arch = name
            sub(/.*. for ./, "", arch); sub(/.$/, "", arch); sub(/. for .*/, "", name)
            gsub(/dw::|\(anonymous namespace\)::|\([a-z ]+\)/, "", name); sub(/\(.*/, "", name)
        }
        /bytes stack frame/ { stack = $1; spills = $5 + $9 }
        /Used [0-9]+ registers/ {
            registers = $0; sub(/.*Used /, "", registers); sub(/ .*/, "", registers)
            shared = 0
            if ($0 ~ /bytes smem/) { shared = $0; sub(/ bytes smem.*/, "", shared); sub(/.* /, "", shared) }
            if (!seen++)
                printf "%-6s %9s %13s %7s %7s  %s\n", "arch", "registers", "static shared",
                    "stack", "spills", "kernel"
            printf "%-6s %9d %13d %7d %7d  %s\n", arch, registers, shared, stack, spills, name
            if (spills > most_spills || shared > 49152) bad++
        }
        END { exit bad > 0 }' || status=$?
    ((status == 0)) || fail "$EXIT_NO_OUTPUT" "a kernel spills more than $MOST_SPILLS bytes or \
takes more shared memory than a block of an Orin has: the table above says which."
}

main "$@"
