#!/usr/bin/env bash
# The proofs of a user's own service, for proofs.sh, which brings `fail` and the names.
# shellcheck disable=SC2154

# A user whose PulseAudio has a room, in which recordings are played, and a microphone that hears it.
makes_a_user_with_sound() {
    useradd --create-home --uid 2000 dora || exit 1
    mkdir -p /home/dora/.config/{pulse,duplex-asr}
    cat >/home/dora/.config/pulse/default.pa <<'END'
load-module module-native-protocol-unix
load-module module-null-sink sink_name=room rate=48000 channels=1 norewinds=1
load-module module-remap-source source_name=microphone master=room.monitor
set-default-source microphone
END
    printf 'pcm.!default { type pulse }\nctl.!default { type pulse }\n' >/home/dora/.asoundrc
    printf '[engine]\npath = "/opt/duplex-asr/engines/demo"\n' >/home/dora/.config/duplex-asr/config.toml
    chown -R dora: /home/dora
    loginctl enable-linger dora || { echo "no lingering in this container"; exit 77; }
    systemctl start user@2000.service || { echo "no manager for users in this container"; exit 77; }
    if has_sound; then
        as_dora systemctl --user start pulseaudio.service || exit 1
        as_dora pactl info | sed -n 's/^Default Source: //p'
    else
        cp "$config" /home/dora/.config/duplex-asr/config.toml
        echo "without sound, it hears a file below"
    fi
}

has_sound() { command -v pulseaudio >/dev/null; }

as_dora() { runuser -u dora -- env XDG_RUNTIME_DIR=/run/user/2000 HOME=/home/dora "$@"; }

dora_hears() { as_dora python3 /repository/tests/systemd/hear.py /run/user/2000/duplex-asr/events.sock "$1"; }

runs_for_a_user() {
    local playing=
    as_dora /repository/systemd/install.sh --user --venv /opt/duplex-asr >/results/install-user 2>&1 ||
        fail "see install-user"
    as_dora systemctl --user start duplex-asr.service || fail "it does not start"
    if has_sound; then
        dora_hears '"listening"' >/dev/null || exit 1
        as_dora paplay --device=room /opt/duplex-asr/demo.flac &
        playing=$!
    fi
    dora_hears '"text": "three one four one five"' || exit 1
    if [ -n "$playing" ]; then kill "$playing"; fi
}

outlives_the_sound_server() {
    local pid
    has_sound || { echo "run without sound"; exit 77; }
    pid=$(as_dora systemctl --user show -P MainPID duplex-asr.service)
    dora_hears '"state": "lost"' >/tmp/lost &
    local lost=$!
    as_dora systemctl --user kill --signal=KILL pulseaudio.service
    wait "$lost" || fail "$(cat /tmp/lost)"
    as_dora systemctl --user start pulseaudio.service
    dora_hears '"state": "listening"' || exit 1
    [ "$(as_dora systemctl --user show -P MainPID duplex-asr.service)" = "$pid" ] || fail "it was restarted"
}

uninstalls_for_a_user() {
    as_dora /repository/systemd/install.sh --user --uninstall >>/results/install-user 2>&1
    ! ls -d /run/user/2000/duplex-asr/* /home/dora/.config/systemd/user/duplex-asr* 2>/dev/null || exit 1
}
