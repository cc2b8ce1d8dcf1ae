# shellcheck shell=bash
# Sourced after preflight.sh and steps.sh: a file from the network, whole or not there.
#
# The download goes to TARGET.part, which is kept when it is interrupted: the same command goes on
# from its end. It takes its name when its sha256 is right. Whoever writes to it holds a lock on it,
# curl too, so that two downloads of one file never meet, not even when one of them was killed.

STALL_S=${STALL_S:-60} # a server that sends nothing for so long is given up
DOWNLOAD_ATTEMPTS=10   # as long as each brings something

# fetch URL SHA256 TARGET HINT: HINT says what to do on a machine without network.
fetch() {
    local url=$1 sha256=$2 target=$3 hint=$4 partial=$3.part
    local options=(--fail --location --show-error --connect-timeout "$STALL_S"
        --speed-limit 1 --speed-time "$STALL_S")
    announce "download ${target##*/}, unless it is there"
    if [[ $DRY_RUN == yes ]]; then
        show mkdir -p "${target%/*}"
        show curl "${options[@]}" --silent --continue-at - --output "$partial" "$url"
        show_check_sha256 "$partial" "$sha256"
        show mv "$partial" "$target"
        return
    fi
    lock_download "$partial"
    if [[ -f $target ]]; then
        release_download "$partial"
        check_sha256 "$target" "$sha256" "delete it and run the same command again"
        say "      there, and its sha256 is right"
        return
    fi
    if ! command -v curl >/dev/null; then
        release_download "$partial"
        fail "$EXIT_MISSING_TOOL" "curl is not installed: install it with apt, or $hint."
    fi
    # What a killed run has left may be whole.
    if [[ ! -s $partial || $(digest_of "$partial") != "$sha256" ]]; then
        download "$url" "$partial" "$hint" "${options[@]}"
    fi
    if [[ $(digest_of "$partial") != "$sha256" ]]; then
        rm -f "$partial"
        release_download "$partial"
        fail "$EXIT_CHECKSUM" "what came from $url is not the file with sha256 $sha256: \
it was deleted, run the same command again."
    fi
    mv "$partial" "$target"
    release_download "$partial"
}

# File descriptor 8, which curl inherits.
lock_download() { # PARTIAL
    if ! mkdir -p "${1%/*}" 2>/dev/null || ! (: >>"$1") 2>/dev/null; then
        fail "$EXIT_USAGE" "${1%/*} cannot be written: set DOWNLOAD_DIR to another place."
    fi
    exec 8>>"$1"
    if ! flock --nonblock 8; then
        fail "$EXIT_BUSY" "another download writes to $1: wait for it to end."
    fi
    # Whoever had the lock may have moved or deleted the file since it was opened here.
    if [[ ! $1 -ef /proc/self/fd/8 ]]; then
        exec 8>&-
        fail "$EXIT_BUSY" "another download of ${1##*/} has just ended: run the same command again."
    fi
}

# A part in which nothing is yet need not stay, nor what a killed run has noted.
release_download() { # PARTIAL
    rm -f "$1.log" "$1.http"
    [[ -s $1 ]] || rm -f "$1"
    exec 8>&-
}

# Download to PARTIAL from its end on; ends the script with one sentence if that cannot be.
download() { # URL PARTIAL HINT CURL_OPTION...
    local url=$1 partial=$2 hint=$3 attempt before status=0 http
    shift 3
    for ((attempt = 1; attempt <= DOWNLOAD_ATTEMPTS; attempt++)); do
        before=$(bytes_of "$partial")
        status=0
        run_curl "$url" "$partial" "$@" || status=$?
        http=$(<"$partial.http") 2>/dev/null || http=
        case $status:$http in
            33:* | *:416)
                # The server cannot go on from there: it knows no ranges, or its file is no longer.
                ((before > 0)) || break
                say "      the server cannot go on where the download stopped: it begins again"
                : >"$partial"
                continue
                ;;
            23:*)
                release_download "$partial"
                fail "$EXIT_DISK_FULL" "$partial cannot be written to, most likely because the disk is \
full: free some space and run the same command again, it goes on from there."
                ;;
            0:*) break ;;
        esac
        (($(bytes_of "$partial") > before)) || break
        say "      the connection was lost, going on from $(bytes_of "$partial") bytes"
    done
    if ((status != 0)); then
        tail -n 3 "$partial.log" 2>/dev/null | sed 's/^/    /' >&2
        release_download "$partial"
        fail "$EXIT_DOWNLOAD" "$url could not be downloaded (curl ended with status $status): \
run the same command again to go on, or $hint."
    fi
}

# With a bar on a terminal, otherwise with a sign of life now and then.
run_curl() { # URL PARTIAL CURL_OPTION...
    local url=$1 partial=$2 status=0 look=--silent
    shift 2
    [[ ! -t 2 ]] || look=--progress-bar
    : >"$partial.log"
    if [[ $look == --silent ]]; then
        setsid curl "$@" --silent --write-out '%{http_code}' --continue-at - --output "$partial" \
            "$url" >"$partial.http" 2>"$partial.log" </dev/null 9>&- &
    else
        setsid curl "$@" --progress-bar --write-out '%{http_code}' --continue-at - \
            --output "$partial" "$url" >"$partial.http" </dev/null 9>&- &
    fi
    STEP_CHILD=$!
    if [[ $look == --silent ]]; then
        wait_with_signs_of_life download "$SECONDS" || status=$?
    else
        wait "$STEP_CHILD" || status=$?
    fi
    STEP_CHILD=
    return "$status"
}

bytes_of() { # FILE
    stat --format %s "$1" 2>/dev/null || echo 0
}

# What is there of a file already need not fit on the disk again.
check_download_disk() { # TARGET SIZE_MB
    local folder=${1%/*} free missing=0
    [[ -f $1 ]] || missing=$(($2 - $(bytes_of "$1.part") / 1000000))
    free=$(disk_mb "$folder")
    if ((${free:-0} < missing)); then
        problem "$EXIT_DISK" "$folder has ${free:-0} MB of free disk space and ${1##*/} needs \
$missing MB more: free some, or set DOWNLOAD_DIR to another disk."
    fi
}

# take_copy SOURCE SHA256 TARGET: TARGET is a checked copy of SOURCE, or as it was before.
take_copy() {
    local partial=$3.part
    announce "copy $1 to $3 and check its sha256"
    if [[ $DRY_RUN == yes ]]; then
        show mkdir -p "${3%/*}"
        show cp "$1" "$partial"
        show_check_sha256 "$partial" "$2"
        show mv "$partial" "$3"
        return
    fi
    check_sha256 "$1" "$2" "it is another file, or it was damaged on its way: get it again"
    [[ ! $1 -ef $3 ]] || return 0
    lock_download "$partial"
    if ! cp "$1" "$partial" 2>/dev/null; then
        rm -f "$partial"
        fail "$EXIT_DISK_FULL" "$3 could not be written, most likely because the disk is full: free \
some space, or set DOWNLOAD_DIR to another disk."
    fi
    check_sha256 "$partial" "$2" "the copy is damaged: run the same command again"
    mv "$partial" "$3"
    release_download "$partial"
}

show_check_sha256() { # FILE SHA256
    printf '%s | sha256sum --check --status\n' "$(show echo "$2  $1")"
}

check_sha256() { # FILE SHA256 ADVICE
    local found
    found=$(digest_of "$1")
    [[ $found == "$2" ]] ||
        fail "$EXIT_CHECKSUM" "$1 has the sha256 $found and not $2: $3."
}
