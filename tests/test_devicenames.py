"""Devices by name, on the lists that Linux, Windows and macOS give."""

import json

import pytest

from streamsep.devices import names as devicenames
from streamsep.devices.names import find, recall, remember, same_clock, spelling
from streamsep.devices.portaudio import DeviceError, DeviceInfo


def listed(*rows, api_defaults=()):
    """Devices from (name, host API, inputs, outputs); the first is the system's default."""
    return [
        DeviceInfo(i, name, api, ins, outs, 48_000, i == 0, i == 0, i in api_defaults, i in api_defaults)
        for i, (name, api, ins, outs) in enumerate(rows)
    ]


LINUX = listed(
    ("HDA Intel PCH: ALC257 Analog (hw:0,0)", "ALSA", 2, 2),
    ("Scarlett 2i2 USB: Audio (hw:1,0)", "ALSA", 2, 2),
    ("pulse", "ALSA", 32, 32),
    ("default", "ALSA", 32, 32),
    ("HDMI 0", "ALSA", 0, 8),
    api_defaults={3},
)
WITH_JACK = listed(
    *((d.name, d.host_api, d.in_channels, d.out_channels) for d in LINUX),
    ("system", "JACK Audio Connection Kit", 8, 8),
    ("ardour", "JACK Audio Connection Kit", 2, 2),
    api_defaults={3, 5},
)
WINDOWS = listed(
    ("Microphone (USB Audio)", "MME", 2, 0),
    ("Speakers (USB Audio)", "MME", 0, 2),
    ("Microphone (USB Audio)", "Windows WASAPI", 2, 0),
    ("Speakers (USB Audio)", "Windows WASAPI", 0, 2),
    ("Headset (BT)", "Windows WASAPI", 0, 2),
    ("Focusrite USB ASIO", "ASIO", 8, 8),
    api_defaults={0, 1, 2, 4, 5},
)
MAC = listed(
    ("MacBook Pro Microphone", "Core Audio", 1, 0),
    ("MacBook Pro Speakers", "Core Audio", 0, 2),
    ("USB Audio CODEC", "Core Audio", 2, 2),
    ("USB Audio CODEC", "Core Audio", 2, 2),
    ("BlackHole 2ch", "Core Audio", 2, 2),
)


@pytest.mark.parametrize(
    ("devices", "name", "kind", "index"),
    [
        (LINUX, None, "input", 0),
        (LINUX, "default", "input", 0),
        (WITH_JACK, None, "input", 5),
        (LINUX, "2", "output", 2),
        (LINUX, "PULSE", "input", 2),
        (LINUX, "pulse, alsa", "input", 2),
        (LINUX, "scarlett", "input", 1),
        (LINUX, "usb 2i2", "output", 1),
        (LINUX, "ALSA:Scarlett", "input", 1),
        (LINUX, "alsa:", "input", 3),
        (LINUX, "Pulse:", "input", 2),  # by ALSA's plugin, where PortAudio has no better way
        (LINUX, "Scarlett 2i2 USB: Audio (hw:3,0)", "input", 1),  # in another socket today
        (LINUX, "ALSA:Scarlett 2i2 USB: Audio (hw:3,0)", "input", 1),
        (WITH_JACK, "jack:", "output", 5),
        (WITH_JACK, "JACK:ardour", "output", 6),
        (WINDOWS, "wasapi:speakers", "output", 3),
        (WINDOWS, "WASAPI:", "output", 4),
        (WINDOWS, "ASIO:", "input", 5),
        (WINDOWS, "asio:focusrite", "output", 5),
        (MAC, "CoreAudio:blackhole", "input", 4),
        (MAC, "CoreAudio:USB Audio CODEC#2", "input", 3),
    ],
)
def test_what_a_name_means(devices, name, kind, index):
    assert find(name, kind, devices).index == index


