# shellcheck shell=bash
# shellcheck disable=SC2034  # the scripts that source this use its variables
# Sourced by the build scripts: what this machine is and has, and whether it can do the build.
#
# Sets DRY_RUN-aware checks: on a dry run a finding is printed to stderr and the script goes on,
# otherwise it ends the script with the exit code of that finding.

# Exit codes of every build script; README.md lists them for readers.
EXIT_USAGE=2 EXIT_MISSING_TOOL=10 EXIT_WRONG_VERSION=11 EXIT_MEMORY=12 EXIT_SWAP=13 EXIT_DISK=14
EXIT_DOWNLOAD=20 EXIT_CHECKSUM=21 EXIT_CHECKPOINT=22
EXIT_STEP=30 EXIT_KILLED=31 EXIT_DISK_FULL=32 EXIT_NO_OUTPUT=33 EXIT_BUSY=34 EXIT_UNSUPPORTED_GRAPH=35

EXIT_CODES_HELP="Exit codes:
  0   done, or finished already           20  the checkpoint could not be downloaded
  1   unexpected                          21  a file's sha256 is not the expected one
  2   wrong option or override            22  a checkpoint or voice file is missing
  10  a tool or library is missing        30  a step failed, see its log
  11  a version does not fit              31  a step was killed, most likely out of memory
  12  not enough free memory              32  the disk became full during a step
  13  not enough swap                     33  a step ended well but wrote no output
  14  not enough disk space               34  another build works on the same folder
  35  the graph has operators that        129, 130, 143  ended by SIGHUP, Ctrl-C, SIGTERM
      TensorRT cannot take"

