#!/usr/bin/env bash
# Installs duplex-asr as a service of systemd: for the whole machine (ALSA) or for one user (PipeWire or
# PulseAudio). May be run again at any time: what is there already is left as it is.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
repository=$(cd "$here/.." && pwd)

mode=system
action=install
dry_run=no
venv=
package=$repository
python=python3
gpu=auto

units=(duplex-asr.service duplex-asr-control.socket duplex-asr-events.socket)

usage() {
    cat <<END
usage: systemd/install.sh [options]

Makes a virtual environment, installs duplex-asr into it and the units beside it, and prints the next
command. Nothing is enabled or started, and no configuration is overwritten.

  --user          for the user who runs this, with PipeWire or PulseAudio; without root
  --venv DIR      use this environment (the current one: "\$VIRTUAL_ENV"), and install into it only if
                  duplex-asr is not in it; without it one is made in /opt/duplex-asr
                  (--user: ~/.local/share/duplex-asr/venv)
  --package WHAT  what pip installs: a folder, a wheel, or a name with a version [this checkout]
  --python FILE   the Python to make the environment with, 3.10 or newer [python3]
  --gpu, --no-gpu with or without the drop-in for a GPU [with it, where there is one]
  --uninstall     stop the service and remove all that this script made; configuration, recordings and
                  users stay
  --dry-run       print every command and run none; needs no root
  --help          this text

exit codes: 0 done, 1 a command failed, 2 wrong option, not root, or something is missing
END
}

fail() { echo "systemd/install.sh: $1" >&2; exit "${2:-2}"; }

parse_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h) usage; exit 0 ;;
            --user) mode=user ;;
            --uninstall) action=uninstall ;;
            --dry-run) dry_run=yes ;;
            --gpu) gpu=yes ;;
            --no-gpu) gpu=no ;;
            --venv | --package | --python)
                [ $# -ge 2 ] || fail "$1 needs a value, see --help"
                case $1 in
                    --venv) venv=$2 ;;
                    --package) package=$2 ;;
                    --python) python=$2 ;;
                esac
                shift ;;
            *) fail "unknown option $1, see --help" ;;
        esac
        shift
    done
}

