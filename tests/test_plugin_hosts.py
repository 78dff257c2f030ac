"""The plugin in real hosts, with the real engine process: offline, live on JACK, killed, counted, and held to its word."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamsep import offline, rings
from streamsep.engine import Separator
from streamsep.plugin import MEMORY, engine, install, segments
from tests import plugin_host as P
from tests.conftest import ROOT, need_program
from tests.running import stop
from tests.servers import REAL_TIME, wait

RATE = 48_000
started: list[subprocess.Popen] = []  # engines that a test began itself
WHEELING = ("--set", f"{P.FREE_WHEELING}=1")


@pytest.fixture(scope="module", autouse=True)
def space():
    """Names of our own in shared memory, for all that we start; whatever is left at the end is an error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMSEP_PLUGIN_SPACE", f"hosts{os.getpid()}")
        patch.setenv("PYTHONPATH", str(ROOT))
        yield
        end_engine()
        for process in started:
            process.wait(30)
        assert not P.left_overs()
        engine.engine_lock().unlink(missing_ok=True)


@pytest.fixture(scope="module")
def lv2_path(tmp_path_factory):
    """A folder with the bundle in it, as ~/.lv2 would be."""
    folder = tmp_path_factory.mktemp("lv2")
    bundle = folder / install.BUNDLE
    bundle.mkdir()
    install.build(bundle)
    return folder


@pytest.fixture(scope="module")
def bundle(lv2_path):
    return lv2_path / install.BUNDLE


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return P.compile_host(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module")
def compiled(live):
    """What the engine compiles at its first start, and a process may find on the disk after."""
    engine.warm(live)


@pytest.fixture
def serving(compiled):
    """An engine that stays."""
    if state := engine.running():
        return state
    command = [sys.executable, "-P", "-m", "streamsep", "engine", "--idle", "600"]
    started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True))
    wait(lambda: (engine.running() or {}).get("pid"), lambda: "no engine came", seconds=120)
    return engine.running()


def end_engine(number=signal.SIGTERM):
    """End the engine by its own id, whoever started it; its pid."""
    state = engine.running()
    if state and state.get("pid"):
        os.kill(state["pid"], number)
        wait(lambda: engine.running() is None, seconds=30)
    return (state or {}).get("pid")


@pytest.fixture(scope="module")
def excerpt(song):
    """Six seconds of the song."""
    x, rate = song
    assert rate == RATE
    return np.ascontiguousarray(x[:, 5 * rate : 11 * rate])


@pytest.fixture(scope="module")
def stems(excerpt, live, tmp_path_factory):
    """What `streamsep separate` writes of them, `[shape=(sources, channels, samples)]`."""
    folder = tmp_path_factory.mktemp("separate")
    soundfile.write(folder / "song.wav", excerpt.T, RATE, subtype="FLOAT")
    paths = offline.separate(folder / "song.wav", folder, live, "cpu").paths
    return np.stack([soundfile.read(paths[s], dtype="float32")[0].T for s in ("vocals", "accompaniment")])


def same_later(y, stems, latency):
    """Whether `y` is `stems`, `latency` samples later, to the bit."""
    return np.array_equal(y[:, :, latency:], stems[:, :, : y.shape[2] - latency])


# --------------------------------------------------------------------------------------------------------- the bundle


def test_bundle_is_valid(bundle):
    files = sorted(map(str, bundle.glob("*.ttl")))
    done = subprocess.run([need_program("lv2_validate"), *files], capture_output=True, text=True, check=False)
    assert "Found 0 errors" in done.stdout + done.stderr, done.stdout + done.stderr
    assert done.returncode == 0
    need_program("sord_validate")  # lv2_validate runs it


def test_lv2info_knows_its_ports(lv2_path):
    environment = os.environ | {"LV2_PATH": f"{lv2_path}:/usr/lib/lv2"}
    command = [need_program("lv2info"), install.URI]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert not said.stderr
    for words in (
        "Has latency:       yes, reported by port 12",
        "hardRTCapable",
        "vocals_gain",
        "accompaniment_r",
        "freeWheeling",
    ):
        assert words in said.stdout
    assert said.stdout.count("Symbol:") == P.PORTS


def test_ladspa_object_has_the_same_ports(bundle, tmp_path):
    said = subprocess.run([need_program("analyseplugin"), bundle / install.OBJECT], capture_output=True, text=True, check=True)
    assert said.stdout.count("audio") == 6
    assert said.stdout.count("control") == 9
    assert '"latency" output, control' in said.stdout


