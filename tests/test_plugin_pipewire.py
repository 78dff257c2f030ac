"""contrib/pipewire-streamsep.conf in a PipeWire daemon of this test's own: LV2 as it stands there, LADSPA as it says."""

import os
import re
import subprocess
import sys

import pytest

from streamsep.plugin import MEMORY, engine, engine_lock, install, segments
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
PLAYED = [("streamsep:song_1", "streamsep.in:playback_FL"), ("streamsep:song_2", "streamsep.in:playback_FR")]
OUTPUTS = [f"streamsep.out:output_{channel}" for channel in ("FL", "FR", "RL", "RR")]
# A JACK client that plays into it.
PLAYER = """
import sys
from streamsep.devices.jackdevice import open_jack
from streamsep.rings import make_rings

client = open_jack("none", "none", ["song"])
client.start(make_rings(1 << 16, 2, 2, 2))
print("ready", flush=True)
sys.stdin.readline()
client.stop()
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
    for name in segments.names():  # the daemon was killed, and the engine that would sweep is gone
        (MEMORY / name).unlink()
    engine_lock().unlink(missing_ok=True)


def node(name, environment):
    said = subprocess.run(["pw-cli", "ls", "Node"], env=environment, capture_output=True, text=True, check=True).stdout
    found = [block for block in re.split(r"\n\tid ", said) if f'node.name = "{name}"' in block]
    return re.match(r"\D*(\d+)", found[0]).group(1) if found else None


@REAL_TIME
@pytest.mark.parametrize("kind", ["lv2", "ladspa"])
def test_the_filter_chain_takes_the_plugin_and_the_engine_serves_it(compiled, environment, tmp_path, kind):  # noqa: F811
    text = CONF.read_text()
    if kind == "ladspa":  # the lines that stand there as comments, and that object's names for the ports
        library = tmp_path / "lv2" / install.BUNDLE / install.OBJECT
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
        command = [need_program("pw-jack"), sys.executable, "-c", PLAYER]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        player = subprocess.Popen(command, env=environment, cwd=ROOT, **pipes)
        try:
            assert player.stdout.readline() == "ready\n"
            for pair in PLAYED:
                subprocess.run([need_program("pw-link"), *pair], env=environment, check=True, capture_output=True)
            listed = subprocess.run(["pw-link", "-o"], env=environment, check=True, capture_output=True, text=True).stdout
            assert set(OUTPUTS) <= set(listed.split())
            wait(lambda: served()["instances"] == 1, seconds=60)
            before = served()["hops"]
            wait(lambda: served()["hops"] > before + 100, seconds=30)  # the graph runs, and hop after hop goes through
            player.communicate("end\n", timeout=20)
        finally:
            player.kill()
            player.communicate()


def served():
    return {"instances": 0, "hops": 0} | (engine.running() or {})
