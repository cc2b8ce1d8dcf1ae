#!/usr/bin/env bash
# Runs inside the container that run.sh boots, as a service of its own: installs, then proves one promise
# after the other. A proof is a function; what it prints last is shown beside its name.
set -uo pipefail

duplex=/opt/duplex-asr/bin/duplex-asr
events=/run/duplex-asr/events.sock
control=/run/duplex-asr/control.sock
config=/etc/duplex-asr/config.toml
unit="duplex-asr.service"
failures=0

prove() {
    local name=$1 said status=0 begun=$SECONDS
    shift
    said=$("$@" 2>>/results/errors) || status=$?
    case $status in
        0) printf 'ok       %s%s\n' "$name" "${said:+: $said}" ;;
        77) printf 'skipped  %s: %s\n' "$name" "$said" ;;
        *)
            printf 'FAILED   %s: %s\n' "$name" "${said:-status $status, see errors}"
            failures=$((failures + 1)) ;;
    esac
    echo "--- $name: $((SECONDS - begun)) s" >>/results/errors
}

fail() { echo "$1"; exit 1; }

# hear USER SOCKET WORDS [REQUEST]
hear() { runuser -u "$1" -- python3 /repository/tests/systemd/hear.py "${@:2}"; }

# Everything that the journal gets from now on, for `told`.
mark() { journalctl --sync; cursor=$(journalctl -n 0 --show-cursor | sed -n 's/^-- cursor: //p'); }

# told WORDS: waits until the journal of the service, or what systemd says of it, holds the words.
told() {
    grep -m 1 -F "$1" >/tmp/told < <(timeout 60 journalctl --after-cursor="$cursor" -f -n all -o cat \
        UNIT=$unit + _SYSTEMD_UNIT=$unit) || fail "the journal does not say: $1"
}

property() { systemctl show -P "$1" "$unit"; }

drop_in() {
    mkdir -p "/run/systemd/system/$unit.d"
    cat >"/run/systemd/system/$unit.d/$1.conf"
    systemctl daemon-reload
}

remove_drop_ins() {
    rm -rf "/run/systemd/system/$unit.d"
    systemctl daemon-reload
}

# write_config [MORE]: a recording instead of a microphone, which this container does not have.
write_config() {
    printf '[audio]\nsource = "file:/opt/duplex-asr/demo.flac"\n[engine]\npath = "%s"\n%s\n' \
        /opt/duplex-asr/engines/demo "${1:-}" >$config
}

stop_all() { systemctl stop "$unit" duplex-asr-events.socket duplex-asr-control.socket; }

# shellcheck source=/dev/null
. /repository/tests/systemd/user_proofs.sh

# --- the proofs, in this order ------------------------------------------------------------------

installs() {
    /repository/systemd/install.sh --package "$WHEEL" >/results/install 2>&1 || fail "see install"
    cp /repository/engines/demo/demo.flac /opt/duplex-asr
    systemctl is-active "$unit" duplex-asr-events.socket | grep -qx active && fail "it is running already"
    "$duplex" check-config $config >/dev/null || fail "the configuration is wrong"
    "$duplex" --version
}

installs_twice() {
    local again
    again=$(/repository/systemd/install.sh --package "$WHEEL") || fail "the second time failed"
    ! grep -E '^(made|removed) ' <<<"$again" || exit 1
    [ "$(grep -c '^installed' <<<"$again")" = 1 ] || fail "not only the package was installed again"
}

verifies() {
    local said
    said=$(systemd-analyze verify /etc/systemd/system/duplex-asr* 2>&1) || fail "$said"
    [ -z "$said" ] || fail "$said"
    systemd-analyze security --no-pager $unit | tail -1
}

makes_people() {
    local name
    for name in listener controller both stranger; do useradd --create-home "$name" || exit 1; done
    usermod -aG duplex-asr-listeners listener
    usermod -aG duplex-asr-controllers controller
    usermod -aG duplex-asr-listeners,duplex-asr-controllers both
    stat -c '%a %U' /run/duplex-asr
}