def test_ladspa_declarations_are_those_of_ladspa_h(tmp_path):
    """Ours are written down by hand, so that nobody needs the SDK to install; here they are compared with its own."""
    if not Path("/usr/include/ladspa.h").exists():
        pytest.skip("ladspa.h (ladspa-sdk) is missing")
    fields = {
        "id": "UniqueID", "label": "Label", "properties": "Properties", "name": "Name", "maker": "Maker",
        "copyright": "Copyright", "ports": "PortCount", "port_descriptors": "PortDescriptors", "port_names": "PortNames",
        "port_hints": "PortRangeHints", "implementation": "ImplementationData", "instantiate": "instantiate",
        "connect_port": "connect_port", "activate": "activate", "run": "run", "deactivate": "deactivate", "cleanup": "cleanup",
    }  # fmt: skip
    constants = {
        "INPUT": "LADSPA_PORT_INPUT", "OUTPUT": "LADSPA_PORT_OUTPUT", "CONTROL": "LADSPA_PORT_CONTROL",
        "AUDIO": "LADSPA_PORT_AUDIO",
        "BELOW": "LADSPA_HINT_BOUNDED_BELOW", "ABOVE": "LADSPA_HINT_BOUNDED_ABOVE", "TOGGLED": "LADSPA_HINT_TOGGLED",
        "INTEGER": "LADSPA_HINT_INTEGER", "DEFAULT_0": "LADSPA_HINT_DEFAULT_0", "DEFAULT_1": "LADSPA_HINT_DEFAULT_1",
        "HARD_RT_CAPABLE": "LADSPA_PROPERTY_HARD_RT_CAPABLE",
    }  # fmt: skip
    checks = [f"offsetof(LadspaDescriptor, {a}) == offsetof(LADSPA_Descriptor, {b})" for a, b in fields.items()]
    checks += [f"{a} == {b}" for a, b in constants.items()]
    checks += ["sizeof(LadspaDescriptor) == sizeof(LADSPA_Descriptor)", "sizeof(LadspaHint) == sizeof(LADSPA_PortRangeHint)"]
    theirs = "#define ladspa_descriptor theirs\n#include <ladspa.h>\n#undef ladspa_descriptor\n"
    lines = "".join(f'_Static_assert({check}, "{check}");\n' for check in checks)
    (tmp_path / "check.c").write_text(f'#include <stddef.h>\n{theirs}#include "ladspa.c"\n{lines}')
    command = [*install.compiler(), "-std=gnu11", "-fsyntax-only", "-I", install.SOURCE, tmp_path / "check.c"]
    subprocess.run(command, check=True)


# -------------------------------------------------------------------------------------------------------------- offline


@pytest.mark.parametrize("blocks", ["64", "1024", "4096,17,333,1"])
def test_a_bounce_is_what_separate_gives(serving, program, bundle, tmp_path, excerpt, stems, blocks):
    y, report = P.play(program, bundle, tmp_path, excerpt, *WHEELING, "--blocks", blocks)
    assert same_later(y, stems, int(report["latency"]))
    assert report["late"] == 0
    assert report["connected"] == 1


def test_a_bounce_begins_anew_where_free_wheeling_begins(serving, program, bundle, tmp_path, excerpt, stems):
    before = 20_011  # frames of silence, in real time, as a host plays them that stands still
    x = np.concatenate([np.zeros((2, before), np.float32), excerpt[:, :96_000]], axis=1)
    change = ("--at", f"{before}:{P.FREE_WHEELING}=1", "--blocks", f"{before},128")
    y, report = P.play(program, bundle, tmp_path, x, *change)
    assert same_later(y[:, :, before:], stems, int(report["latency"]))


def test_the_first_bounce_waits_for_the_engine_to_start(compiled, program, bundle, tmp_path, excerpt, stems, monkeypatch):
    monkeypatch.setenv("STREAMSEP_PLUGIN_SPACE", f"first{os.getpid()}")
    try:
        y, report = P.play(program, bundle, tmp_path, excerpt[:, :48_000], *WHEELING)
        assert report["connected"] == 1
        assert same_later(y, stems, int(report["latency"]))
        wait(lambda: engine.running() is None, lambda: "the engine stays for ever", seconds=30)  # it ends by itself
    finally:
        end_engine()
        engine.engine_lock().unlink(missing_ok=True)


def test_ten_instances_bounce_as_one_does(serving, program, bundle, tmp_path, excerpt, stems):
    y, report = P.play(program, bundle, tmp_path, excerpt[:, :48_000], *WHEELING, "--instances", 10)
    assert report["all_connected"] == 1
    assert same_later(y, stems, int(report["latency"]))


