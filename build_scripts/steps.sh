# shellcheck shell=bash
# Sourced by the build scripts, after preflight.sh: runs the steps of a build, or prints them.
#
# A step writes to OUTPUT.part, which takes its name when the step has ended well; then a stamp
# with the sha256 of command, versions, inputs and output is written. A step whose stamp still
# fits is skipped, so a build that was interrupted goes on where it stopped.

STEP_NUMBER=0
STEPS_TOTAL=${STEPS_TOTAL:-0}
STEP_CHILD=
STEP_TIMER=
STEP_PARTIAL=
STEP_PRELUDE= # what a dry run prints before the command
WORK=

# ---- printing ----------------------------------------------------------------------------------

# A command as a shell would take it, with a line for each --option. @ARGUMENTS@ stands for
# arguments that the printed commands read from a file.
show() {
    local word line='' quoted
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
            quoted=$word
            # shellcheck disable=SC2016  # for the shell that runs what is printed
            [[ $word != @ARGUMENTS@ ]] || quoted='"${arguments[@]:2}"'
        else
            quoted="'${word//\'/\'\\\'\'}'"
        fi
        if [[ -z $line ]]; then
            line=$quoted
        elif [[ $word == --* || $word == @ARGUMENTS@ ]]; then
            line+=" \\"$'\n'"    $quoted"
        else
            line+=" $quoted"
        fi
    done
    printf '%s\n' "$line"
}

announce() { # SENTENCE
    STEP_NUMBER=$((STEP_NUMBER + 1))
    if [[ $DRY_RUN == yes ]]; then
        printf '\n# [%s/%s] %s\n' "$STEP_NUMBER" "$STEPS_TOTAL" "$1"
    else
        say "[$STEP_NUMBER/$STEPS_TOTAL] $1"
    fi
}

# ---- the frame of a build ----------------------------------------------------------------------

begin_build() { # WORK_FOLDER
    WORK=$1
    if [[ $DRY_RUN == yes ]]; then
        printf '%s\n' '#!/usr/bin/env bash' 'set -euo pipefail'
        [[ -z ${CUDA_MODULE_LOADING:-} ]] || show export "CUDA_MODULE_LOADING=$CUDA_MODULE_LOADING"
        show mkdir -p "$WORK"
        return
    fi
    mkdir -p "$WORK/stamps" "$WORK/logs" 2>/dev/null ||
        fail "$EXIT_USAGE" "$WORK cannot be written: choose another ENGINE_DIR."
    exec 9>"$WORK/lock"
    flock --nonblock 9 ||
        fail "$EXIT_BUSY" "another build works in $WORK: wait for it, or choose another ENGINE_DIR."
    trap_signals
}

trap_signals() {
    trap 'interrupted SIGHUP 129' HUP
    trap 'interrupted Ctrl-C 130' INT
    trap 'interrupted SIGTERM 143' TERM
    trap remove_partial EXIT
}

remove_partial() {
    [[ -z $STEP_PARTIAL ]] || rm -rf "$STEP_PARTIAL"
}

# The tool runs in a process group of its own: whoever stops the script stops all of it.
interrupted() { # SIGNAL EXIT_CODE
    trap '' HUP INT TERM
    [[ -z $STEP_TIMER ]] || kill "$STEP_TIMER" 2>/dev/null || true
    if [[ -n $STEP_CHILD ]]; then
        kill -TERM -- "-$STEP_CHILD" 2>/dev/null || kill -TERM "$STEP_CHILD" 2>/dev/null || true
        for _ in {1..100}; do
            kill -0 "$STEP_CHILD" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL -- "-$STEP_CHILD" 2>/dev/null || true
    fi
    fail "$2" "stopped by $1; finished steps are kept, the same command goes on from there."
}

# Ends the script when TARGET is this very build; refuses to replace anything else unasked.
stop_if_built() { # TARGET BUILD_KEY
    [[ $DRY_RUN == no && -e $1 ]] || return 0
    if "$PYTHON" "$SCRIPTS/seal_engine.py" check "$1" --build-key "$2" 2>/dev/null; then
        say "$1 is built already, nothing to do."
        exit 0
    elif [[ ! -f $1/manifest.json ]]; then
        fail "$EXIT_USAGE" "$1 exists and is no engine folder: set ENGINE_DIR to another place."
    elif [[ $OVERWRITE != yes ]]; then
        fail "$EXIT_USAGE" "$1 was built otherwise or is damaged: add --overwrite to replace it, or \
set ENGINE_DIR to another place."
    fi
}

# One name for everything that decides what comes out of a build.
build_key_of() { # SETTING...
    printf '%s\n' "$@" | sha256sum | cut -c 1-16
}

# Move the finished engine to its place and drop the work folder.
finish_build() { # STAGED TARGET
    if [[ $DRY_RUN == yes ]]; then
        printf '\n# %s\n' 'the engine takes its place, an older one of that name goes'
        show rm -rf "$WORK/replaced"
        printf '[[ ! -e %s ]] || %s\n' "$(show "$2")" "$(show mv "$2" "$WORK/replaced")"
        show mv "$1" "$2"
        [[ $KEEP_WORK == yes ]] || show rm -rf "$WORK"
        return
    fi
    rm -rf "$WORK/replaced"
    [[ ! -e $2 ]] || mv "$2" "$WORK/replaced"
    mv "$1" "$2"
    rm -rf "$WORK/replaced"
    [[ $KEEP_WORK == yes ]] || rm -rf "$WORK"
    say "$2 is ready."
}

