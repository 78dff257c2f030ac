"""The examples, run by the programs they are for: what they set is set, what they hear is what was sent."""

import contextlib
import json
import os
import re
import subprocess

import numpy as np
import pytest
import soundfile

from streamsep.osc.row import Row
from streamsep.osc.surface import ROWS
from tests.conftest import ROOT, need_program
from tests.osc_client import LEFT, RATE, RIGHT, TONE, patiently, playing, until
from tests.servers import REAL_TIME

EXAMPLES = ROOT / "examples"
START = 60.0  # s: sclang compiles its class library first


def purity(sound, rate):
    """Frequency (Hz) of the strongest tone in `sound`, and its power against all else, dB."""
    power = np.abs(np.fft.rfft(sound * np.blackman(len(sound)))) ** 2
    peak = int(power.argmax())
    near = power[max(0, peak - 9) : peak + 10].sum()
    return peak * rate / len(sound), 10 * np.log10(near / (power.sum() - near))


@contextlib.contextmanager
def started(*command, **more):
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# -------------------------------------------------------------------------------------------------------------- Pure Data

# What a user would do with the mouse, and a recorder: it is opened beside the example.
HAND = r"""#N canvas 0 0 450 300 12;
#X obj 10 10 r streamsep-source;
#X obj 10 40 print source;
#X obj 10 80 r recorder;
#X obj 10 200 writesf~ 2;
#X obj 10 120 stem~ vocals;
#X obj 200 10 r hear;
#X obj 300 10 r streamsep-meter-source;
#X obj 300 40 print meter;
#X obj 300 80 r hand-seconds;
#X obj 300 110 delay 1 1 second;
#X obj 300 140 t b b;
#X msg 300 170 \; pd quit;
#X msg 360 170 stop;
#X obj 300 200 delay 1 1 second;
#X connect 0 0 1 0;
#X connect 2 0 3 0;
#X connect 4 0 3 0;
#X connect 4 1 3 1;
#X connect 5 0 4 0;
#X connect 6 0 7 0;
#X connect 8 0 9 0;
#X connect 9 0 10 0;
#X connect 10 0 13 0;
#X connect 13 0 11 0;
#X connect 10 1 12 0;
#X connect 12 0 3 0;
"""  # a thread of writesf~ writes the file: it has a second for that before Pd is gone


