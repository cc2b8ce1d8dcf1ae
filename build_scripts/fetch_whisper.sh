#!/usr/bin/env bash
# Downloads one of OpenAI's Whisper checkpoints: whole and checked, or not at all.
set -euo pipefail

SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=build_scripts/preflight.sh
source "$SCRIPTS/preflight.sh"
# shellcheck source=build_scripts/steps.sh
source "$SCRIPTS/steps.sh"
# shellcheck source=build_scripts/checkpoint.sh
source "$SCRIPTS/checkpoint.sh"

MODEL_NAME=${MODEL_NAME:-base.en}

usage() {
    cat <<END
Usage: $PROGRAM [--dry-run] [--from FILE] [NAME]

Downloads OpenAI's checkpoint of Whisper NAME ($MODEL_NAME if none is given), checks its sha256 and
prints where it is. A download that was interrupted goes on where it stopped when the same command
runs again. A file that is there already is checked and not downloaded again.

  NAME         one of: $(checkpoint_names)
  --dry-run    print the commands on stdout; download nothing
  --from FILE  take the checkpoint from FILE, on a machine without network; its sha256 is checked

Environment, with the value of this run:
  MODEL_NAME=$MODEL_NAME              the same as NAME
  DOWNLOAD_DIR=$DOWNLOAD_DIR
                                  where checkpoints are kept, as openai-whisper does
  CHECKPOINT_URL=$CHECKPOINT_URL
                                  a mirror of OpenAI's checkpoints
  STALL_S=$STALL_S                      seconds after which a server that sends nothing is given up
  SIGN_OF_LIFE_S=${SIGN_OF_LIFE_S:-30}               seconds between two lines where no terminal has a bar

$EXIT_CODES_HELP
END
}

main() {
    parse_options "$@"
    require_checkpoint_name "$MODEL_NAME"
    require_number STALL_S "$STALL_S" 1 3600
    require_number SIGN_OF_LIFE_S "${SIGN_OF_LIFE_S:-30}" 1 3600
    require_plain_path DOWNLOAD_DIR "$DOWNLOAD_DIR"
    [[ $DRY_RUN == yes ]] || trap_signals
    get
    [[ $DRY_RUN == yes ]] || echo "$DOWNLOAD_DIR/$MODEL_NAME.pt"
}

FROM_FILE=''
parse_options() {
    local given=''
    while (($#)); do
        case $1 in
            --help | -h) usage && exit 0 ;;
            --dry-run) DRY_RUN=yes ;;
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

get() {
    local sha256 target=$DOWNLOAD_DIR/$MODEL_NAME.pt size
    sha256=$(checkpoint_column "$MODEL_NAME" 2)
    size=$(checkpoint_column "$MODEL_NAME" 3)
    export STEPS_TOTAL=1
    [[ $DRY_RUN == no ]] || printf '%s\n' '#!/usr/bin/env bash' 'set -euo pipefail'
    check_download_disk "$target" "$size"
    if [[ -n $FROM_FILE ]]; then
        require_plain_path FROM_FILE "$FROM_FILE"
        [[ -f $FROM_FILE ]] ||
            problem "$EXIT_CHECKPOINT" "there is no checkpoint $FROM_FILE: give an existing file."
        take_copy "$FROM_FILE" "$sha256" "$target"
    else
        fetch "$CHECKPOINT_URL/$sha256/$MODEL_NAME.pt" "$sha256" "$target" \
            "copy $MODEL_NAME.pt to this machine and add --from FILE"
    fi
}

main "$@"