starts_on_the_first_connection() {
    write_config
    systemctl start duplex-asr-events.socket duplex-asr-control.socket
    [ "$(property ActiveState)" = inactive ] || fail "it runs before anybody has connected"
    hear listener $events '"listening"' || exit 1
    systemctl start "$unit"  # it may listen while its voice still loads; waits until it is ready
    [ "$(property ActiveState)" = active ] || fail "it is $(property ActiveState)"
}

gives_transcripts_on_both_sockets() {
    local other
    hear both $control '"text": "three one four one five"' subscribe >/tmp/control &
    other=$!
    hear listener $events '"text": "three one four one five"' || exit 1
    wait "$other" || fail "control.sock: $(cat /tmp/control)"
}

says_what_it_does() {
    [[ "$(property StatusText)" = "Listening to file:"* ]] || [[ "$(property StatusText)" = *ended ]] ||
        fail "its status is '$(property StatusText)'"
    property StatusText
}

is_ready_only_when_it_listens() {
    systemctl stop "$unit"
    systemctl start "$unit" || exit 1
    hear listener $events '"state": "listening"' >/dev/null || fail "it does not listen"
    property StatusText
}

has_time_to_load() {
    mkdir -p /opt/slow
    cat >/opt/slow/sitecustomize.py <<'END'
import time
import duplex_asr.asr.engines as module
load = module.load_engine
module.load_engine = lambda *given: (time.sleep(6), load(*given))[1]
END
    drop_in slow <<<$'[Service]\nTimeoutStartSec=3\nEnvironment=PYTHONPATH=/opt/slow'
    local begun=$SECONDS
    systemctl restart "$unit" || fail "it was not waited for"
    [ $((SECONDS - begun)) -ge 5 ] || fail "it was ready after $((SECONDS - begun)) s"
    remove_drop_ins
    systemctl restart "$unit"
    echo "6 s, where 3 are given"
}

runs_confined() {
    local pid field
    pid=$(property MainPID)
    for field in 'NoNewPrivs:\s1' 'CapEff:\s0000000000000000' 'CapBnd:\s0000000000000000' 'Seccomp:\s2'; do
        grep -qP "$field" "/proc/$pid/status" || fail "$(grep "^${field%%:*}" "/proc/$pid/status")"
    done
    [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] || fail "it sees the network"
    ! nsenter -t "$pid" -m -- touch /opt/duplex-asr/x 2>/dev/null || fail "it can write to /opt"
    ps -o user= -p "$pid"
}

listens_again_after_kill_9() {
    local pid
    pid=$(property MainPID)
    mark
    kill -9 "$pid"
    local begun=$EPOCHREALTIME
    told "listening to file:"
    local took=$((${EPOCHREALTIME/./} - ${begun/./}))
    [ "$(property MainPID)" != "$pid" ] || fail "it is the same process"
    [ "$took" -lt 5000000 ] || fail "it took $((took / 1000)) ms"
    hear listener $events '"listening"' >/dev/null || fail "nobody listens"
    echo "after $((took / 1000)) ms"
}

starts_ever_later_what_fails() {
    mkdir -p /opt/fail
    cat >/opt/fail/sitecustomize.py <<'END'
import os
import duplex_asr.asr.engines as module
module.load_engine = lambda *given: os._exit(1)
END
    drop_in fail <<<$'[Service]\nEnvironment=PYTHONPATH=/opt/fail'
    mark
    systemctl restart --no-block "$unit"
    told "waiting 1 s"
    told "waiting 2 s"
    told "waiting 4 s"
    local said
    said=$(property StatusText)
    [[ "$said" = Waiting* ]] || fail "its status is '$said'"
    remove_drop_ins
    local begun=$SECONDS
    systemctl restart "$unit" || fail "it does not start"
    [ $((SECONDS - begun)) -lt 4 ] || fail "whoever starts it has to wait, too"
    echo "$said"
}

