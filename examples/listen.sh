#!/usr/bin/env bash
# Prints what is said: examples/listen.sh [events.sock]; needs socat and jq.
set -euo pipefail
path=${1:-${XDG_RUNTIME_DIR:-/run}/duplex-asr/events.sock}

socat -u "UNIX-CONNECT:$path" - | jq --unbuffered -r 'select(.type == "transcript").text'
