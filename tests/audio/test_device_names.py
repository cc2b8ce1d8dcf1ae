import pytest

from duplex_asr.audio.device_names import (
    Device,
    find_input_device,
    find_output_device,
    stable_names,
)
from duplex_asr.errors import AudioError


def device(index, name, inputs=1, is_default=False):
    return Device(index, name, inputs, 2, 48_000, is_default, False)


DEVICES = [
    device(0, "HDA Intel PCH: ALC257 Analog", inputs=2),
    device(1, "HDMI 0", inputs=0),
    device(2, "USB Camera: Audio"),
    device(3, "USB Camera: Audio Pro", is_default=True),
    device(4, "2"),
]


def test_card_numbers_are_no_part_of_a_name():
    assert stable_names(["USB Mic: Audio (hw:2,0)", "default", "Headset: - (hw:0,7)"]) == [
        "USB Mic: Audio",
        "default",
        "Headset",
    ]


def test_equal_names_are_numbered():
    names = ["Mic: A (hw:1,0)", "Mic: A (hw:2,0)", "Mic: B (hw:3,0)"]
    assert stable_names(names) == ["Mic: A #1", "Mic: A #2", "Mic: B"]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("", 3),  # the default input
        ("0", 0),
        ("USB Camera: Audio", 2),  # exact, although it is a part of another name
        ("audio pro", 3),
        ("alc257", 0),
    ],
)
def test_devices_are_found_by_name_index_or_part_of_a_name(text, index):
    assert find_input_device(text, DEVICES).index == index


def test_the_first_input_is_taken_where_there_is_no_default():
    assert find_input_device("", DEVICES[:3]).index == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("usb", "fits several devices"),
        ("2", "fits several devices"),  # an index and a name
        ("Jabra", "does not exist"),
        ("HDMI 0", "does not exist"),  # only plays
        ("9", "does not exist"),
    ],
)
def test_what_is_not_found_or_ambiguous_is_answered_with_the_choice(text, problem):
    with pytest.raises(AudioError, match=f"{problem}: choose one of 0: 'HDA .* 2: 'USB Camera"):
        find_input_device(text, DEVICES)


def test_without_any_input_the_error_says_what_to_do():
    with pytest.raises(AudioError, match="no microphone found: plug one in"):
        find_input_device("", [DEVICES[1]])


def test_what_plays_is_found_among_the_outputs_alone():
    speakers = [
        Device(0, "USB Mic", 1, 0, 48_000, True, False),
        Device(1, "HDMI 0", 0, 8, 48_000, False, False),
        Device(2, "Headset", 1, 2, 48_000, False, True),
    ]
    assert find_output_device("", speakers).index == 2
    assert find_output_device("hdmi", speakers).index == 1
    with pytest.raises(AudioError, match="speaker 'USB Mic' does not exist: choose one of 1: 'HD"):
        find_output_device("USB Mic", speakers)
    with pytest.raises(AudioError, match="no speaker found: plug one in"):
        find_output_device("", speakers[:1])