is_watched() {
    drop_in watchdog <<<$'[Service]\nWatchdogSec=4\nTimeoutAbortSec=2'
    systemctl restart "$unit"
    mark
    kill -STOP "$(property MainPID)"
    told "Watchdog timeout"
    told "listening to file:"
    remove_drop_ins
    echo "stopped with SIGSTOP, ended by the watchdog and started again"
}

watches_the_engine() {
    mkdir -p /opt/hang
    cat >/opt/hang/sitecustomize.py <<'END'
import threading
import duplex_asr.asr.transcriber as module
module.Transcriber.transcribe = lambda self, utterance, **how: threading.Event().wait()
END
    write_config $'[watchdog]\ndecode_budget_ms = 1000'
    drop_in hang <<<$'[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\nEnvironment=PYTHONPATH=/opt/hang'
    mark
    systemctl restart "$unit"
    told "the watchdog is not fed: transcribing an utterance has taken"
    told "Watchdog timeout"
    told "sitecustomize.py"
    remove_drop_ins
    write_config
    told "Scheduled restart job"
    told "listening to file:"
    echo "the journal says which thread hung"
}

does_not_restart_on_a_wrong_configuration() {
    write_config $'[endpointer]\nthreshold = 9'
    mark
    ! systemctl restart "$unit" 2>/dev/null || fail "it started"
    told "endpointer.threshold = 9"
    for _ in 1 2 3; do
        runuser -u listener -- socat -u "UNIX-CONNECT:$events" - >/dev/null 2>&1 || true
        systemctl is-failed "$unit" >/dev/null || told "Failed with result"
    done
    systemctl stop duplex-asr-events.socket duplex-asr-control.socket
    [ "$(property ActiveState)" = failed ] || fail "it is $(property ActiveState)"
    [ "$(property ExecMainStatus)" = 2 ] || fail "its exit status is $(property ExecMainStatus)"
    [ "$(property NRestarts)" = 0 ] || fail "it was restarted $(property NRestarts) times"
    cat /tmp/told
    write_config
    systemctl reset-failed "$unit" duplex-asr-events.socket duplex-asr-control.socket 2>/dev/null
    systemctl start "$unit"
}

is_found_well_by_the_doctor() {
    local said pid
    pid=$(property MainPID)
    said=$("$duplex" doctor --json) || fail "$said"
    for words in "pid $pid, duplex-asr, sockets in /run/duplex-asr: listening" \
        "events.sock (660, group duplex-asr-listeners): root may connect" \
        "control.sock (660, group duplex-asr-controllers): root may connect" \
        "$config is good, the installed service's"; do
        grep -qF "$words" <<<"$said" || fail "it does not say: $words"
    done
    runuser -u stranger -- "$duplex" doctor >/tmp/doctor
    grep -qF "sudo usermod -aG duplex-asr-listeners stranger" /tmp/doctor ||
        fail "it does not tell a stranger which group is missing"
    runuser -u stranger -- "$duplex" doctor | tail -1
}

refuses_strangers() {
    local said
    for socket in $events $control; do
        said=$(hear stranger "$socket" '"' ping) && fail "a stranger is let in at $socket"
        [ "$said" = refused ] || fail "$said"
    done
}

lets_listeners_read_only() {
    hear listener $events '"type": "state"' >/dev/null || fail "a listener is refused"
    [ "$(hear listener $control pong ping)" = refused ] || fail "a listener may give orders"
    ! runuser -u listener -- "$duplex" say hello 2>/dev/null ||
        fail "a listener may speak"
}

