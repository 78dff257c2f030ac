"""A paced soak on a JACK server of its own: dummy driver, 48 kHz, blocks of 128, the bundled song round and round as input.

    python bench/soak.py [--minutes 30] [--load none|gil|osc|cpu|all] [--program daemon|callback] [--json]

`daemon` is `streamsep run` as anyone starts it; `callback` is bench/callback.py, the usual way in Python. Beside it, as
`--load` says (bench/loads.py): a Python thread in the program that hogs the GIL; 10,000 OSC messages a second; one core busy;
all three at once.

Counted from the moment on in which all is wired and has settled; the times' histograms hold the start too. `late`: hops that
were not done with a mask of their own when they were due, `bridged` those of them that went out through the last mask.
`missed_blocks`: blocks for which the output ring had not enough. The server's own xruns stand apart, by the client that it
blames: they are what the graph as a whole, this machine and the dummy driver's clock did, whoever was at work. So do the times
at which a process that only sleeps was woken more than 5 ms late (bench/witness.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from streamsep import doctor

ROOT = Path(__file__).resolve().parents[1]
PERIOD, RATE = 128, 48_000
SETTLE = 3.0  # s
LOADS = ("none", "gil", "osc", "cpu", "all")
CLIENTS = {"daemon": "streamsep", "callback": "PortAudio"}
COUNTERS = ("hops", "late", "bridged", "lost", "missed_blocks", "input_xruns", "output_xruns")


class Child:
    """A process of ours; at the end it is told so and waited for."""

    def __init__(self, *command: object, text: str = "") -> None:
        self.process = subprocess.Popen(
            [str(c) for c in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if text else None,
            text=True,
            cwd=ROOT,
        )
        self.said = ""
        if text:
            assert self.process.stderr
            for line in self.process.stderr:
                self.said += line
                if text in line:
                    return
            raise RuntimeError(f"{command[1:]} did not start: {self.said}")

    def go(self) -> None:
        """A line on its stdin: the first wakes the hog, at the second bench/callback.py begins to count."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> str:
        """Its standard output."""
        self.process.terminate()
        try:
            return self.process.communicate(timeout=30)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.communicate()[0]

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end()


def start_server(folder: Path) -> subprocess.Popen[bytes]:
    """A JACK server, in real time where the system allows it."""
    realtime = ["-R", "-P", "20"] if doctor.realtime()["granted"] else ["-r"]
    dummy = ["-d", "dummy", "-r", str(RATE), "-p", str(PERIOD), "-C", "2", "-P", "4"]
    log = (folder / "jackd.log").open("w")
    server = subprocess.Popen(["jackd", "-t", "2000", *realtime, *dummy], stdout=log, stderr=log)
    for _ in range(100):
        if subprocess.run(["jack_lsp"], capture_output=True, check=False).returncode == 0:
            return server
        time.sleep(0.1)
    server.kill()
    raise RuntimeError(f"jackd did not start: {(folder / 'jackd.log').read_text()}")


