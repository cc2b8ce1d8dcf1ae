#!/usr/bin/env bash
# Runs on a board everything that docs/jetson.md says and no board has confirmed, and writes one
# JSON file: each check with its command, its output and pass, fail or skipped. A failing check
# stops nothing.
# Commands are kept as text and run later, and Markdown has backquotes:
# shellcheck disable=SC2016
set -uo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
output=board-report.json
engines=$repository/engines
venv=$repository/.venv
limit_s=
mode=run
only=()

usage() {
    cat <<END
usage: build_scripts/board_report.sh [options]

  --output FILE   the report [$output]
  --only NAME     this check alone; may be repeated
  --engines DIR   folder of built engine folders, for the checks that need one [engines]
  --venv DIR      virtual environment with duplex-asr, made with --system-site-packages [.venv]
  --timeout S     limit of every check instead of its own
  --list          print the checks as the table of docs/jetson.md
  --dry-run       print the commands and whether each would run here, and run none
  --help          this text

Run it as the user who will run the daemon; what only root can see is skipped then. It changes nothing
on the machine: engines are built in temporary folders. On a PC most checks are skipped, with the
reason.
SYSTEM_ROOT=DIR reads /etc, /proc, /sys and /dev below DIR, a copy of a board's files.

exit codes: 0 no check failed, 1 a check failed, 2 wrong option, 3 the report cannot be written
END
}

fail() { echo "board_report.sh: $1" >&2; exit "$2"; }

# --- the checks ---------------------------------------------------------------------------------

names=()
declare -A needs limits claims commands expectations patterns

# check NAME NEEDS LIMIT_S CLAIM COMMAND EXPECTED PATTERN
#   NEEDS: what is looked for first, see unmet_need; one that is missing skips the check
#   COMMAND: run by bash in the repository; {trtllm} and the like become an engine folder
#   PATTERN: extended regular expression that the output must match, besides exit code 0
check() {
    names+=("$1")
    needs[$1]=$2 limits[$1]=$3 claims[$1]=$4 commands[$1]=$5 expectations[$1]=$6 patterns[$1]=$7
}

# shellcheck source=build_scripts/board_checks.sh
. "$repository/build_scripts/board_checks.sh"

# --- what a check needs -------------------------------------------------------------------------

# A copy of a board's files, so that the checks can be tested and a report be repeated elsewhere.
sysroot=${SYSTEM_ROOT:-}

# Back end, or trtllm-paged and trtllm-contiguous -> its first folder, or nothing.
engine_of() {
    python3 build_scripts/board_engines.py find "$1" "$engines"
}

# Prints why a need is not met, or nothing.
unmet_need() {
    local value=${1#*:}
    case $1 in
        board) [ -e "$sysroot/etc/nv_tegra_release" ] ||
            echo "no Jetson: /etc/nv_tegra_release is missing" ;;
        user) [ "$(id -u)" != 0 ] || echo "is for the user who runs the daemon, not for root" ;;
        root) [ "$(id -u)" = 0 ] || echo "needs root: sudo build_scripts/board_report.sh" ;;
        command:*) command -v "$value" >/dev/null || echo "$value is not installed" ;;
        file:*) [ -e "$sysroot$value" ] || echo "$value is missing" ;;
        package) python3 -c 'import duplex_asr.cli, numpy, onnxruntime' 2>/dev/null ||
            echo "duplex-asr is not installed in $venv, see docs/jetson.md" ;;
        sound) grep -qs '^ *[0-9]' "$sysroot/proc/asound/cards" ||
            echo "no sound card in /proc/asound/cards" ;;
        demo) [ -e engines/demo/demo.flac ] && [ -e engines/demo/manifest.json ] ||
            echo "the demo engine is missing in engines/demo" ;;
        python:*)
            python3 -c "import importlib.util as u, sys; sys.exit(u.find_spec('$value') is None)" ||
                echo "Python has no module $value" ;;
        engine:*) [ -n "$(engine_of "$value")" ] ||
            echo "no $value engine in $engines: build one first" ;;
        *) echo "unknown need $1" ;;
    esac
}

reason_to_skip() {
    local need reason
    for need in ${needs[$1]}; do
        reason=$(unmet_need "$need")
        if [ -n "$reason" ]; then
            echo "$reason"
            return
        fi
    done
}