@pytest.mark.parametrize("pd_rate", [44100, 48000])
@REAL_TIME
def test_pure_data_steers_watches_and_hears(server, separator, tap, connect, tmp_path, pd_rate):
    pd = need_program("pd")
    (tmp_path / "hand.pd").write_text(HAND)
    file = tmp_path / "heard.wav"
    sent = [
        "pd dsp 1",
        f"streamsep-port {server.port}",
        "hear 1",
        "vocals-gain -12",
        "accompaniment-mute 1",
        f"recorder open {file}",
        "recorder start",
        "hand-seconds 4",
    ]
    command = [pd, "-nogui", "-noaudio", "-r", str(pd_rate), "-stderr", "-path", str(EXAMPLES / "puredata")]
    for words in sent:
        command += ["-send", words]
    command += ["-open", str(EXAMPLES / "puredata" / "streamsep.pd"), "-open", str(tmp_path / "hand.pd")]
    with playing(tap), started(*command) as process:
        patiently(lambda: separator.gain("vocals") == pytest.approx(-12))
        patiently(lambda: separator.mute("accompaniment"))
        connect(server).ask("/streamsep/source/vocals/solo", 1)  # somebody else; the patch is told
        text, _ = process.communicate(timeout=START)
    assert process.returncode == 0
    assert "source: vocals gain -12" in text
    assert "source: vocals solo 1" in text
    assert re.search(r"meter: vocals -?\d", text)
    assert not [line for line in text.splitlines() if "error" in line], text
    sound, rate = soundfile.read(file)
    assert rate == pd_rate
    steady = sound[-2 * rate : -rate // 10]
    np.testing.assert_allclose(np.abs(steady).max(axis=0), [LEFT, RIGHT], atol=0.002)
    frequency, decibels = purity(steady[:, 0], rate)
    assert frequency == pytest.approx(TONE, abs=1)
    assert decibels > 40  # no click, no hole; what remains is 16 bits between the frames


# ---------------------------------------------------------------------------------------------------------- SuperCollider

HANDS = """
"{example}".load;
fork {{
	var got = List.new;
	0.5.wait;
	~streamsep.onChange = {{ |address, value| "changed % %".format(address, value).postln }};
	~streamsep.onSound = {{ |source, sequence, samples| got.add([sequence, samples]) }};
	~streamsep.gain(\\vocals, -12);
	~streamsep.mute(\\accompaniment);
	~streamsep.listen(\\vocals);
	3.wait;
	"gain %".format(~streamsep.state['/streamsep/source/vocals/gain']).postln;
	"levels %".format(~streamsep.levels[\\vocals].size).postln;
	"lost %".format(~streamsep.lost(\\vocals)).postln;
	got[..99].do {{ |packet| "sound % %".format(packet[0], packet[1].asArray.join(" ")).postln }};
	~streamsep.close;
	0.2.wait;
	0.exit;
}};
"""


def headless(server, folder):
    """sclang's environment: no display, no home of anybody, our port."""
    return os.environ | {
        "STREAMSEP_PORT": str(server.port),
        "QT_QPA_PLATFORM": "offscreen",
        "QTWEBENGINE_DISABLE_SANDBOX": "1",
        "XDG_RUNTIME_DIR": str(folder),
        "HOME": str(folder),
    }


@REAL_TIME
def test_supercollider_steers_watches_and_hears(server, separator, tap, tmp_path):
    sclang = need_program("sclang")
    script = tmp_path / "hands.scd"
    script.write_text(HANDS.format(example=EXAMPLES / "supercollider" / "streamsep.scd"))
    with playing(tap), started(sclang, str(script), env=headless(server, tmp_path)) as process:
        text, _ = process.communicate(timeout=START)
    assert process.returncode == 0, text
    assert separator.gain("vocals") == pytest.approx(-12)
    assert separator.mute("accompaniment")
    assert "ERROR" not in text
    assert "changed /streamsep/source/vocals/gain -12" in text
    assert "gain -12" in text
    assert "levels 3" in text
    assert "lost 0" in text
    packets = [line.split()[1:] for line in text.splitlines() if line.startswith("sound ")]
    assert [int(p[0]) for p in packets] == list(range(100))
    heard = np.array([p[1:] for p in packets], float).reshape(-1, 2)
    np.testing.assert_allclose(heard[:, 0], 2 * heard[:, 1], atol=1.6 / 32768)  # left is twice right, to the step
    frequency, decibels = purity(heard[:, 0], RATE)
    assert frequency == pytest.approx(TONE, abs=2)
    assert decibels > 70
    until(lambda: not server.streams.running)  # it took its leave


EARS = """
"{example}".load;
s.waitForBoot {{
	~streamsep.hear(\\vocals);
	2.wait;
	s.recChannels = 2;
	s.record("{file}", duration: 4);
	4.5.wait;
	~streamsep.close;
	0.2.wait;
	s.quit;
	0.5.wait;
	0.exit;
}};
"""


@REAL_TIME
def test_supercolliders_server_plays_it(server, tap, jack, tmp_path):
    """A source, off the network into a Buffer, through scsynth on a real JACK server of another rate, into a file."""
    need_program("scsynth")
    script, file = tmp_path / "ears.scd", tmp_path / "heard.wav"
    script.write_text(EARS.format(example=EXAMPLES / "supercollider" / "streamsep.scd", file=file))
    with playing(tap), started(need_program("sclang"), str(script), env=headless(server, tmp_path)) as process:
        text, _ = process.communicate(timeout=START)
    assert process.returncode == 0, text
    assert "ERROR" not in text
    sound, rate = soundfile.read(file)
    np.testing.assert_allclose(np.abs(sound).max(axis=0), [LEFT, RIGHT], rtol=0.02)
    seconds = [purity(sound[n * rate : (n + 1) * rate, 0], rate) for n in range(4)]
    assert [frequency for frequency, _ in seconds] == pytest.approx([TONE] * 4, abs=1.5)
    assert max(decibels for _, decibels in seconds) > 40  # a machine that is held up may tear a hole now and then


# ----------------------------------------------------------------------------------------------------- Open Stage Control


def widgets(node):
    yield node
    for child in node.get("widgets", []) + node.get("tabs", []):
        yield from widgets(child)


def row_of(address) -> Row | None:
    concrete = {row.address.replace("<name>", name): row for row in ROWS for name in ("vocals", "accompaniment")}
    return concrete.get(address)


def test_the_open_stage_control_session_speaks_our_addresses():
    """Its widgets send what the table takes, with its types and ranges, and its script asks for feedback and meters."""
    session = json.loads((EXAMPLES / "open-stage-control" / "streamsep.json").read_text())
    assert (session["type"], session["content"]["type"]) == ("session", "root")
    found = [w for w in widgets(session["content"]) if w["address"].startswith("/streamsep/")]
    assert len({w["id"] for w in widgets(session["content"])}) == len(list(widgets(session["content"])))
    for widget in found:
        row = row_of(widget["address"])
        assert row, widget["address"]
        if widget["type"] == "fader":
            argument = row.arguments[0]
            assert (widget["range"]["min"], widget["range"]["max"], widget["typeTags"]) == (argument.low, argument.high, "f")
        if widget["type"] == "button" and widget["mode"] == "toggle":
            assert (widget["off"], widget["on"], row.arguments[0].tag) == (0, 1, "i")
    asked = re.findall(r"send\('(/[^']+)', \{type: '(.)'", session["content"]["onCreate"])
    assert [(address, row_of(address).arguments[0].tag) for address, _ in asked] == asked
    steered = {w["address"] for w in found}
    for name in ("vocals", "accompaniment"):
        assert {f"/streamsep/source/{name}/{what}" for what in ("gain", "mute", "solo")} <= steered
    assert {"/streamsep/bypass", "/streamsep/panic", "/streamsep/wet", "/streamsep/output/gain"} <= steered