# ---- one step ----------------------------------------------------------------------------------

# sha256 of a file, or of the names and contents of a folder.
digest_of() {
    if [[ -d $1 ]]; then
        (cd "$1" && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum) |
            sha256sum | cut -d ' ' -f 1
    else
        sha256sum <"$1" | cut -d ' ' -f 1
    fi
}

# step NAME SENTENCE OUTPUT INPUT... -- COMMAND...
# '@OUT@' in COMMAND stands for the place where it has to write.
step() {
    local name=$1 output=$3 inputs=() command=() word key
    announce "$2"
    shift 3
    while [[ $1 != -- ]]; do
        inputs+=("$1")
        shift
    done
    shift
    for word in "$@"; do
        command+=("${word//@OUT@/$output.part}")
    done
    if [[ $DRY_RUN == yes ]]; then
        [[ -z $STEP_PRELUDE ]] || printf '%s\n' "$STEP_PRELUDE"
        show "${command[@]}"
        show mv "$output.part" "$output"
        return
    fi
    key=$(key_of "${command[@]}")
    if is_finished "$name" "$key" "$output"; then
        say "      finished before, skipped"
        return
    fi
    rm -rf "$output" "$output.part" "$WORK/stamps/$name"
    STEP_PARTIAL=$output.part
    run_tool "$name" "$output.part" "${command[@]}"
    if [[ ! -e $output.part ]]; then
        fail "$EXIT_NO_OUTPUT" "step '$name' ended well but did not write its output: \
see $WORK/logs/$name.log."
    fi
    mv "$output.part" "$output"
    STEP_PARTIAL=
    printf '%s\n%s\n' "$key" "$(digest_of "$output")" >"$WORK/stamps/$name.part" ||
        fail "$EXIT_DISK_FULL" "the stamp of step '$name' cannot be written: free some disk space."
    mv "$WORK/stamps/$name.part" "$WORK/stamps/$name"
}

# Reads `inputs` of the calling step: dynamic scope saves handing over two lists.
key_of() { # COMMAND...
    local input
    {
        printf '%s\n' "$@" "${TRTLLM_VERSION_FOUND:-}" "${TENSORRT_VERSION_FOUND:-}" "${SM:-}"
        for input in "${inputs[@]}"; do
            digest_of "$input"
        done
    } | sha256sum | cut -d ' ' -f 1
}

is_finished() { # NAME KEY OUTPUT
    local stamp=$WORK/stamps/$1
    [[ -f $stamp && -e $3 ]] || return 1
    [[ $(<"$stamp") == "$2"$'\n'"$(digest_of "$3")" ]]
}

# Run a tool with its output in a log, a sign of life now and then, and one sentence on failure.
run_tool() { # NAME PARTIAL_OUTPUT COMMAND...
    local name=$1 log=$WORK/logs/$1.log started=$SECONDS status=0
    shift 2
    { show "$@" && echo; } >"$log" ||
        fail "$EXIT_DISK_FULL" "$log cannot be written: free some disk space."
    setsid "$@" >>"$log" 2>&1 </dev/null 9>&- &
    STEP_CHILD=$!
    wait_with_signs_of_life "$name" "$started" || status=$?
    STEP_CHILD=
    if ((status != 0)); then
        explain_failure "$name" "$status" "$log" "$1"
    fi
    say "      done in $((SECONDS - started)) s"
}

wait_with_signs_of_life() { # NAME STARTED
    local finished='' status
    while true; do
        sleep "$SIGN_OF_LIFE_S" >/dev/null 2>&1 8>&- 9>&- &
        STEP_TIMER=$!
        status=0
        wait -n -p finished "$STEP_CHILD" "$STEP_TIMER" || status=$?
        if [[ $finished == "$STEP_CHILD" ]]; then
            kill "$STEP_TIMER" 2>/dev/null || true
            wait "$STEP_TIMER" 2>/dev/null || true
            STEP_TIMER=
            return "$status"
        fi
        say "      $1 has been running for $((SECONDS - $2)) s;" \
            "$(memory_mb MemAvailable) MB of memory available"
    done
}

explain_failure() { # NAME STATUS LOG TOOL
    local tool=${4##*/}
    say "  last lines of $3:"
    tail -n 5 "$3" | sed 's/^/    /' >&2
    if grep -q 'No space left on device' "$3"; then
        fail "$EXIT_DISK_FULL" "the disk became full during step '$1' ($tool): free some space and \
run the same command again, finished steps are kept."
    elif (($2 == 137)); then
        fail "$EXIT_KILLED" "$tool was killed in step '$1' (exit status 137), most likely because \
memory ran out: stop other programs or add swap, then run the same command again."
    elif (($2 == EXIT_UNSUPPORTED_GRAPH)); then
        fail "$EXIT_UNSUPPORTED_GRAPH" "$(tail -n 1 "$3")."
    elif grep -q 'NvMapMemAllocInternalTagged.*error 12' "$3"; then
        fail "$EXIT_STEP" "step '$1' ($tool) ended with status $2 after NvMap refused GPU memory: \
reboot to undo fragmentation, and see docs/jetson.md if this is L4T 36.4.7."
    fi
    fail "$EXIT_STEP" "step '$1' ($tool) ended with status $2: see $3."
}
