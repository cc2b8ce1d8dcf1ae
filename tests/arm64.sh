#!/usr/bin/env bash
# Makes an arm64 Debian or Ubuntu under qemu, installs duplex-asr with the oldest versions that a
# Jetson has, and runs the demo and the tests that need neither a GPU nor a sound card.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
script=$repository/tests/arm64.sh
pins=$repository/tests/oldest-pins.txt

suite=bookworm
mirror=
work_dir=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/duplex-asr-arm64
python=python3
commit=HEAD
test_timeout_s=1200
dry_run=no
redo=()
only=()

# A Cortex-A76 has what the Orin's Cortex-A78AE has (dot products, half floats) and not more, so an
# instruction that a Jetson lacks is caught here; qemu 7.2 has no A78AE.
export QEMU_CPU=${QEMU_CPU:-cortex-a76}

steps=(wheels-3.10 wheels-3.12 wheels root install versions build demo
       tests-asr tests-hearing tests-audio tests-service tests-top)

usage() {
    cat <<END
usage: tests/arm64.sh [options]

Needs root, debootstrap, qemu-user-static and a kernel with binfmt_misc; the wheels... steps need none
of them. The first run takes about half an hour on two cores; a later one goes on where the last one
ended, and a new commit repeats all but the root. Ends with a table of steps and seconds.

  --suite NAME    bookworm (Python 3.11, default), trixie (3.13), jammy (3.10, as JetPack 6) or
                  noble (3.12, as JetPack 7); the Ubuntus need their keyring and ports.ubuntu.com
  --mirror URL    package mirror of the suite
  --work-dir DIR  wheels, root and results [$work_dir]
  --python FILE   Python of this machine, whose pip downloads the wheels [$python]
  --commit REV    what is tested; changes that are not committed are not [$commit]
  --timeout S     limit of one test under emulation [$test_timeout_s]
  --only STEP     run this step alone; may be repeated
  --redo STEP     run this step although it passed before; may be repeated
  --dry-run       print every command and run none; needs neither root nor the tools
  --list          list the steps
  --clean         remove what the script left in the work folder, and end
  --help          this text

exit codes: 0 all passed, 1 a step failed, 2 wrong option or not root, 77 skipped, with the reason
END
}

fail() { echo "tests/arm64.sh: $1" >&2; exit "${2:-2}"; }
skip() { echo "skipped: $1"; exit 77; }

# contains WORD WORDS...
contains() {
    local each
    for each in "${@:2}"; do
        [ "$each" != "$1" ] || return 0
    done
    return 1
}

parse_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h) usage; exit 0 ;;
            --list) printf '%s\n' "${steps[@]}"; exit 0 ;;
            --dry-run) dry_run=yes ;;
            --clean) clean=yes ;;
            --suite | --mirror | --work-dir | --python | --commit | --timeout | --only | --redo)
                [ $# -ge 2 ] || fail "$1 needs a value, see --help"
                case $1 in
                    --suite) suite=$2 ;;
                    --mirror) mirror=$2 ;;
                    --work-dir) work_dir=$2 ;;
                    --python) python=$2 ;;
                    --commit) commit=$2 ;;
                    --timeout) test_timeout_s=$2 ;;
                    --only) only+=("$2") ;;
                    --redo) redo+=("$2") ;;
                esac
                case $1 in
                    --only | --redo) contains "$2" "${steps[@]}" || fail "$1 $2: no such step, see --list" ;;
                esac
                shift ;;
            *) fail "unknown option $1, see --help" ;;
        esac
        shift
    done
}

# Suite -> its Python, its glibc (as the second part of 2.N) and its mirror.
describe_suite() {
    local debian=http://deb.debian.org/debian ubuntu=http://ports.ubuntu.com/ubuntu-ports
    case $suite in
        bookworm) suite_python=3.11 suite_glibc=36 default_mirror=$debian components=main ;;
        trixie) suite_python=3.13 suite_glibc=41 default_mirror=$debian components=main ;;
        jammy) suite_python=3.10 suite_glibc=35 default_mirror=$ubuntu components=main,universe ;;
        noble) suite_python=3.12 suite_glibc=39 default_mirror=$ubuntu components=main,universe ;;
        *) fail "--suite $suite: choose bookworm, trixie, jammy or noble" ;;
    esac
    mirror=${mirror:-$default_mirror}
}