# Root of /proc, /etc, /sys and /usr; tests point it at a recorded machine.
SYSTEM_ROOT=${SYSTEM_ROOT:-}
PROGRAM=${PROGRAM:-${0##*/}}
PYTHON=${PYTHON:-python3}
DRY_RUN=${DRY_RUN:-no}
HOME=${HOME:-~} # a service or a container may have none

say() { printf '%s\n' "$*" >&2; }
warn() { say "$PROGRAM: warning: $*"; }

# fail CODE SENTENCE
fail() {
    say "$PROGRAM: $2"
    exit "$1"
}

# problem CODE SENTENCE: ends the script, except on a dry run, which must work without a board.
problem() {
    if [[ $DRY_RUN == yes ]]; then
        say "  on this machine the build would end with exit code $1: $2"
    else
        fail "$1" "$2"
    fi
}

require_choice() { # NAME VALUE CHOICE...
    local name=$1 value=$2 choice
    shift 2
    for choice in "$@"; do
        [[ $value == "$choice" ]] && return
    done
    fail "$EXIT_USAGE" "$name=$value is not one of: $*."
}

# require_number NAME VALUE LOWEST HIGHEST: NAME is decimal afterwards, even if written as 0750.
require_number() {
    if ! [[ $2 =~ ^[0-9]{1,6}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
        fail "$EXIT_USAGE" "$1=$2 is not a whole number from $3 to $4."
    fi
    printf -v "$1" '%d' "$((10#$2))"
}

# require_plain_path NAME VALUE: NAME is absolute and without a slash at its end afterwards.
require_plain_path() {
    local path=$2
    while [[ $path == */ ]]; do
        path=${path%/}
    done
    if [[ -z $path || $path == *$'\n'* || $path == -* ]]; then
        fail "$EXIT_USAGE" "$1 is empty, is /, starts with '-' or has a line break: give a plain path."
    fi
    [[ $path == /* ]] || path=$PWD/$path
    printf -v "$1" '%s' "$path"
}

# Overrides that every script has.
check_common_overrides() {
    local name
    for name in NEEDED_MEMORY_MB NEEDED_TOTAL_MB NEEDED_DISK_MB; do
        [[ -z ${!name:-} ]] || require_number "$name" "${!name}" 0 999999
    done
    require_number SIGN_OF_LIFE_S "${SIGN_OF_LIFE_S:-30}" 1 3600
    [[ -z ${SM:-} ]] || require_number SM "$SM" 50 150
    require_plain_path ENGINE_DIR "$ENGINE_DIR"
}

# ---- versions ----------------------------------------------------------------------------------

# "1.12.3" -> 1012, so that versions can be compared as numbers.
version_number() {
    [[ $1 =~ ^([0-9]+)\.([0-9]+) ]] && echo $((10#${BASH_REMATCH[1]} * 1000 + 10#${BASH_REMATCH[2]}))
}

# require_version NAME VALUE: two numbers at least, as version_number reads them.
require_version() {
    [[ $2 =~ ^[0-9]{1,3}\.[0-9]{1,3}([.+-].*)?$ ]] ||
        fail "$EXIT_USAGE" "$1=$2 is no version: write it like 0.12.0."
}

# Version of an installed Python package without importing it, or nothing.
package_version() {
    "$PYTHON" -c 'import importlib.metadata, sys
try:
    print(importlib.metadata.version(sys.argv[1]))
except importlib.metadata.PackageNotFoundError:
    pass' "$1" 2>/dev/null || true
}

python_version() {
    "$PYTHON" -c 'import platform; print(platform.python_version())' 2>/dev/null || true
}

cuda_version() {
    sed -n '/"cuda"/,/}/s/.*"version" *: *"\([0-9.]*\)".*/\1/p' \
        "$SYSTEM_ROOT/usr/local/cuda/version.json" 2>/dev/null | head -n 1 || true
}

# trtexec prints its version as v100300 for 10.3.0 and v8502 for 8.5.2.
tensorrt_version() {
    local banner number
    banner=$(find_trtexec) || return 0
    banner=$("$banner" --help 2>&1 | head -n 1 || true)
    number=$(sed -n 's/.*\[TensorRT v\([0-9]*\)\].*/\1/p' <<<"$banner")
    case ${#number} in
        4) echo "${number:0:1}.${number:1:1}.$((10#${number:2}))" ;;
        6) echo "${number:0:2}.$((10#${number:2:2})).$((10#${number:4:2}))" ;;
        *) package_version tensorrt ;;
    esac
}

# JetPack installs trtexec outside of PATH.
find_trtexec() {
    local candidate
    for candidate in ${TRTEXEC:+"$TRTEXEC"} trtexec "$SYSTEM_ROOT/usr/src/tensorrt/bin/trtexec"; do
        if [[ $candidate == "${TRTEXEC:-$candidate}" ]] && command -v "$candidate" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# ---- the board ---------------------------------------------------------------------------------

# "# R36 (release), REVISION: 4.3, ..." -> 36.4.3; nothing on other machines.
l4t_release() {
    sed -n '1s/^# R\([0-9]*\) (release), REVISION: \([0-9.]*\).*/\1.\2/p' \
        "$SYSTEM_ROOT/etc/nv_tegra_release" 2>/dev/null || true
}

jetpack_of() { # L4T
    case $1 in
        '') echo none ;;
        36.4.0 | 36.4) echo 6.1 ;;
        36.4.3) echo 6.2 ;;
        36.4.4) echo 6.2.1 ;;
        36.4.*) echo '6.2.1 or later' ;;
        36.*) echo '6 (later than 6.2.1)' ;;
        38.*) echo 7 ;;
        39.2*) echo 7.2 ;;
        35.*) echo 5 ;;
        *) echo unknown ;;
    esac
}

# Compute capability as 87 for 8.7: from the SoC's name, which needs no driver, else from nvidia-smi.
gpu_architecture() {
    local compatible
    compatible=$({ tr '\0' '\n' <"$SYSTEM_ROOT/proc/device-tree/compatible"; } 2>/dev/null || true)
    case $compatible in
        *tegra234*) echo 87 ;;
        *tegra194*) echo 72 ;;
        *) nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null |
            head -n 1 | tr -d '.' || true ;;
    esac
}

board_model() {
    { tr -d '\0' <"$SYSTEM_ROOT/proc/device-tree/model"; } 2>/dev/null || true
}

# A figure of /proc/meminfo in MB.
memory_mb() {
    awk -v key="$1:" '$1 == key { found = 1; print int($2 / 1024) }
        END { if (!found) print 0 }' "$SYSTEM_ROOT/proc/meminfo" 2>/dev/null || echo 0
}

