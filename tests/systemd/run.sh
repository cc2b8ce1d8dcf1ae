#!/usr/bin/env bash
# Boots a Debian or an Ubuntu with systemd in a container, installs duplex-asr with systemd/install.sh and
# proves on it what the units promise. The proofs themselves are in proofs.sh, which runs inside.
set -euo pipefail

repository=$(cd "$(dirname "$0")/../.." && pwd)
cache=${DUPLEX_ASR_SYSTEMD_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/duplex-asr-systemd}
limit_s=600
suite=bookworm
packages=systemd,systemd-sysv,dbus,libpam-systemd,python3,python3-venv,libportaudio2,socat,procps
sound=-sound  # also the name of the system that has it

usage() {
    cat <<END
usage: tests/systemd/run.sh [--suite NAME] [--no-sound] [--help]

Needs root, debootstrap and systemd-nspawn (Debian: debootstrap systemd-container). The system and the
wheels are kept in \$DUPLEX_ASR_SYSTEMD_CACHE [$cache];
what a run changes is thrown away. Packages come from where apt and pip of this machine get theirs.
--suite is bookworm (Debian 12, systemd 252), trixie (Debian 13, systemd 257) or jammy (Ubuntu 22.04,
which JetPack 6 is, systemd 249).
With --no-sound the system is smaller, and the service of a user hears a recording instead of that
user's PulseAudio.
Prints one line per proof: ok, FAILED or skipped, with the reason.

exit codes: 0 all proven, 1 a proof failed, 2 wrong option, 77 skipped as a whole, with the reason
END
}

skip() { echo "skipped  all proofs: $1"; exit 77; }

check_machine() {
    [ "$(id -u)" = 0 ] || skip "booting a container needs root"
    command -v debootstrap >/dev/null || skip "debootstrap is not installed"
    command -v systemd-nspawn >/dev/null || skip "systemd-nspawn is not installed (systemd-container)"
    unshare --mount --pid --fork true 2>/dev/null || skip "this machine allows no containers"
    for python in "python$suite_python" python3 ''; do
        if [ -z "$python" ]; then skip "no Python with pip, to get wheels with"; fi
        if "$python" -m pip --version >/dev/null 2>&1; then break; fi
    done
}

# The Python of a suite, and where its packages come from if apt of this machine does not say.
choose_suite() {
    mirror=http://deb.debian.org/debian
    components=main
    more_wheels=()
    case $suite in
        bookworm) suite_python=3.11 ;;
        trixie) suite_python=3.13 ;;
        jammy)
            suite_python=3.10
            more_wheels=('tomli>=2.0') # which pip leaves out where it runs on a newer Python itself
            mirror=http://archive.ubuntu.com/ubuntu
            components=main,universe ;;
        *) echo "tests/systemd/run.sh: unknown suite $suite, see --help" >&2; exit 2 ;;
    esac
}

make_base() {
    base=$cache/$suite$sound
    [ -z "$sound" ] || packages+=,pulseaudio,pulseaudio-utils,libasound2-plugins
    [ "$(cat "$base/.made-of" 2>/dev/null)" != "$packages" ] || return 0
    echo "making a $suite in $base (once) ..."
    local known proxy
    # shellcheck disable=SC2016 # apt-get replaces it
    known=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $suite" |
        head -1) || true
    proxy=$(apt-config dump --format '%v' Acquire::http::Proxy) || true
    rm -rf --one-file-system "$base"
    http_proxy=${proxy:-${http_proxy:-}} debootstrap --variant=minbase --include="$packages" \
        --components="$components" "$suite" "$base" "${known:-$mirror}" >"$cache/debootstrap.log" 2>&1 ||
        skip "debootstrap failed, see $cache/debootstrap.log"
    echo "$packages" >"$base/.made-of"
}