def test_lv2apply_bounces_and_without_free_wheeling_delays(serving, lv2_path, tmp_path, excerpt, stems):
    environment = os.environ | {"LV2_PATH": f"{lv2_path}:/usr/lib/lv2"}
    x = excerpt[:, : 2 * RATE]
    soundfile.write(tmp_path / "in.wav", x.T, RATE, subtype="FLOAT")
    for option in (["-c", "free_wheeling", "1"], []):
        command = [need_program("lv2apply"), "-i", tmp_path / "in.wav", "-o", tmp_path / "out.wav", *option, install.URI]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        y = soundfile.read(tmp_path / "out.wav", dtype="float32")[0].T.reshape(2, 2, -1)
        latency = 1151
        np.testing.assert_allclose(y.sum(axis=0)[:, latency:], x[:, :-latency], atol=1e-3)
        if option:
            # lv2apply writes in the input's format, and that is float.
            assert same_later(y, stems, latency)


# ------------------------------------------------------------------------------------------------------------- its word


def test_run_makes_no_system_call(serving, program, bundle, tmp_path, excerpt, stems):
    """Under seccomp's strict mode the kernel kills whoever calls it for more than to read and write, as the host does."""
    y, report = P.play(
        program, bundle, tmp_path, excerpt[:, :RATE], "--strict", "--paced", "--connect", "--blocks", "128,64,2048"
    )
    assert report["connected"] == 1
    assert np.abs(y[0] - y[1]).max() > 0.01  # sources were heard, not halves of the input


def test_buffers_may_be_the_same(serving, program, bundle, tmp_path, excerpt, stems):
    y, report = P.play(program, bundle, tmp_path, excerpt[:, :RATE], *WHEELING, "--in-place")
    assert same_later(y, stems, int(report["latency"]))


