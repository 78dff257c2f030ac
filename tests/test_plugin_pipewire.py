"""contrib/pipewire-streamsep.conf in a PipeWire daemon of this test's own: LV2 as it stands there, LADSPA as it says."""

import os
import re
import subprocess
import sys

import pytest

from streamsep.plugin import engine, engine_lock, install
from tests.conftest import ROOT, need_program
from tests.servers import REAL_TIME, wait
from tests.test_pipewire import CLIENT, DAEMON, daemon
from tests.test_plugin_hosts import compiled, end_engine  # noqa: F401

CONF = ROOT / "contrib" / "pipewire-streamsep.conf"
AUDIO = "audio.convert.* = audioconvert/libspa-audioconvert audio.adapt = audioconvert/libspa-audioconvert support.* ="
ADAPTER = "  { name = libpipewire-module-adapter }\n"
# What a session manager does with the nodes of the filter-chain: it gives them ports.
PORTS = (
    "{{ direction: {}, mode: dsp, format: {{ mediaType: audio, mediaSubtype: raw, format: F32P, rate: 48000, "
    "channels: {}, position: [ {} ] }} }}"
)
NODES = {"streamsep.in": ("Input", 2, "FL, FR"), "streamsep.out": ("Output", 4, "FL, FR, RL, RR")}
LINKS = [
    ("streamsep:song_1", "streamsep.in:playback_FL"),
    ("streamsep:song_2", "streamsep.in:playback_FR"),
    ("streamsep.out:output_FL", "streamsep-01:input_1"),
    ("streamsep.out:output_FR", "streamsep-01:input_2"),
    ("streamsep.out:output_RL", "streamsep-02:input_1"),
    ("streamsep.out:output_RR", "streamsep-02:input_2"),
]
# Three JACK clients: one plays, two record a source each.
CLIENTS = """
import sys, time
import numpy as np
from streamsep.devices.jackdevice import open_jack
from streamsep.rings import IN_WRITE, arm, make_rings

names = ["song", "vocals", "accompaniment"]
clients, rings = [], [make_rings(1 << 18, 2, 2, 2) for _ in names]
for name, memory in zip(names, rings):
    clients.append(open_jack("none", "none", [name if name == "song" else "nothing"]))
    clients[-1].start(memory)
song = np.random.default_rng(0).normal(0, 0.1, rings[0].outward.shape).astype(np.float32)
rings[0].outward[:] = song
print("ready", flush=True)
sys.stdin.readline()
for memory in rings:
    arm(memory, 1 << 18)
while rings[1].header[IN_WRITE] < 200_000:
    time.sleep(0.05)
for client in clients:
    client.stop()
vocals, accompaniment = (memory.inward for memory in rings[1:])
heard = vocals + accompaniment
part = song[60_000:160_000]
starts = [n for n in range(len(heard) - len(part)) if abs(heard[n, 0] - part[0, 0]) < 1e-6]
fits = [n for n in starts if np.allclose(heard[n : n + len(part)], part, atol=1e-6)]
print(len(fits), float(np.abs(vocals - accompaniment)[:200_000].max()), flush=True)
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    (tmp_path / "lv2" / install.BUNDLE).mkdir(parents=True)
    install.build(tmp_path / "lv2" / install.BUNDLE)
    settings = {
        "pipewire.conf": DAEMON.replace("support.* =", AUDIO).replace(
            "context.modules = [\n", f"context.modules = [\n{ADAPTER}"
        ),
        "jack.conf": CLIENT,
        "client.conf": CLIENT,
    }
    for name, text in settings.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("STREAMSEP_PLUGIN_SPACE", f"pipewire{os.getpid()}")
    folders = {"XDG_RUNTIME_DIR": tmp_path, "PIPEWIRE_CONFIG_DIR": tmp_path}
    paths = {"LV2_PATH": f"{tmp_path / 'lv2'}:/usr/lib/lv2", "PYTHONPATH": ROOT}
    yield os.environ | {name: str(value) for name, value in (folders | paths).items()}
    end_engine()
    engine_lock().unlink(missing_ok=True)


def node(name, environment):
    said = subprocess.run(["pw-cli", "ls", "Node"], env=environment, capture_output=True, text=True, check=True).stdout
    found = [block for block in re.split(r"\n\tid ", said) if f'node.name = "{name}"' in block]
    return re.match(r"\D*(\d+)", found[0]).group(1) if found else None


@REAL_TIME
@pytest.mark.parametrize("kind", ["lv2", "ladspa"])
def test_the_filter_chain_separates_what_is_played_into_it(compiled, environment, tmp_path, kind):  # noqa: F811
    text = CONF.read_text()
    if kind == "ladspa":  # the lines that stand there as comments, and that object's names for the ports
        library = tmp_path / "lv2" / install.BUNDLE / "streamsep"
        text = text.replace("type = lv2", "type = ladspa").replace('"urn:streamsep:live"', f'"{library}" label = "streamsep"')
        for symbol, name in (("in", "In"), ("vocals", "Vocals"), ("accompaniment", "Accompaniment")):
            for side, word in (("l", "left"), ("r", "right")):
                text = text.replace(f":{symbol}_{side}", f":{name} {word}")
            text = text.replace(f"{symbol}_gain", f"{name} gain")
    (tmp_path / "pipewire.conf.d").mkdir()
    (tmp_path / "pipewire.conf.d" / CONF.name).write_text(text)
    with daemon(environment, tmp_path / "daemon.log"):
        wait(lambda: all(node(name, environment) for name in NODES), (tmp_path / "daemon.log").read_text)
        for name, ports in NODES.items():
            command = ["pw-cli", "s", node(name, environment), "PortConfig", PORTS.format(*ports)]
            subprocess.run(command, env=environment, check=True, capture_output=True)
        command = [need_program("pw-jack"), sys.executable, "-c", CLIENTS]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        clients = subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)
        try:
            assert clients.stdout.readline() == "ready\n"
            for pair in LINKS:
                subprocess.run([need_program("pw-link"), *pair], env=environment, check=True, capture_output=True, text=True)
            wait(lambda: (engine.running() or {}).get("instances") == 1, seconds=60)
            said, _ = clients.communicate("go\n", timeout=60)
        finally:
            clients.kill()
            clients.communicate()
    places, difference = said.split()
    assert places == "1"  # at one delay, all of it, to the bit of a sum
    assert float(difference) > 0.01  # sources, not twice half of the input