# Where everything goes. `own_venv` is made here unless --venv names another; `unit_venv` is what the
# unit names if no drop-in does; `program` is a link to it.
choose_places() {
    if [ "$mode" = system ]; then
        share=/opt/duplex-asr
        own_venv=$share
        unit_venv=$share
        unit_source=$here
        unit_dir=/etc/systemd/system
        config_dir=/etc/duplex-asr
        program=/usr/local/bin/duplex-asr
        systemctl=(systemctl)
    else
        share=${XDG_DATA_HOME:-$HOME/.local/share}/duplex-asr
        own_venv=$share/venv
        unit_venv=$HOME/.local/share/duplex-asr/venv
        unit_source=$here/user
        unit_dir=${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user
        config_dir=${XDG_CONFIG_HOME:-$HOME/.config}/duplex-asr
        program=$HOME/.local/bin/duplex-asr
        systemctl=(systemctl --user)
    fi
    drop_in_dir=$unit_dir/duplex-asr.service.d
    config=$config_dir/config.toml
    if [ -z "$venv" ]; then
        used_venv=$own_venv
    else
        case $venv in /*) used_venv=$venv ;; *) used_venv=$PWD/$venv ;; esac
    fi
}

run() {
    if [ "$dry_run" = yes ]; then
        printf '+ '; printf '%q ' "$@"; echo
    else
        "$@"
    fi
}

said() { printf '%-10s %s\n' "$1" "$2"; }

# put SOURCE TARGET: copy a file, unless it is there.
put() {
    if [ -e "$2" ] && cmp -s "$1" "$2"; then
        said unchanged "$2"
        return
    fi
    run install -D -m 0644 "$1" "$2"
    [ "$dry_run" = yes ] || said installed "$2"
}

# write TARGET: the same with the text on standard input.
write() {
    local text
    text=$(mktemp)
    cat >"$text"
    put "$text" "$1"
    if [ "$dry_run" = yes ]; then sed 's/^/    | /' "$text"; fi
    rm -f "$text"
}

take_away() {
    local each
    for each in "$@"; do
        if [ -e "$each" ] || [ "$dry_run" = yes ]; then
            run rm -rf --one-file-system "$each"
            [ "$dry_run" = yes ] || said removed "$each"
        fi
    done
}

# --- install ------------------------------------------------------------------------------------

systemd_version() {
    { systemctl --version 2>/dev/null || true; } | sed -n '1s/^systemd \([0-9]*\).*/\1/p'
}

check_machine() {
    local version
    version=$(systemd_version)
    [ -n "$version" ] || [ "$dry_run" = yes ] || fail "systemctl is not here: this machine has no systemd"
    [ "${version:-249}" -ge 249 ] || fail "systemd is $version: the units need 249 or newer"
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
        [ -x "$used_venv/bin/python" ] || [ "$dry_run" = yes ] ||
        fail "$python is no Python 3.10 or newer with venv: apt install python3-venv, or see --python"
    if [ "$mode" = system ]; then
        case $used_venv/ in
            /home/* | /root/* | /run/user/*)
                fail "--venv $used_venv: the service sees no home folders; choose one elsewhere, or --user" ;;
        esac
    fi
}

# pip leaves files in the folder that it builds, and a checkout need not belong to who installs.
copy_checkout() {
    [ "$package" = "$repository" ] || return 0
    package=/tmp/duplex-asr-source
    if [ "$dry_run" = no ]; then
        package=$(mktemp -d)
        trap 'rm -rf "$package"' EXIT
    fi
    run cp -r "$repository"/{duplex_asr,setup.cfg,pyproject.toml,README.md,LICENSE} "$package"
}

make_environment() {
    if [ -n "$venv" ] && [ -x "$used_venv/bin/duplex-asr" ]; then
        said unchanged "$used_venv, which has duplex-asr"
        return
    fi
    if [ ! -x "$used_venv/bin/python" ]; then
        run "$python" -m venv "$used_venv"
        [ "$dry_run" = yes ] || said made "$used_venv"
    fi
    copy_checkout
    # Dependencies as they are needed; duplex-asr itself anew, whose version may not have changed.
    run "$used_venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package"
    run "$used_venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --force-reinstall --no-deps "$package"
    [ "$dry_run" = yes ] || said installed "$("$used_venv/bin/duplex-asr" --version) in $used_venv"
}

# The demo engine lets the service start before another is built.
copy_demo_engine() {
    local each
    for each in manifest.json encoder.onnx decoder.onnx checkpoint.pt tokenizer.tiktoken; do
        put "$repository/engines/demo/$each" "$share/engines/demo/$each"
    done
}

make_config() {
    local engine=
    if [ -f "$repository/engines/demo/manifest.json" ]; then
        engine=$share/engines/demo
        copy_demo_engine
    fi
    if [ -e "$config" ]; then
        said unchanged "$config"
        return
    fi
    write "$config" <<END
# Settings of the service; every key is described in
# $used_venv/lib/python3*/site-packages/duplex_asr/default.toml.
# Check with: $used_venv/bin/duplex-asr check-config $config
# Put into force with: ${systemctl[*]} reload duplex-asr (what needs a restart is named in the journal)

[audio]
source = "microphone"

[engine]
# The demo engine knows ten digits and six words. docs/jetson.md tells how to build another.
path = "$engine"
END
}

has_gpu() { [ -e /dev/nvmap ] || [ -e /dev/nvidiactl ]; }

install_units() {
    local each
    if [ "$mode" = system ]; then
        put "$here/sysusers.d/duplex-asr.conf" /etc/sysusers.d/duplex-asr.conf
        put "$here/tmpfiles.d/duplex-asr.conf" /etc/tmpfiles.d/duplex-asr.conf
        run systemd-sysusers /etc/sysusers.d/duplex-asr.conf
        run systemd-tmpfiles --create /etc/tmpfiles.d/duplex-asr.conf
    fi
    for each in "${units[@]}"; do
        put "$unit_source/$each" "$unit_dir/$each"
    done
    if [ "$mode" = system ] && { [ $gpu = yes ] || { [ $gpu = auto ] && has_gpu; }; }; then
        put "$here/drop-ins/gpu.conf" "$drop_in_dir/gpu.conf"
    elif [ $gpu = no ]; then
        take_away "$drop_in_dir/gpu.conf"
    fi
    if [ "$used_venv" != "$unit_venv" ]; then
        # systemd takes % for the beginning of a specifier.
        printf '[Service]\nEnvironment="DUPLEX_ASR=%s"\n' "${used_venv//%/%%}/bin/duplex-asr" |
            write "$drop_in_dir/environment.conf"
    else
        take_away_if_there "$drop_in_dir/environment.conf"
    fi
    run "${systemctl[@]}" daemon-reload
}

take_away_if_there() { if [ -e "$1" ]; then take_away "$1"; fi; }

# So that `duplex-asr doctor` is found without its folder.
link_program() {
    if [ -e "$program" ] && [ ! -L "$program" ]; then
        said unchanged "$program, which is not ours"
        return
    fi
    run mkdir -p "${program%/*}"
    run ln -sfn "$used_venv/bin/duplex-asr" "$program"
    [ "$dry_run" = yes ] || said linked "$program"
}

print_next() {
    cat <<END

Next:
  $used_venv/bin/duplex-asr check-config $config
  ${systemctl[*]} enable --now duplex-asr.service
END
    if [ "$mode" = system ]; then
        cat <<END
  usermod -aG duplex-asr-listeners NAME     # who may read what is said
  usermod -aG duplex-asr-controllers NAME   # who may make it speak
  duplex-asr listens in /run/duplex-asr; with the sockets alone it starts on the first connection:
  systemctl enable --now duplex-asr-control.socket duplex-asr-events.socket
END
    else
        echo "  loginctl enable-linger    # starts it at boot, before you log in"
    fi
}

# --- uninstall ----------------------------------------------------------------------------------

# What this script has put there, and the folders if nothing else is in them: engines that somebody
# has built beside the demo engine stay.
take_program_away() {
    local each folders
    for each in bin include lib64 lib share pyvenv.cfg .gitignore; do # lib64 is a link to lib
        take_away "$own_venv/$each"
    done
    take_away "$share/engines/demo"
    if [ -L "$program" ]; then run rm -f "$program"; fi # it points to nothing now
    folders=("$share/engines" "$share")
    if [ "$own_venv" != "$share" ]; then folders=("$own_venv" "${folders[@]}"); fi
    for each in "${folders[@]}"; do
        if [ -d "$each" ] || [ "$dry_run" = yes ]; then run rmdir --ignore-fail-on-non-empty "$each"; fi
    done
    if [ -d "$share" ] && [ "$dry_run" = no ]; then said left "$share, with what others have put there"; fi
}

uninstall() {
    local each
    if [ -e "$unit_dir/duplex-asr.service" ] || [ "$dry_run" = yes ]; then
        run "${systemctl[@]}" disable --now "${units[@]}"
    fi
    for each in "${units[@]}"; do take_away "$unit_dir/$each"; done
    take_away "$drop_in_dir"
    take_program_away
    if [ "$mode" = system ]; then
        take_away /etc/sysusers.d/duplex-asr.conf /etc/tmpfiles.d/duplex-asr.conf /run/duplex-asr
    fi
    run "${systemctl[@]}" daemon-reload
    echo
    echo "Left as they are, if they were made: $config_dir"
    if [ "$mode" = system ]; then
        echo "  and /var/lib/duplex-asr, with the user and the groups. To remove them, too:"
        echo "  rm -r $config_dir /var/lib/duplex-asr; userdel duplex-asr"
        echo "  groupdel duplex-asr-listeners; groupdel duplex-asr-controllers"
    fi
}

main() {
    parse_options "$@"
    [ "$mode" = system ] || [ -n "${HOME:-}" ] || fail "HOME is not set: where is this user's configuration?"
    choose_places
    if [ "$mode" = system ] && [ "$(id -u)" != 0 ] && [ "$dry_run" = no ]; then
        fail "a service of the whole machine needs root: sudo systemd/install.sh, or see --user"
    fi
    if [ "$mode" = user ] && [ "$(id -u)" = 0 ] && [ "$dry_run" = no ]; then
        fail "--user is for the user whose sound it is, and this is root"
    fi
    if [ $action = uninstall ]; then
        uninstall
        exit 0
    fi
    if [ "$mode" = system ]; then umask 022; fi # the service is another user
    check_machine
    make_environment
    link_program
    make_config
    install_units
    print_next
}

main "$@"
