# shellcheck shell=bash
# Sourced after preflight.sh and steps.sh: which Whisper checkpoints there are and how to get one.

# shellcheck source=build_scripts/download.sh
source "$SCRIPTS/download.sh"

CHECKPOINT_TABLE=$SCRIPTS/checkpoints.txt
CHECKPOINT_URL=${CHECKPOINT_URL:-https://openaipublic.azureedge.net/main/whisper/models}
# Where openai-whisper keeps them, too, so that nothing is downloaded twice.
DOWNLOAD_DIR=${DOWNLOAD_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/whisper}
CHECKPOINT_FILE= # set by get_checkpoint
CHECKPOINT_MAY_BE_FOLDER=${CHECKPOINT_MAY_BE_FOLDER:-no} # a script whose converter reads folders says yes

checkpoint_names() {
    awk '!/^#/ && NF == 3 { printf "%s%s", separator, $1; separator = " " }' "$CHECKPOINT_TABLE"
}

checkpoint_column() { # NAME COLUMN
    awk -v name="$1" -v column="$2" '$1 == name { print $column }' "$CHECKPOINT_TABLE"
}

# Of OpenAI's file, else of the user's own; 0 when that is missing.
checkpoint_megabytes() { # NAME
    local listed
    listed=$(checkpoint_column "$1" 3)
    if [[ -d $CHECKPOINT_FILE ]]; then
        du --dereference --summarize --block-size=1M "$CHECKPOINT_FILE" | cut -f 1
    elif [[ -n $listed ]]; then
        echo "$listed"
    else
        echo $(($(stat --dereference --format %s "$CHECKPOINT_FILE" 2>/dev/null || echo 0) / 1000000 + 1))
    fi
}

require_checkpoint_name() {
    local names
    read -ra names <<<"$(checkpoint_names)"
    require_choice MODEL_NAME "$1" "${names[@]}"
}

# CHECKPOINT is a file of the user's own, --from a copy of OpenAI's.
check_checkpoint_overrides() {
    require_number STALL_S "$STALL_S" 1 3600
    if [[ -n $CHECKPOINT && -n $FROM_FILE ]]; then
        fail "$EXIT_USAGE" "CHECKPOINT and --from both name a file: give one of them."
    fi
    require_plain_path CHECKPOINT_FILE "${CHECKPOINT:-${FROM_FILE:-$DOWNLOAD_DIR/$MODEL_NAME.pt}}"
    if [[ -n $CHECKPOINT && -d $CHECKPOINT_FILE && $CHECKPOINT_MAY_BE_FOLDER == yes ]]; then
        [[ -f $CHECKPOINT_FILE/config.json ]] || problem "$EXIT_CHECKPOINT" \
            "$CHECKPOINT_FILE has no config.json: give a folder that save_pretrained has written."
    elif [[ -n $CHECKPOINT$FROM_FILE && ! -f $CHECKPOINT_FILE ]]; then
        problem "$EXIT_CHECKPOINT" "there is no checkpoint $CHECKPOINT_FILE: give an existing file."
    fi
}

# The sha256 that the checkpoint has, or nothing while a file of the user's own is missing.
source_sha256() { # NAME
    if [[ -z $CHECKPOINT ]]; then
        checkpoint_column "$1" 2
    elif [[ -e $CHECKPOINT_FILE ]]; then
        digest_of "$CHECKPOINT_FILE"
    fi
}

# get_checkpoint NAME [FOLDER]: CHECKPOINT_FILE is there and whole afterwards, and FOLDER, if given,
# has it as NAME.pt.
get_checkpoint() {
    local sha256
    sha256=$(checkpoint_column "$1" 2)
    if [[ -n $CHECKPOINT ]]; then
        announce "take the checkpoint $CHECKPOINT_FILE as it is"
    elif [[ -n $FROM_FILE ]]; then
        announce "check the checkpoint $CHECKPOINT_FILE"
        if [[ $DRY_RUN == yes ]]; then
            show_check_sha256 "$CHECKPOINT_FILE" "$sha256"
        else
            check_sha256 "$CHECKPOINT_FILE" "$sha256" "it is not OpenAI's $1; get it again, or set \
CHECKPOINT instead of --from for one of your own"
        fi
    else
        fetch "$CHECKPOINT_URL/$sha256/$1.pt" "$sha256" "$CHECKPOINT_FILE" \
            "copy $1.pt to this machine and add --from FILE"
    fi
    [[ -n ${2:-} ]] || return 0
    if [[ $DRY_RUN == yes ]]; then
        show mkdir -p "$2"
        show ln -sfn "$CHECKPOINT_FILE" "$2/$1.pt"
    else
        mkdir -p "$2"
        ln -sfn "$CHECKPOINT_FILE" "$2/$1.pt"
    fi
}