@pytest.mark.parametrize(
    ("devices", "name", "kind", "says"),
    [
        ([], None, "input", "there is no input device: expected one of a sound card or server"),
        (LINUX, "nosuch", "input", "input device 'nosuch' is unknown: expected one of 0 'ALSA:HDA Intel"),
        (LINUX, "audio analog usb", "input", "is unknown"),
        (LINUX, "hdmi", "input", "is unknown"),  # it has no inputs
        (LINUX, "99", "output", "is unknown"),
        (LINUX, "(hw:", "input", "means 2 devices: expected one of 0 'ALSA:HDA Intel"),
        (LINUX, "JACK:", "input", "is unknown: its host API is not here or has no device; expected one of ALSA"),
        (LINUX, "WASAPI:speakers", "output", "its host API is not here"),
        (WINDOWS, "speakers (usb audio)", "output", "1 'MME:Speakers (USB Audio)', 3 'WASAPI:Speakers (USB Audio)'"),
        (MAC, "usb audio codec", "input", "2 'CoreAudio:USB Audio CODEC#1', 3 'CoreAudio:USB Audio CODEC#2'"),
    ],
)
def test_what_is_not_one_device_is_said_in_one_line_with_the_candidates(devices, name, kind, says):
    with pytest.raises(DeviceError) as caught:
        find(name, kind, devices)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("devices", [LINUX, WITH_JACK, WINDOWS, MAC])
def test_a_spelling_means_its_device_wherever_it_stands_in_the_list(devices):
    for device in devices:
        kind = "input" if device.in_channels else "output"
        assert find(spelling(device, devices), kind, devices) == device
        others = [d for d in devices if d != device and d.name != device.name]
        moved = [DeviceInfo(**(d.as_dict() | {"index": 50 + i})) for i, d in enumerate([*others, device])]
        assert find(spelling(device, moved), kind, moved).index == 50 + len(others)


def test_which_devices_share_a_clock():
    assert same_clock(LINUX[0], LINUX[0])
    assert not same_clock(LINUX[0], LINUX[1])
    assert not same_clock(LINUX[1], LINUX[2])
    assert not same_clock(LINUX[2], LINUX[2])  # a plugin
    assert same_clock(WITH_JACK[5], WITH_JACK[6])
    assert not same_clock(WITH_JACK[5], WITH_JACK[0])
    assert same_clock(WINDOWS[2], WINDOWS[3])
    assert not same_clock(WINDOWS[2], WINDOWS[4])
    assert not same_clock(MAC[0], MAC[1])


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "streamsep" / "devices.json"


def test_the_last_one_is_remembered_by_name_and_only_while_it_is_there(state):
    assert recall("input", LINUX) is None
    remember("input", spelling(LINUX[1], LINUX))
    remember("output", "ALSA:pulse")
    assert recall("input", LINUX) == "ALSA:Scarlett 2i2 USB: Audio (hw:1,0)"
    assert recall("input", [d for d in LINUX if d.index != 1]) is None
    assert recall("input", LINUX)  # and is not forgotten meanwhile
    remember("input", None)
    assert recall("input", LINUX) is None
    assert json.loads(state.read_text()) == {"output": "ALSA:pulse"}
    assert [p.name for p in state.parent.iterdir()] == ["devices.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"input": 3}', "\udcff"])
def test_a_file_that_says_nothing_is_nothing(state, text):
    state.parent.mkdir()
    state.write_text(text, errors="surrogateescape")
    assert recall("input", LINUX) is None
    remember("input", "ALSA:pulse")
    assert recall("input", LINUX) == "ALSA:pulse"


def test_a_folder_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember("input", "ALSA:pulse")
    assert recall("input", LINUX) is None


@pytest.mark.parametrize(
    ("platform", "place"), [("linux", ".local/state"), ("darwin", "Library/Application Support"), ("win32", "")]
)
def test_where_it_is_kept(tmp_path, monkeypatch, platform, place):
    for name in ("XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(devicenames.sys, "platform", platform)
    remember("input", "ALSA:pulse")
    assert (tmp_path / place / "streamsep" / "devices.json").exists()