disk_mb() { # FOLDER, which need not exist yet
    local folder=$1
    while [[ ! -d $folder && $folder == */* ]]; do
        folder=${folder%/*}
    done
    df -Pk "${folder:-/}" 2>/dev/null | awk 'NR == 2 { print int($4 / 1024) }' || true
}

# Who else holds GPU memory, one "name (pid N, M MB)" a line. On a Jetson only root may read it.
gpu_users() {
    local clients=$SYSTEM_ROOT/sys/kernel/debug/nvmap/iovmm/clients
    if [[ -r $clients ]]; then
        awk '$1 == "user" && NF >= 4 { size = $4; unit = substr(size, length(size));
            mb = unit == "M" ? size + 0 : (unit == "K" ? size / 1024 : size / 1048576);
            printf "%s (pid %s, %d MB)\n", $2, $3, mb }' "$clients"
    else
        nvidia-smi --query-compute-apps=process_name,pid,used_memory --format=csv,noheader,nounits \
            2>/dev/null | awk -F', ' 'NF == 3 { printf "%s (pid %s, %s MB)\n", $1, $2, $3 }' || true
    fi
}

# Fills L4T, SM and the version variables, and prints what was found.
look_at_machine() {
    local users model
    L4T=$(l4t_release)
    SM=${SM:-$(gpu_architecture)}
    CUDA_VERSION_FOUND=$(cuda_version)
    TENSORRT_VERSION_FOUND=${TENSORRT_VERSION:-$(tensorrt_version)}
    PYTHON_VERSION_FOUND=$(python_version)
    model=$(board_model)
    users=$(gpu_users)
    say "This machine:"
    say "  board     ${model:-no Jetson}; L4T ${L4T:-none}; JetPack $(jetpack_of "${L4T:-}")"
    say "  GPU       sm ${SM:-unknown}; CUDA ${CUDA_VERSION_FOUND:-not found}"
    say "  versions  TensorRT ${TENSORRT_VERSION_FOUND:-not found};" \
        "TensorRT-LLM ${TRTLLM_VERSION_FOUND:-not found}; Python ${PYTHON_VERSION_FOUND:-not found}"
    say "  memory    $(memory_mb MemAvailable) of $(memory_mb MemTotal) MB available," \
        "swap $(memory_mb SwapFree) of $(memory_mb SwapTotal) MB free"
    if [[ -n $users ]]; then
        say "  GPU users:"
        say "    ${users//$'\n'/$'\n    '}"
        warn "other programs hold GPU memory, which cannot be swapped out: stop them for the build."
    fi
    if [[ -n $L4T && -z $users && ! -r $SYSTEM_ROOT/sys/kernel/debug/nvmap/iovmm/clients ]]; then
        say "  GPU users unknown: only root may see them"
    fi
    ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 501)) ||
        problem "$EXIT_WRONG_VERSION" "bash $BASH_VERSION is older than 5.1, which JetPack 6 has."
    if [[ $L4T == 36.4.7 ]]; then
        warn "L4T 36.4.7 refuses large GPU allocations (NvMap error 12); 36.4.4 and 36.5 do not."
    fi
}

# What look_at_machine found, as options for seal_engine.py, one word a line.
built_with_machine() {
    printf '%s\n' --built-with "tensorrt=${TENSORRT_VERSION_FOUND:-}" \
        --built-with "cuda=${CUDA_VERSION_FOUND:-}" --built-with "python=${PYTHON_VERSION_FOUND:-}" \
        --built-with "sm=${SM:-}" --built-with "l4t=${L4T:-}"
}

# ---- checks ------------------------------------------------------------------------------------

require_tool() { # COMMAND HOW_TO_GET
    command -v "$1" >/dev/null 2>&1 ||
        problem "$EXIT_MISSING_TOOL" "$1 is not installed: $2."
}

# check_memory UNSWAPPABLE_MB TOTAL_MB: what the GPU takes has to be free memory, the rest may swap.
check_memory() {
    local available total
    available=$(memory_mb MemAvailable)
    total=$((available + $(memory_mb SwapFree)))
    if ((available < $1)); then
        problem "$EXIT_MEMORY" "$available MB of memory are available and the build needs $1 MB \
that cannot be swapped: stop other programs, or boot without a desktop (see docs/jetson.md)."
    fi
    if ((total < $2)); then
        problem "$EXIT_SWAP" "memory and swap have $total MB free and the build needs about $2 MB: \
add a swap file of $(($2 - total)) MB or more on an NVMe disk (see docs/jetson.md)."
    fi
}

check_disk() { # FOLDER NEEDED_MB
    local free
    free=$(disk_mb "$1")
    if ((${free:-0} < $2)); then
        problem "$EXIT_DISK" "$1 has ${free:-0} MB of free disk space and the build needs $2 MB: \
free some, or set ENGINE_DIR to another disk."
    fi
}

check_architecture() {
    if [[ -z $SM ]]; then
        problem "$EXIT_MISSING_TOOL" "no NVIDIA GPU was found: run this on the machine that will \
run the engine, or set SM (87 for an Orin)."
    fi
}
