"""The JACK client on PipeWire: the same code, PipeWire's libjack, and a daemon of this test's own without a desktop."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.conftest import ROOT, need_program
from tests.servers import REAL_TIME, wait

# What a JACK client needs of it, and the "default" metadata that a session manager would make.
DAEMON = """
context.properties = { core.daemon = true core.name = pipewire-0 default.clock.rate = 48000 default.clock.quantum = 256 }
context.spa-libs = { support.* = support/libspa-support }
context.modules = [
  { name = libpipewire-module-protocol-native }
  { name = libpipewire-module-metadata }
  { name = libpipewire-module-spa-node-factory }
  { name = libpipewire-module-client-node }
  { name = libpipewire-module-access args = { } }
  { name = libpipewire-module-link-factory }
]
context.objects = [
  { factory = metadata args = { metadata.name = settings } }
  { factory = metadata args = { metadata.name = default } }
  { factory = spa-node-factory
    args = { factory.name = support.node.driver node.name = Dummy-Driver node.group = pipewire.dummy priority.driver = 20000 } }
]
"""
CLIENT = """
context.spa-libs = { support.* = support/libspa-support }
context.modules = [
  { name = libpipewire-module-protocol-native }
  { name = libpipewire-module-client-node }
  { name = libpipewire-module-metadata }
]
"""

# Talks with the test by lines. Two clients: what one plays, the other records.
CLIENTS = """
import sys, time
import numpy as np
from streamsep.devices.jackdevice import available, open_jack
from streamsep.rings import CALLS, IN_WRITE, MAX_BLOCK, OUT_WRITE, arm, make_rings

def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)

player, recorder = open_jack("none", "none", ["song"]), None
playing, recording = (make_rings(1 << 18, 2, 2, 2) for _ in range(2))
player.start(playing)
recorder = open_jack("streamsep", "none", ["nothing"])
recorder.start(recording)
for rings in (recording, playing):
    arm(rings, 1 << 18)
song = np.random.default_rng(0).standard_normal(playing.outward.shape).astype(np.float32)
playing.outward[:] = song
until(lambda: recording.header[IN_WRITE] > 48000)
heard = recording.inward[24000:44000]
start = int(np.flatnonzero(song[:, 0] == heard[0, 0])[0])
assert np.array_equal(song[start : start + 20000], heard)
player.set_latency(1000)
until(lambda: recorder.latency == 1000 / 48000)
print("heard", player.sample_rate, player.block, playing.header[MAX_BLOCK], player.changed, flush=True)
until(lambda: player.finished and recorder.finished)
player.stop()
recorder.stop()
print("gone", available(), flush=True)
sys.stdin.readline()
again = player.again()
rings = make_rings(1 << 16, 2, 2, 2)
again.start(rings)
until(lambda: rings.header[CALLS] > 20)
again.stop()
again.stop()
print("back", flush=True)
"""


@contextmanager
def daemon(environment, log):
    with log.open("w") as file:
        process = subprocess.Popen([need_program("pipewire")], env=environment, stdout=file, stderr=file)
    try:
        wait((log.parent / "pipewire-0").exists, log.read_text)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def environment(tmp_path):
    for name, text in (("pipewire.conf", DAEMON), ("jack.conf", CLIENT)):
        (tmp_path / name).write_text(text)
    return os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "PIPEWIRE_CONFIG_DIR": str(tmp_path)}


@REAL_TIME
def test_sound_goes_through_and_a_killed_daemon_is_noticed_and_left(environment, tmp_path):
    command = [need_program("pw-jack"), sys.executable, "-c", CLIENTS]
    with daemon(environment, tmp_path / "daemon.log") as process:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        clients = subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)
        try:
            assert clients.stdout.readline() == "heard 48000 256 256 False\n"
            process.send_signal(signal.SIGKILL)
            assert clients.stdout.readline() == "gone False\n"
            (tmp_path / "pipewire-0").unlink(missing_ok=True)
            with daemon(environment, tmp_path / "second.log"):
                clients.stdin.write("go\n")
                clients.stdin.flush()
                assert clients.stdout.readline() == "back\n"
                assert clients.wait(20) == 0
        finally:
            clients.kill()
            clients.communicate()