run() {
    if [ "$dry_run" = yes ]; then
        printf '+ '; printf '%q ' "$@"; echo
    else
        "$@"
    fi
}

# --- what must be there -------------------------------------------------------------------------

check_sources() {
    in_git rev-parse --quiet --verify "$commit^{tree}" >/dev/null 2>&1 ||
        fail "--commit $commit: no such commit in $repository"
    "$python" -m pip --version >/dev/null 2>&1 ||
        skip "$python has no pip to download wheels with: name another with --python"
}

check_machine() {
    [ "$(id -u)" = 0 ] || fail "making an arm64 system needs root: sudo tests/arm64.sh"
    if [ "$(uname -m)" != aarch64 ]; then
        qemu=$(command -v qemu-aarch64-static) ||
            skip "qemu-aarch64-static is not installed: apt install qemu-user-static"
    fi
    command -v debootstrap >/dev/null || skip "debootstrap is not installed: apt install debootstrap"
    command -v unshare >/dev/null || skip "unshare is not installed: apt install util-linux"
}

# All mounts are made in a mount namespace of our own: the kernel removes them with the last process,
# even after kill -9.
enter_mount_namespace() {
    [ -z "${DUPLEX_ASR_ARM64_INSIDE:-}" ] || return 0
    unshare --mount --propagation private true 2>/dev/null ||
        skip "this system allows no mount namespace, not even to root (a container without privileges?)"
    DUPLEX_ASR_ARM64_INSIDE=yes exec unshare --mount --propagation private "$script" "$@"
}

binfmt=/proc/sys/fs/binfmt_misc
binfmt_name=duplex-asr-arm64
registered=no