# All wheels that the package needs, for the container's Python, and its own.
make_wheels() {
    local needs stamp
    needs=$cache/wheels-$suite_python
    stamp=$needs/.made-of-$(sha256sum "$repository/setup.cfg" | cut -c 1-16)
    mkdir -p "$work/wheel"
    in_copy "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps \
        --wheel-dir "$work/wheel" . 2>>"$work/pip.log" ||
        without_wheels
    if [ ! -e "$stamp" ]; then
        echo "getting wheels (once for each setup.cfg) ..."
        rm -rf "$needs"
        "$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: \
            --python-version "$suite_python" --implementation cp --dest "$needs" \
            "$work"/wheel/*.whl "${more_wheels[@]}" 2>>"$work/pip.log" || without_wheels
        rm -f "$needs"/duplex_asr-*
        touch "$stamp"
    fi
}

without_wheels() {
    tail -n 3 "$work/pip.log"
    skip "pip gets no wheels here"
}

# pip builds in the folder that it is given, and a checkout is not a place for that.
in_copy() {
    mkdir -p "$work/source"
    cp -r "$repository"/{duplex_asr,setup.cfg,pyproject.toml,README.md,LICENSE} "$work/source"
    (cd "$work/source" && "$@")
}

# The base below and this run's changes above it.
make_root() {
    mkdir -p "$work"/{upper,overlay,root,results}
    mount -t overlay overlay "$work/root" \
        -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/overlay" 2>/dev/null ||
        skip "this kernel mounts no overlay"
    cat >"$work/root/etc/systemd/system/proofs.service" <<END
[Unit]
After=multi-user.target
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
Environment=PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
Environment=WHEEL=/wheel/$(cd "$work/wheel" && echo duplex_asr-*.whl)
ExecStart=/repository/tests/systemd/proofs.sh
StandardOutput=append:/results/proofs
StandardError=append:/results/errors
[Install]
WantedBy=default.target
END
    mkdir -p "$work/root/etc/systemd/system/graphical.target.wants"
    ln -sf ../proofs.service "$work/root/etc/systemd/system/graphical.target.wants/proofs.service"
    : >"$work/results/proofs"
}

clean_up() {
    local status=$?
    trap - EXIT
    if mountpoint -q "$work/root"; then umount "$work/root"; fi
    if [ "$status" = 0 ] || [ "$status" = 77 ]; then
        rm -rf --one-file-system "$work"
    else
        echo "logs: $work/results"
    fi
    exit "$status"
}

boot() {
    local container status=0
    timeout --kill-after=20 "$limit_s" systemd-nspawn --quiet --directory="$work/root" --boot \
        --register=no --keep-unit --private-network \
        --bind-ro="$repository:/repository" --bind="$work/results:/results" \
        --bind-ro="$cache/wheels-$suite_python:/wheels" --bind-ro="$work/wheel:/wheel" \
        </dev/null >"$work/results/boot" 2>&1 &
    container=$!
    tail -n +1 -f --pid="$container" "$work/results/proofs" 2>/dev/null
    wait "$container" || status=$?
    if ! [ -s "$work/results/proofs" ]; then
        tail -5 "$work/results/boot"
        skip "systemd did not boot in the container (status $status)"
    fi
    [ "$status" != 124 ] || echo "FAILED   the proofs did not end within $limit_s s"
    return "$status"
}

main() {
    while [ $# -gt 0 ]; do
        case $1 in
            --no-sound) sound= ;;
            --suite)
                [ $# -ge 2 ] || { echo "tests/systemd/run.sh: --suite needs a name, see --help" >&2; exit 2; }
                suite=$2
                shift ;;
            --help | -h) usage; exit 0 ;;
            *) echo "tests/systemd/run.sh: unknown option $1, see --help" >&2; exit 2 ;;
        esac
        shift
    done
    choose_suite
    check_machine
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    work=$(mktemp -d "$cache/run.XXXXXX")
    trap clean_up EXIT
    make_base
    make_wheels
    make_root
    boot 9>&-
}

main "$@"