def _end_server(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:  # jackd waits for a client that died without a word
        server.kill()
        server.wait()


def start_program(program: str, load: str, model: str) -> Child:
    """The program under test, with the GIL's hog inside if that is the load."""
    if program == "callback":
        hog = ["--hog"] if load in ("gil", "all") else []
        return Child(sys.executable, "bench/callback.py", "--model", model, *hog, text="OSC on")
    start = ["bench/loads.py", "gil"] if load in ("gil", "all") else ["-m", "streamsep"]
    return Child(sys.executable, *start, "run", "--model", model, "--osc-port", 0, "--json", text="OSC on")


def wire(client: Any, name: str) -> None:
    """The song into the inputs of the client called `name`."""
    inputs = client.get_ports(f"^{name}:", is_audio=True, is_input=True)
    outputs = client.get_ports("^song:", is_audio=True, is_output=True)
    for one, other in zip(outputs, inputs, strict=False):
        client.connect(one, other)


def status(port: int) -> dict[str, Any]:
    """The daemon's figures."""
    from pythonosc.osc_message import OscMessage
    from pythonosc.osc_message_builder import build_msg

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(5)
        asking.connect(("127.0.0.1", port))
        for _ in range(10):  # beside a flood a question may get lost
            try:
                asking.send(build_msg("/streamsep/status", []).dgram)
                values = OscMessage(asking.recv(65536)).params
                return dict(zip(values[::2], values[1::2], strict=True))
            except TimeoutError:
                continue
    raise RuntimeError(f"the daemon on OSC port {port} does not answer")


def blamed(log: str) -> dict[str, int]:
    """How often the server's log names each client as not finished in time."""
    return dict(Counter(re.findall(r"XRun: client = (\S+) was not finished", log)))


class Stage(NamedTuple):
    """All that runs: the program with the song in its inputs, beside a server."""

    child: Child
    port: int  # OSC
    xruns: list[float]  # the server's, as a client that only watches is told
    log: Path  # the server's


@contextmanager
def stage(program: str, load: str, model: str) -> Iterator[Stage]:
    """Start all of it, and end it."""
    import jack

    # Always the same name: JACK has few places for names, and a killed server's is only free for its name again.
    os.environ |= {"JACK_DEFAULT_SERVER": "streamsep-soak", "JACK_NO_AUDIO_RESERVATION": "1"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(_end_server, start_server(folder))
        xruns: list[float] = []
        monitor = jack.Client("monitor", no_start_server=True)
        stack.callback(monitor.close)
        monitor.set_xrun_callback(xruns.append)
        monitor.activate()
        # What has to be compiled is compiled before.
        subprocess.run([sys.executable, "-m", "streamsep", "run", "--osc-port", "0", "--duration", "0.1"], capture_output=True)
        child = stack.enter_context(start_program(program, load, model))
        port = int(re.findall(r"OSC on \S+:(\d+)", child.said)[0])
        stack.enter_context(Child(sys.executable, "bench/player.py", "song", text="ready"))
        wire(monitor, CLIENTS[program])
        yield Stage(child, port, xruns, folder / "jackd.log")


@contextmanager
def beside(load: str, port: int) -> Iterator[list[str]]:
    """The load of other processes; what they printed, once they have ended."""
    commands: dict[str, list[object]] = {"osc": ["osc", port], "cpu": ["cpu"]}
    said: list[str] = []
    with ExitStack() as stack:
        for name, command in commands.items():
            if load in (name, "all"):
                child = stack.enter_context(Child(sys.executable, "bench/loads.py", *command))
                stack.callback(_listen, child, said)
        yield said


def _listen(child: Child, said: list[str]) -> None:
    said.append(child.end().strip())


def soak(program: str, load: str, minutes: float, model: str) -> dict[str, Any]:
    """One run; all figures."""
    with stage(program, load, model) as s:
        s.child.go()
        time.sleep(SETTLE)
        s.child.go()
        before, xruns, said = _counters(program, s.port), len(s.xruns), len(s.log.read_text())
        start = time.monotonic()
        with (
            Child(sys.executable, "bench/witness.py") as witness,
            beside(load, s.port) as sent,
        ):  # a daemon that is flooded beside a GIL's hog answers no question
            while time.monotonic() - start < 60 * minutes and s.child.process.poll() is None:
                time.sleep(min(1.0, max(0.01, 60 * minutes - (time.monotonic() - start))))
            stalls = json.loads(witness.end())
        seconds, after = time.monotonic() - start, _counters(program, s.port)
        result = {
            "program": program,
            "load": load,
            "seconds": round(seconds, 1),
            "server_xruns": len(s.xruns) - xruns,
            "server_blames": blamed(s.log.read_text()[said:]),
            "machine_stalls": stalls,
            "osc_per_second": int(next(filter(None, sent), 0)),
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }
        report = json.loads(s.child.end())
    wanted = (*COUNTERS, "xruns_flagged", "deadline_ms", "realtime")
    figures = {key: value for key, value in report.items() if key in wanted or _is_times(value)}
    return result | figures | {key: after[key] - before[key] for key in after}


def _counters(program: str, port: int) -> dict[str, int]:
    """The daemon's, so far; the other program counts from `go` on by itself."""
    figures = status(port) if program == "daemon" else {}
    return {key: figures[key] for key in COUNTERS if key in figures}


def _is_times(value: object) -> bool:
    return isinstance(value, dict) and "p99.9" in value


def line(r: dict[str, Any]) -> str:
    """One row for people."""

    def times(key: str) -> str:
        t = r.get(key)
        return " / ".join(f"{t[k]:.2f}" for k in ("p50", "p99", "p99.9", "max")) if t else ""

    blames = ", ".join(f"{name} {count}" for name, count in r["server_blames"].items())
    return (
        f"| {r['program']} | {r['load']} | {r['seconds'] / 60:.1f} | {r['hops']} | {r['late']} | {r.get('bridged', '')} "
        f"| {r.get('missed_blocks', '')} | {times('step_ms')} | {times('handover_ms')} "
        f"| {r['server_xruns']}{f' ({blames})' if blames else ''} "
        f"| {r['machine_stalls']['stalls']} ({r['machine_stalls']['worst_ms']:.1f} ms) |"
    )


COLUMNS = (
    "program",
    "load",
    "minutes",
    "hops",
    "late",
    "bridged",
    "blocks missed",
    "step: p50 / p99 / p99.9 / max ms",
    "hand-over: the same",
    "server's xruns",
    "a sleeper woken > 5 ms late (latest)",
)


def head(*more: str) -> list[str]:
    """The table's first two lines; `more`: columns that others add to `line`."""
    columns = [*COLUMNS, *more]
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]


def main() -> None:
    """Run and print."""
    summary, _, text = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(description=summary, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", choices=CLIENTS, default="daemon", help="what is soaked (%(default)s)")
    p.add_argument("--load", choices=LOADS, default="none", help="what goes on beside it (%(default)s)")
    p.add_argument("--minutes", type=float, default=30, help="how long it is counted (%(default)s)")
    p.add_argument("--model", default="live", help="shipped name or .onnx file (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children end too
    report = soak(arguments.program, arguments.load, arguments.minutes, arguments.model)
    print(json.dumps(report, indent=1) if arguments.json else "\n".join([*head(), line(report)]))


if __name__ == "__main__":
    main()
