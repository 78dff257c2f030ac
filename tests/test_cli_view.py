"""The live view: keys and OSC steer the same engine, the screen shows it, and the terminal is put back whatever happens."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg
from rich.console import Console

from streamsep.cli.keys import Hands, split
from streamsep.cli.screen import Levels
from streamsep.cli.view import Level, Picture, Strip, draw
from tests.conftest import ROOT
from tests.pseudo_terminal import Terminal
from tests.running import ask
from tests.servers import wait

UP, DOWN, CTRL_C, CTRL_Z = "\x1b[A", "\x1b[B", "\x03", "\x1a"


def start(*arguments, **terminal):
    return Terminal("run", "--osc-port", "0", *arguments, **terminal)


def port(text):
    return int(re.search(r"OSC (?:on )?127\.0\.0\.1:(\d+)", text).group(1))


def notified(client, address):
    """The next value that the daemon tells of `address`."""
    while True:
        message = OscMessage(client.recv(65536))
        if message.address == address:
            return message.params[0]


def test_keys_move_the_engine_osc_tells_of_it_and_the_screen_shows_both(jack):
    with start(lines=30) as terminal, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        where = "127.0.0.1", port(terminal.shows("OSC 127", "q quit"))
        client.settimeout(10)
        client.sendto(build_msg("/streamsep/notify", [2]).dgram, where)
        assert notified(client, "/streamsep/source/vocals/mute") == 0
        terminal.press("1")
        assert notified(client, "/streamsep/source/vocals/mute") == 1
        terminal.press(DOWN + "+++")
        while (gain := notified(client, "/streamsep/source/accompaniment/gain")) < 2.9:  # three steps, or what is left of them
            assert gain > -0.1
        wait(lambda: ask(where[1], "/streamsep/source/accompaniment/gain") == [pytest.approx(3)])
        for key, address in (
            ("s", "/streamsep/source/accompaniment/solo"),
            ("b", "/streamsep/bypass"),
            ("p", "/streamsep/panic"),
        ):
            terminal.press(key)
            assert notified(client, address) == 1
            terminal.press(key)
            assert notified(client, address) == 0
        wait(lambda: re.search(r"1 vocals +\+0\.0 M", terminal.line("vocals")), lambda: terminal.text)
        wait(lambda: re.search(r">2 accompaniment +\+3\.0  ", terminal.line("accompaniment")), lambda: terminal.text)
        ask(where[1], "/streamsep/source/accompaniment/gain", -20.0)
        ask(where[1], "/streamsep/panic", 1)
        terminal.shows("-20.0", "PANIC")
        parts = re.search(r"latency ([\d.]+) ms = 16.0 algorithmic \+ 5.3 buffering \+ ([\d.]+) device", terminal.text)
        assert float(parts[1]) == pytest.approx(21.3 + float(parts[2]), abs=0.11)
        terminal.press("qq")
        assert terminal.process.wait(20) == 0
        wait(lambda: terminal.as_before)


def test_ctrl_c_puts_the_terminal_back_and_prints_what_was_told(jack):
    with start() as terminal:
        terminal.shows("q quit", "running")
        assert not terminal.as_before
        terminal.press(CTRL_C)
        assert terminal.process.wait(20) == 0
        wait(lambda: b"late (" in terminal.sent, lambda: terminal.text)
        assert terminal.as_before
        left = terminal.sent.rindex(b"\x1b[?1049l")
        assert terminal.sent.rindex(b"\x1b[?25h") > terminal.sent.rindex(b"\x1b[?25l")  # the cursor can be seen again
        after = terminal.sent[left:].decode()
        assert "latency 16.0 ms algorithmic" in after
        assert "0 late" in after


def stopped(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(jack):
    with start() as terminal:
        where = port(terminal.shows("OSC 127", "q quit", "running"))
        terminal.press(CTRL_Z)
        wait(lambda: stopped(terminal.process))
        assert terminal.as_before
        wait(lambda: terminal.sent.rfind(b"\x1b[?1049l") > terminal.sent.rindex(b"\x1b[?1049h"))  # it is read a little later
        terminal.process.send_signal(signal.SIGCONT)
        wait(lambda: terminal.sent.rindex(b"\x1b[?1049h") > terminal.sent.rindex(b"\x1b[?1049l"))
        terminal.press("1")
        wait(lambda: ask(where, "/streamsep/source/vocals/mute") == [1])
        terminal.shows("running")
        terminal.hang_up(signal.SIGTERM)
        assert terminal.process.wait(20) == 0
        wait(lambda: terminal.as_before)


def test_a_lost_device_is_shown_and_so_is_its_return(jack):
    with start(columns=100) as terminal:
        terminal.shows("q quit", "running")
        jack.end()
        terminal.shows("DEVICE LOST", "went away: waiting for it to come back")
        jack.start()
        terminal.shows("running", "is back: sound goes on")
        assert "DEVICE LOST" not in terminal.text
        terminal.press(CTRL_C)
        assert terminal.process.wait(20) == 0
        wait(lambda: b"is back" in terminal.sent[terminal.sent.rindex(b"\x1b[?1049l") :])


def test_a_key_records(jack, tmp_path):
    (tmp_path / "c.toml").write_text('record = "takes"\n')
    with start("--record", tmp_path / "takes", columns=120) as terminal:
        terminal.shows("rec " + str(tmp_path)[:20], "q quit")
        time.sleep(0.5)
        terminal.press("r")
        terminal.shows("recorded")
        assert "● rec" not in terminal.text
        assert len(list((tmp_path / "takes").iterdir())) == 1


def test_another_size_is_another_picture(jack):
    with start(columns=100, lines=30) as terminal:
        terminal.shows("= 16.0 algorithmic", "q quit")
        terminal.resize(40, 8)
        terminal.hang_up(signal.SIGWINCH)
        wait(lambda: "algorithmic" not in terminal.text and "vocals" in terminal.text, lambda: terminal.text)
        assert terminal.line("output").startswith("   output")
        terminal.resize(100, 30)
        terminal.hang_up(signal.SIGWINCH)
        terminal.shows("= 16.0 algorithmic", "q quit")


COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-7]|4[0-7]|9[0-7]|38|48)[;m]")


def test_no_color_and_no_unicode(song_file):
    with start("--input", f"file:{song_file}") as terminal:
        terminal.shows("q quit")
        assert COLOUR.search(terminal.sent)
    with start("--input", f"file:{song_file}", NO_COLOR="1", PYTHONIOENCODING="ascii") as terminal:
        terminal.shows("q quit", "###")
        assert not COLOUR.search(terminal.sent)
        assert terminal.text.isascii()


def test_without_a_whole_terminal_there_are_plain_lines(song_file, tmp_path):
    with start("--input", f"file:{song_file}", TERM="dumb") as terminal:
        terminal.shows("Ctrl-C ends")
        assert b"\x1b[?1049h" not in terminal.sent
    with start("--input", f"file:{song_file}", "--plain") as terminal:
        terminal.shows("Ctrl-C ends")
        assert terminal.as_before
    with start("--input", f"file:{song_file}", "--duration", "0.5", "--quiet") as terminal:
        assert terminal.process.wait(60) == 0
        assert terminal.sent.replace(b"\x1b[0m", b"") == b""  # where there is colorama, Numba has it reset colours at the end


def test_quiet_tells_errors():
    command = [sys.executable, "-m", "streamsep", "run", "--quiet", "--input", "file:nosuch.wav"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


# ---------------------------------------------------------------------------------------------------------------- its parts


def picture(**other):
    level = Level(-6.0, -12.0, True)
    strips = (
        Strip("input", level),
        Strip("vocals", level, "1", -3.0, True, True, False, True),
        Strip("output", level, gain=0.0),
    )
    fields = dict(
        strips=strips, model="live", device="a device of many words", sample_rate=48000, provider="cpu", osc="127.0.0.1:9000",
        state="device lost", problem="no server", recording="takes/x", bypass=True, panic=True, wet=0.5,
        latency_ms={"algorithmic": 16.0, "buffering": 5.3, "device": 2.7, "total": 24.0},
        counts={"hops": 10**6, "late": 1, "bridged": 1, "missed": 0, "xruns": 3}, trouble=True,
        step_ms={"p50": 0.4, "p99": 9.0, "max": 12.0}, deadline_ms=8.0,
    )  # fmt: skip
    return Picture(**fields | other)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("height", [1, 5, 12, 40])
@pytest.mark.parametrize("width", [10, 30, 52, 76, 80, 200])
def test_any_size_is_filled_and_not_overrun(width, height, plain):
    lines = draw(picture(), ["something was told"] * 50, width, height, plain).plain.split("\n")
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    if height >= 12 and width >= 30:
        for word in ("DEVICE LOST", "PANIC", "BYPASS", "vocals", "outpu"):
            assert any(word in line for line in lines), (word, lines)
    if plain:
        assert "".join(lines).isascii()


def test_a_bar_is_as_long_as_the_level():
    console = Console(width=100, color_system=None)
    for rms, peak, expected in ((-60, -60, (0, 0)), (0, 0, (1, 0)), (-30, -15, (0.5, 0.25)), (-144, -30, (0, 0.5))):
        strip = Strip("input", Level(peak, rms, False))
        with console.capture() as captured:
            console.print(draw(picture(strips=(strip,), state="running", panic=False, bypass=False), [], 100, 3))
        line = next(line for line in captured.get().splitlines() if "input" in line)
        cells = 100 - 28 - 14 - 5
        assert line.count("█") == pytest.approx(expected[0] * cells, abs=1)
        assert line.count("─") == pytest.approx(expected[1] * cells, abs=1)


def test_what_a_terminal_sends_is_cut_into_keys():
    assert split("1\x1b[A+\x1bOBq") == ["1", "up", "+", "down", "q"]
    assert split("\x1b[200~x\x1b") == ["x"]
    assert split("\t=_") == ["down", "+", "-"]


def test_keys_do_what_the_help_says(daemon):
    told, cleared = [], []
    hands = Hands(daemon, told.append, lambda: cleared.append(True))
    engine = daemon.separator
    hands.press("2")
    assert (engine.mute("accompaniment"), hands.selected) == (True, 1)
    hands.press("down")
    hands.press("-")
    assert engine.output_gain == pytest.approx(-1)
    hands.press("m")
    hands.press("9")
    hands.press("ä")
    hands.press("down")
    engine.set_gain("vocals", -59.5)
    for key, expected in (("-", -60), ("-", -90), ("-", -90), ("+", -60), ("+", -59)):
        hands.press(key)
        assert engine.gain("vocals") == pytest.approx(expected)
    hands.press("0")
    assert engine.gain("vocals") == pytest.approx(0)
    hands.press("r")
    assert daemon.recording
    hands.press("c")
    assert cleared
    hands.press("q")
    assert not daemon.ended
    assert "once more" in told[-1]
    hands.press("q")
    assert daemon.ended


def test_levels_fall_slowly_and_clips_are_held_until_they_are_let_go(daemon):
    meters = daemon.meters
    levels = Levels(meters)

    def hop(peak):
        meters.peak[meters.hops[0]] = peak
        meters.square[meters.hops[0]] = peak**2 / 2
        meters.clipped[0] += peak >= 1
        meters.hops[0] += 1

    hop(1.0)
    assert levels.read(0.0, 0.0)[0] == Level(0.0, pytest.approx(-3.01, abs=0.01), True)
    hop(0.001)
    assert levels.read(0.5, 0.5)[0] == Level(-12.0, pytest.approx(-63.01, abs=0.01), True)
    levels.clear()
    assert not levels.read(0.6, 0.1)[0].clip
    assert levels.read(9.0, 9.0)[0] == Level(-144.0, -144.0, False)