lets_controllers_speak_only() {
    runuser -u controller -- "$duplex" say \
        --output /home/controller/hello.wav "hello there" || fail "a controller may not speak"
    [ "$(hear controller $events '"')" = refused ] || fail "a controller may read what is said"
    hear controller $control not-permitted subscribe >/dev/null || fail "it may subscribe"
    echo "$(stat -c %s /home/controller/hello.wav) bytes of speech"
}

keeps_clients_over_a_reload() {
    local pid reader
    write_config
    systemctl restart "$unit"
    pid=$(property MainPID)
    # The last text of the recording reaches a connection that was made before both reloads.
    runuser -u listener -- socat -u "UNIX-CONNECT:$events" OPEN:/home/listener/heard,creat,trunc &
    reader=$!
    mark
    write_config $'[barge_in]\npolicy = "duck"\n[voice]\npitch = 30'
    systemctl reload "$unit"
    told "the configuration was reloaded: changed barge_in.policy; after a restart: voice.pitch"
    write_config $'[barge_in]\npolicy = "shout"'
    systemctl reload "$unit"
    told "the configuration was not reloaded, the old one holds"
    [ "$(property MainPID)" = "$pid" ] || fail "it was restarted"
    [ "$(property ActiveState)" = active ] || fail "it is $(property ActiveState)"
    told "transcribed"
    kill -0 "$reader" || fail "the reader was disconnected"
    write_config
    systemctl stop "$unit"
    wait "$reader"
    grep -q '"type": "transcript"' /home/listener/heard || fail "nothing came after the reloads"
}

leaves_nothing() {
    systemctl start "$unit"
    stop_all
    ! pgrep -u duplex-asr >/dev/null || fail "left: $(pgrep -a -u duplex-asr)"
    [ -z "$(ls -A /run/duplex-asr)" ] || fail "left: $(ls -A /run/duplex-asr)"
    [ -z "$(property ControlGroup)" ] || fail "it has a cgroup"
    [ "$(property Result)" = success ] || fail "it ended with $(property Result)"
}

uninstalls() {
    /repository/systemd/install.sh --uninstall >>/results/install 2>&1 || fail "see install"
    ! compgen -G '/etc/systemd/system/duplex-asr*' || exit 1
    [ -e /opt/duplex-asr/demo.flac ] || fail "a file of others is gone"
    rm /opt/duplex-asr/demo.flac
    rmdir /opt/duplex-asr || fail "more than the file of others was left"
    for left in /run/duplex-asr /usr/local/bin/duplex-asr; do
        if [ -e $left ] || [ -L $left ]; then fail "$left was left"; fi
    done
    [ -e $config ] || fail "the configuration is gone"
}

prove "install.sh installs, and starts nothing" installs
prove "install.sh a second time changes nothing but the package" installs_twice
prove "the installed units are clean" verifies
prove "users and groups are made" makes_people
prove "the first connection starts it" starts_on_the_first_connection
prove "transcripts of a file come on both sockets" gives_transcripts_on_both_sockets
prove "its status is in words" says_what_it_does
prove "start waits until it is ready" is_ready_only_when_it_listens
prove "the doctor finds it well, and tells a stranger what is missing" is_found_well_by_the_doctor
prove "a cold engine gets the time that it asks for" has_time_to_load
prove "it runs without privileges, network and a writable system" runs_confined
prove "kill -9: it listens again within 5 s" listens_again_after_kill_9
prove "what fails again and again is started ever later" starts_ever_later_what_fails
prove "the watchdog ends a daemon that does nothing" is_watched
prove "the watchdog ends a daemon whose engine hangs" watches_the_engine
prove "a wrong configuration fails, once, with the reason" does_not_restart_on_a_wrong_configuration
prove "a stranger is refused" refuses_strangers
prove "a listener reads and cannot speak" lets_listeners_read_only
prove "a controller speaks and cannot read" lets_controllers_speak_only
prove "a reload keeps clients, a bad one the old configuration" keeps_clients_over_a_reload
prove "stop leaves no process and no file" leaves_nothing
prove "a user has a manager without logging in" makes_a_user_with_sound
prove "a user's own service hears" runs_for_a_user
prove "it outlives the sound server, without a restart" outlives_the_sound_server
prove "a user's uninstall leaves nothing but the configuration" uninstalls_for_a_user
prove "uninstall leaves the configuration only" uninstalls
journalctl -o short-precise >/results/journal 2>/dev/null
[ "$failures" = 0 ]