# The kernel starts arm64 programs through qemu. F opens qemu now, so that it need not be in the root.
register_qemu() {
    local magic mask each
    [ "$(uname -m)" != aarch64 ] || return 0
    [ -e $binfmt/register ] || mount -t binfmt_misc none $binfmt 2>/dev/null ||
        skip "this kernel has no binfmt_misc, so it cannot start arm64 programs: modprobe binfmt_misc"
    for each in "$binfmt"/*; do
        if grep -qs '^interpreter .*aarch64' "$each" && grep -qs '^flags:.*F' "$each"; then
            return 0  # the distribution's own entry
        fi
    done
    [ ! -e $binfmt/$binfmt_name ] || echo -1 >$binfmt/$binfmt_name
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf ':%s:M::%s:%s:%s:F' "$binfmt_name" "$magic" "$mask" "$qemu" 2>/dev/null >$binfmt/register ||
        skip "the kernel refused to register qemu for arm64 programs in $binfmt/register"
    registered=yes
}

clean_up() {
    local status=$?
    trap - EXIT
    if [ "$registered" = yes ] && [ -e $binfmt/$binfmt_name ]; then
        echo -1 >$binfmt/$binfmt_name
    fi
    if [ -n "${DUPLEX_ASR_ARM64_INSIDE:-}" ]; then unmount_root; fi
    exit "$status"
}

mount_root() {
    [ -x "$root/usr/bin/env" ] || return 0
    mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
    # onnxruntime 1.19 for arm64 aborts without /sys/devices/system/cpu.
    mountpoint -q "$root/sys" || mount -t sysfs -o ro sysfs "$root/sys"
    mountpoint -q "$root/dev" || mount --bind /dev "$root/dev"
    mountpoint -q "$root/dev/pts" || mount --bind /dev/pts "$root/dev/pts"
    mountpoint -q "$root/dev/shm" || mount -t tmpfs tmpfs "$root/dev/shm"
}

unmount_root() {
    local each
    for each in dev/pts dev/shm dev sys proc; do
        if mountpoint -q "$root/$each"; then umount "$root/$each" 2>/dev/null || true; fi
    done
}

in_root() {
    run chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PYTHONUNBUFFERED=1 \
        QEMU_CPU="$QEMU_CPU" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

in_git() { git -c safe.directory="$repository" -C "$repository" "$@"; }

# --- steps --------------------------------------------------------------------------------------

# Requirements of the package (setup.cfg) and of its tests, one a line.
requirements() {
    "$python" - "$repository/setup.cfg" <<'END'
import configparser, sys
config = configparser.ConfigParser()
config.read(sys.argv[1])
extras = config["options.extras_require"]
lines = config["options"]["install_requires"] + extras["build"] + extras["dev"]
skipped = ("duplex-asr", "mypy", "ruff", "#")  # nothing is linted under emulation
for line in lines.splitlines():
    name = line.split(";")[0].strip()  # markers would be judged by this machine's Python
    if name and not name.startswith(skipped):
        print(name)
END
}

# download_wheels PYTHON GLIBC: every dependency must have a wheel for this Python and arm64.
download_wheels() {
    local version=$1 glibc=$2 platforms=() minor
    for minor in $(seq "$glibc" -1 17); do
        platforms+=(--platform "manylinux_2_${minor}_aarch64")
    done
    mapfile -t wanted < <(requirements)
    [ "$version" != 3.10 ] || wanted+=(exceptiongroup)  # of pytest, for this Python alone
    run "$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: \
        --python-version "$version" --implementation cp --abi "cp${version/./}" --abi abi3 --abi none \
        "${platforms[@]}" --platform manylinux2014_aarch64 --platform linux_aarch64 --platform any \
        --constraint "$pins" --dest "$work_dir/wheels-$version" "${wanted[@]}" pip setuptools wheel
    [ "$dry_run" = yes ] || ls "$work_dir/wheels-$version"
}

make_root() {
    if [ -e "$root/.made" ]; then
        echo "$root is there"
        return
    fi
    run rm -rf --one-file-system "$root"
    run debootstrap --arch=arm64 --variant=minbase --components="$components" \
        --include=python3,python3-venv,libportaudio2,ca-certificates,socat,procps \
        "$suite" "$root" "$mirror"
    run touch "$root/.made"
}

install_package() {
    run rm -rf "$root/root/repo" "$root/root/wheels"
    run mkdir -p "$root/root/repo"
    if [ "$dry_run" = yes ]; then
        echo "+ git archive $commit | tar -C $root/root/repo -xf -"
    else
        in_git archive "$commit" | tar -C "$root/root/repo" -xf -
    fi
    run cp -r "$work_dir/wheels-$suite_python" "$root/root/wheels"
    [ -x "$root/root/venv/bin/python" ] || in_root python3 -m venv --without-pip /root/venv
    # pip is started from its own wheel: unpacking the suite's older one would cost a minute here.
    in_root /root/venv/bin/python "/root/wheels/$(cd "$work_dir/wheels-$suite_python" 2>/dev/null &&
        echo pip-*.whl)/pip" install -q --no-index --find-links /root/wheels pip setuptools wheel
    in_root /root/venv/bin/python -m pip install -q --no-index --find-links /root/wheels \
        --no-build-isolation -c /root/repo/tests/oldest-pins.txt \
        -e '/root/repo[build]' pytest pytest-timeout hypothesis
}

show_versions() {
    in_root /root/venv/bin/python -c 'import platform, sys; print(platform.machine(), sys.version)'
    in_root /root/venv/bin/python -m pip list --format=freeze
    in_root /root/venv/bin/duplex-asr --version
}

build_engine() {
    local precision
    for precision in fp32 int8; do
        in_root /root/venv/bin/duplex-asr build /root/repo/engines/demo/checkpoint.pt \
            --precision "$precision" --tokenizer /root/repo/engines/demo/tokenizer.tiktoken \
            --output "/root/engine-$precision" --overwrite
    done
}

run_demo() { in_root bash -c 'cd /root/repo && /root/venv/bin/python engines/demo/demo.py'; }

run_tests() {
    in_root bash -c "cd /root/repo && /root/venv/bin/python -m pytest -q --timeout $test_timeout_s \
        --durations 5 -m 'not reference and not soundcard' $(printf '%q ' "$@")"
}

perform() {
    case $1 in
        # glibc of JetPack 6 (Ubuntu 22.04) and JetPack 7 (24.04)
        wheels-3.10) download_wheels 3.10 35 ;;
        wheels-3.12) download_wheels 3.12 39 ;;
        wheels) download_wheels "$suite_python" "$suite_glibc" ;;
        root) make_root ;;
        install) install_package ;;
        versions) show_versions ;;
        build) build_engine ;;
        demo) run_demo ;;
        tests-asr) run_tests tests/asr ;;
        tests-hearing) run_tests tests/hearing ;;
        tests-audio) run_tests tests/audio ;;
        tests-service) run_tests tests/service ;;
        # Tests of scripts start thousands of programs, and those of the demo engine wait 100 s for what
        # takes longer here (the step `demo` has it); this script's own want a git checkout.
        tests-top) run_tests tests \
            --ignore=tests/{asr,hearing,audio,service,build_scripts,reference} \
            --ignore=tests/test_{arm64_script,demo_engine}.py ;;
    esac
}

# --- running them -------------------------------------------------------------------------------

# A step that passed on the same tree of files is not repeated, the root never unless asked for.
has_passed() {
    local record=$work_dir/steps/$suite/$1 status made_from
    contains "$1" "${redo[@]}" && return 1
    [ -e "$record" ] || return 1
    read -r status _ made_from <"$record"
    [ "$status" = passed ] && { [ "$1" = root ] || [ "$made_from" = "$fingerprint" ]; }
}

table=()

run_step() {
    local name=$1 started status seconds log=$work_dir/logs/$suite/$1.log
    if [ "$dry_run" = yes ]; then
        echo "# $name"
        perform "$name"
        return
    fi
    if has_passed "$name"; then
        read -r _ seconds _ <"$work_dir/steps/$suite/$name"
        table+=("$name $seconds passed-before")
        return
    fi
    printf '\n=== %s\n' "$name"
    if [ "$name" = root ]; then
        unmount_root
        if contains root "${redo[@]}"; then rm -f "$root/.made"; fi
    else
        mount_root
    fi
    started=$SECONDS
    set +e
    (set -e; perform "$name") 2>&1 9>&- | tee "$log"
    status=${PIPESTATUS[0]}
    set -e
    seconds=$((SECONDS - started))
    if [ "$status" = 0 ]; then status=passed; else status=failed; failures=$((failures + 1)); fi
    echo "$status $seconds $fingerprint" >"$work_dir/steps/$suite/$name"
    table+=("$name $seconds $status")
    # Nothing can follow a step that makes what the others use.
    if [ "$status" = failed ] && contains "$name" wheels root install; then is_over=yes; fi
}

print_table() {
    local row step seconds status
    printf '\n%s arm64, Python %s, commit %s, %s, %s of %s\n\n' "$suite" "$suite_python" "$commit" \
        "$("${qemu:-uname}" --version | head -1)" "$(nproc) cores" \
        "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
    printf '| %-14s | %8s | %-13s |\n|%s|%s:|%s|\n' step seconds result \
        ---------------- --------- ---------------
    for row in "${table[@]}"; do
        read -r step seconds status <<<"$row"
        printf '| %-14s | %8s | %-13s |\n' "$step" "$seconds" "$status"
    done
    echo
    echo "logs: $work_dir/logs/$suite"
}

main() {
    clean=no failures=0 is_over=no needs_system=no
    parse_options "$@"
    describe_suite
    root=$work_dir/$suite
    [ "${#only[@]}" = 0 ] || steps=("${only[@]}")
    [[ " ${steps[*]}" != *" "[!w]* ]] || needs_system=yes  # all but wheels...
    if [ "$clean" = yes ]; then
        run rm -rf --one-file-system "$work_dir"/{steps,logs,bookworm,trixie,jammy,noble} \
            "$work_dir"/wheels-3.{10,11,12,13}
        exit 0
    fi
    if [ "$dry_run" = no ]; then
        [ "$needs_system" = no ] || check_machine
        check_sources
        [ "$needs_system" = no ] || enter_mount_namespace "$@"
        trap clean_up EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        mkdir -p "$work_dir/steps/$suite" "$work_dir/logs/$suite"
        exec 9>"$work_dir/lock"
        flock --nonblock 9 || fail "another run works in $work_dir: wait for it, or use --work-dir" 1
        [ "$needs_system" = no ] || register_qemu
        commit=$(in_git rev-parse --short "$commit^{commit}")  # HEAD may move while this runs
        fingerprint=$(in_git rev-parse "$commit^{tree}")
    fi
    for step in "${steps[@]}"; do
        run_step "$step"  # not in a condition, where bash would ignore `set -e` in all of it
        if [ "$is_over" = yes ]; then break; fi
    done
    if [ "$dry_run" = no ]; then print_table; fi
    [ "$failures" = 0 ] || exit 1
}

main "$@"