# The command with its engine folder, and below the recorded tree when there is one.
command_of() {
    local command=${commands[$1]} backend
    for backend in onnx cuda tensorrt trtllm trtllm-paged trtllm-contiguous voice; do
        if [[ $command == *"{$backend}"* ]]; then
            command=${command//"{$backend}"/$(printf '%q' "$(engine_of "$backend")")}
        fi
    done
    if [ -n "$sysroot" ]; then
        command=$(sed -E "s#(^|[ <])/(etc|proc|sys)/#\\1$sysroot/\\2/#g" <<<"$command")
    fi
    echo "$command"
}

# --- running ------------------------------------------------------------------------------------

work=
running=
stopped=no

clean_up() { [ -z "$work" ] || rm -rf "$work"; }

stop() {
    stopped=yes
    [ -z "$running" ] || kill -TERM "$running" 2>/dev/null
}

# record NAME STATUS REASON EXIT_CODE SECONDS COMMAND: one JSON object on one line.
record() {
    python3 build_scripts/board_json.py check "$@" "${claims[$1]}" "${expectations[$1]}" \
        "${patterns[$1]}" "$work/output" >>"$work/checks"
}

run_check() {
    local name=$1 command reason limit=${limit_s:-${limits[$1]}} code started status=pass why=
    command=$(command_of "$name")
    reason=$(reason_to_skip "$name")
    [ "$stopped" = no ] || reason='the report was interrupted'
    if [ -n "$reason" ]; then
        record "$name" skipped "$reason" '' 0 "$command"
        printf '%-16s skipped  %s\n' "$name" "$reason"
        return
    fi
    started=$(date +%s.%N)
    timeout --kill-after=5 "$limit" bash -c "$command" >"$work/output" 2>&1 </dev/null &
    running=$!
    wait "$running"
    code=$?
    while kill -0 "$running" 2>/dev/null; do wait "$running"; code=$?; done  # after an interrupt
    running=
    if [ "$stopped" = yes ]; then
        status=fail why='the report was interrupted'
    elif [ "$code" = 124 ] || [ "$code" = 137 ]; then
        status=fail why="not done after $limit s"
    elif [ "$code" != 0 ]; then
        status=fail why="exit code $code"
    elif ! grep -Eq -- "${patterns[$name]}" "$work/output"; then
        status=fail why="the output is not what was expected"
    fi
    record "$name" "$status" "$why" "$code" \
        "$(awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f", b - a }')" "$command"
    printf '%-16s %-8s %s\n' "$name" "$status" "${why:-$(head -1 "$work/output" | cut -c1-90)}"
}

# --- options ------------------------------------------------------------------------------------

print_list() {
    local name
    echo '| check | what no board has confirmed | command | expected |'
    echo '|---|---|---|---|'
    for name in "${names[@]}"; do
        printf '| `%s` | %s | `%s` | %s |\n' "$name" "${claims[$name]}" "${commands[$name]//|/\\|}" \
            "${expectations[$name]//|/\\|}"
    done
}

is_check() {
    local name
    for name in "${names[@]}"; do
        [ "$name" != "$1" ] || return 0
    done
    return 1
}

parse_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h) usage; exit 0 ;;
            --list) mode=list ;;
            --dry-run) mode=dry-run ;;
            --output | --only | --engines | --venv | --timeout)
                [ $# -ge 2 ] || fail "$1 needs a value, see --help" 2
                case $1 in
                    --output) output=$2 ;;
                    --only)
                        is_check "$2" || fail "--only $2: no such check, see --list" 2
                        only+=("$2") ;;
                    --engines) engines=$2 ;;
                    --venv) venv=$2 ;;
                    --timeout)
                        [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "--timeout $2: write whole seconds" 2
                        limit_s=$2 ;;
                esac
                shift ;;
            *) fail "unknown option $1, see --help" 2 ;;
        esac
        shift
    done
}

main() {
    parse_options "$@"
    if [ "$mode" = list ]; then
        print_list
        return 0
    fi
    command -v python3 >/dev/null || fail 'python3 is missing: apt install python3' 2
    [ "${#only[@]}" = 0 ] || names=("${only[@]}")
    output=$(realpath -m -- "$output") engines=$(realpath -m -- "$engines")
    venv=$(realpath -ms -- "$venv")
    cd "$repository" || exit 3
    export PATH="$venv/bin:$PATH:/usr/src/tensorrt/bin:/usr/local/cuda/bin:/usr/sbin:/sbin"
    export LC_ALL=C.UTF-8
    local name reason
    if [ "$mode" = dry-run ]; then
        for name in "${names[@]}"; do
            reason=$(reason_to_skip "$name")
            printf '%s: %s\n    %s\n' "$name" "${reason:-would run}" "$(command_of "$name")"
        done
        return 0
    fi
    [ -d "$(dirname "$output")" ] || fail "--output $output: its folder does not exist" 3
    work=$(mktemp -d) || exit 3
    trap clean_up EXIT
    trap stop INT TERM
    : >"$work/checks"
    for name in "${names[@]}"; do
        : >"$work/output"
        run_check "$name"
    done
    python3 build_scripts/board_json.py report "$work/checks" "$output" || exit 3
    echo
    echo "$output: $(grep -c '"status": "pass"' "$work/checks") passed," \
        "$(grep -c '"status": "fail"' "$work/checks") failed," \
        "$(grep -c '"status": "skipped"' "$work/checks") skipped"
    ! grep -q '"status": "fail"' "$work/checks"
}

main "$@"