def test_a_hundred_lives_leak_nothing(serving, program, bundle):
    """Memory by valgrind; what a process would leave in the system, here: files of the engine, segments, mappings."""

    pid = serving["pid"]

    def held():
        """The fewest of many looks: the engine has its folder open for a moment whenever it lists the segments in it."""
        files, mappings = [], []
        for _ in range(50):
            files.append(len(os.listdir(f"/proc/{pid}/fd")))
            mappings.append(Path(f"/proc/{pid}/maps").read_text().count(str(MEMORY)))
            time.sleep(0.003)
        return min(files), min(mappings)

    wait(lambda: engine.running()["instances"] == 0)
    before = held()
    command = [program, bundle / install.OBJECT, "cycles", "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert json.loads(done.stdout) == {"cycles": 100}
    wait(lambda: engine.running()["instances"] == 0 and not P.left_overs())
    wait(lambda: held() == before, lambda: f"{before} files and mappings became {held()}")


def test_valgrind_finds_nothing(serving, program, bundle, tmp_path, excerpt):
    valgrind = [need_program("valgrind"), "--quiet", "--error-exitcode=9", "--leak-check=full", "--track-fds=yes"]
    log = tmp_path / "valgrind"
    before = [*valgrind, "--show-leak-kinds=definite,indirect,possible", f"--log-file={log}"]
    P.play(program, bundle, tmp_path, excerpt[:, :24_000], *WHEELING, "--instances", 2, "--blocks", "512,100", before=before)
    text = log.read_text()
    assert "definitely lost" not in text
    assert not [line for line in text.splitlines() if "/dev/shm" in line]  # no segment's file is open at the end


# ------------------------------------------------------------------------------------------------------------ when it dies


def separated_part(y):
    """Whether the sources are sources there, and not both half of the input, for each tenth of a second."""
    frames = y.shape[2] // 4800 * 4800
    difference = np.abs(y[0] - y[1])[:, :frames].reshape(2, -1, 4800).max(axis=(0, 2))
    return difference > 1e-4


def test_a_killed_engine_is_bridged_and_replaced(serving, program, bundle, tmp_path, song):
    x = np.ascontiguousarray(song[0][:, : 20 * RATE])
    command = [program, bundle / install.OBJECT, "play", P.save(tmp_path / "in.f32", x), tmp_path / "out.f32"]
    options = ["--paced", "--connect", "--blocks", "128"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    host = subprocess.Popen([*map(str, command), *options], **pipes)
    try:
        assert host.stderr.readline() == "playing\n"
        time.sleep(3)
        killed = end_engine(signal.SIGKILL)
        said, _ = host.communicate(timeout=60)
    finally:
        host.kill()
    report, y = json.loads(said), P.read(tmp_path / "out.f32")
    assert host.returncode == 0
    assert engine.running()["pid"] != killed
    assert report["connected"] == 1
    latency = int(report["latency"])
    assert report["latency_changes"] == 0
    np.testing.assert_allclose(y.sum(axis=0)[:, latency:], x[:, :-latency], atol=1e-6)
    parts = separated_part(y)
    assert parts[10:25].all()
    assert not parts[32:38].any()
    assert parts[-10:].any(), "the new engine's sources were never heard"
    # No edge: a jump of a source is no larger than those that it makes where nothing is wrong, or the input does.
    jumps = np.abs(np.diff(y, axis=2)).max()
    assert jumps <= max(np.abs(np.diff(x, axis=1)).max(), np.abs(np.diff(y[:, :, RATE : 2 * RATE], axis=2)).max())


# ------------------------------------------------------------------------------------------------------------ live, on JACK


def start_client(*arguments):
    command = [sys.executable, "-m", "tests.jack_client", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


@REAL_TIME
def test_jalv_plays_the_song_on_jack(jack, serving, lv2_path, tmp_path, excerpt, live):
    """Recorded from the graph: the input as it was played, and the sources, later by exactly the latency that jalv tells."""
    environment = os.environ | {"LV2_PATH": f"{lv2_path}:/usr/lib/lv2"}
    command = [need_program("jalv"), "-i", "-p", "-n", "streamsep", install.URI]
    jalv = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    clients = []
    try:
        ports = "vocals_l", "vocals_r", "accompaniment_l", "accompaniment_r"
        wait(lambda: "streamsep:accompaniment_r" in graph(), seconds=20)
        wait(lambda: engine.running()["instances"] == 1, seconds=20)
        latency = told_latency()
        np.save(tmp_path / "song.npy", np.ascontiguousarray(excerpt.T))
        clients = [
            start_client("recorder", 6, 8, tmp_path / "recording.npy"),
            start_client("player", 1, 6, tmp_path / "unused.npy", tmp_path / "song.npy"),
        ]
        pairs = [(f"player:out_{c}", f"streamsep:in_{s}") for c, s in enumerate("lr")]
        pairs += [(f"player:out_{c}", f"recorder:in_{c}") for c in range(2)]
        pairs += [(f"streamsep:{port}", f"recorder:in_{2 + c}") for c, port in enumerate(ports)]
        for pair in pairs:
            subprocess.run(["jack_connect", *pair], check=True, capture_output=True)
        for client in clients:
            go(client)
            time.sleep(0.3)
        time.sleep(3)
        (name,) = segments.names()
        start, end, part = overheard(name, live)
        for client in clients:
            assert client.wait(30) == 0
    finally:
        for process in (*clients, jalv):
            stop(process)
    heard = np.load(tmp_path / "recording.npy").T
    x, y = heard[:2], heard[2:].reshape(2, 2, -1)
    assert latency == 1151
    np.testing.assert_allclose(y.sum(axis=0)[:, latency:], x[:, :-latency], atol=1e-6)
    # The stream began with silence, some time before the recording. The ring tells when: so hops and state are the same here.
    zero = end - len(part) - find(part, x)  # the position of the recording's first frame
    sound = np.concatenate([np.zeros((2, zero - start), np.float32), x], axis=1)
    z = separated(live, sound)[:, :, zero - start :]
    np.testing.assert_array_equal(y[:, :, latency:], z[:, :, :-latency])


def separated(model, x):
    """What `streamsep separate` makes of `x`."""
    separator = Separator(model, RATE, 2, "cpu")
    return np.concatenate([separator.process(x), separator.flush()], axis=2)[:, :, separator.latency :]


def graph():
    return subprocess.run(["jack_lsp"], capture_output=True, text=True, check=False).stdout


def told_latency():
    """Frames by which jalv tells the graph that the plugin delays; it tells that at its inputs."""
    said = subprocess.run(["jack_lsp", "-l", "streamsep:in_l"], capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if "port capture latency" in line]
    return int(line.split("[")[1].split()[0])


def overheard(name, live):
    """(START, position, frames `[shape=(samples, channels)]` that end at the position) of what the instance has just heard."""
    segment = segments.Segment.open(name, live.contract)
    header, ring = segment.rings.header, segment.rings.inward
    end = int(rings.position(header, rings.IN_WRITE))
    return int(header[rings.START]), end, ring[np.arange(end - 9600, end) % len(ring)].copy()


def find(part, x):
    """Where `part` `[shape=(samples, channels)]` begins in `x` `[shape=(channels, samples)]`."""
    starts = np.flatnonzero((x[:, : x.shape[1] - len(part)] == part[:1].T).all(axis=0))
    (place,) = [n for n in starts if np.array_equal(x[:, n : n + len(part)], part.T)]
    return int(place)
