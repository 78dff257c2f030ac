"""What the OSC server holds while sound is separated: round trips, floods, and packets that are none.

    python bench/osc.py [--seconds 60] [--malformed 1000000] [--json]

A daemon of its own plays the bundled song from a file, in real time, through the shipped model. Three stretches:

    calm       a /ping every 10 ms from one client
    flood      four clients send 10,000 messages a second between them; a fifth pings
    malformed  damaged copies of good packets as fast as they are taken; every 25 of them a ping must come back

Memory is what the process grew by, less what the file device keeps of the played sound. All runs on this machine's loopback.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg

from streamsep import demo

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[1]
CLIENTS, RATE = 4, 10_000  # of the flood: messages/s between them
EVERY = 0.01  # s between two pings
BATCH = 25  # malformed packets between two pings: as many large ones as the usual buffer of a socket holds
GIVE_UP = 0.5  # s until a ping counts as lost
NOW = b"#bundle\0" + bytes(7) + b"\1"


def hostile(seed: int, count: int) -> Iterator[bytes]:
    """`count` packets that are damaged, cut off, oversized, wrongly typed, deeply nested, or noise; the same for a `seed`."""
    rng = random.Random(seed)
    good = [
        build_msg("/streamsep/source/vocals/gain", [1.0]).dgram,
        build_msg("/streamsep/source/*/mute", [1]).dgram,
        build_msg("/streamsep/notify", [1, 9]).dgram,
        build_msg("/streamsep/audio/subscribe", ["mix", 9, "f32"]).dgram,
        build_msg("/streamsep/status").dgram,
        build_msg("/streamsep/model", ["x" * 200]).dgram,
    ]
    good.append(NOW + b"".join(struct.pack(">i", len(m)) + m for m in good))
    good.append(struct.pack(">8sQ", b"#bundle", (int(time.time()) + 2_208_988_800 + 86400 * 365) << 32) + good[-1][16:])
    for _ in range(count):
        packet = bytearray(rng.choice(good))
        kind = rng.randrange(7)
        if kind == 0:  # damaged
            for _ in range(rng.randint(1, 4)):
                packet[rng.randrange(len(packet))] = rng.randrange(256)
        elif kind == 1:  # cut off
            del packet[rng.randrange(len(packet)) :]
        elif kind == 2:  # oversized
            packet += rng.randbytes(rng.choice((4, 400, 9000)))
        elif kind == 3:  # wrongly typed: what follows the comma is anything
            at = packet.rfind(b",")
            packet[at + 1 : at + 4] = rng.randbytes(3)
        elif kind == 4:  # nested
            for _ in range(rng.choice((3, 50, 380))):
                packet[:0] = NOW + struct.pack(">i", len(packet))
        elif kind == 5:  # a pattern that is work
            packet = bytearray(b"/" + rng.choice((b"*", b"*a", b"[!a-z]", b"{a,b}", b"?")) * rng.randrange(1, 60))
            packet += bytes(4 - len(packet) % 4) + b",i\0\0\0\0\0\1"
        else:  # noise
            packet = bytearray(rng.randbytes(rng.randrange(0, 200)))
        yield bytes(packet)


class Client:
    """A socket that talks to the daemon."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect((HOST, port))
        self.socket.settimeout(GIVE_UP)
        self.lost = 0  # pings or pongs
        self._last = 0

    def send(self, data: bytes) -> None:
        """Send one packet."""
        self.socket.send(data)

    def ask(self, address: str, reply: str, *arguments: object) -> list[Any]:
        """The arguments of the reply on `reply`; what else comes is passed over."""
        self.send(build_msg(address, arguments).dgram)
        while True:
            data = self.socket.recv(65536)
            if data.startswith(reply.encode() + b"\0"):
                return list(OscMessage(data).params)

    def ping(self) -> float:
        """Round trip, ms; what is lost, because a buffer in the system was full, is counted and sent again."""
        start = time.perf_counter()
        while True:
            self._last += 1
            try:
                while self.ask("/streamsep/ping", "/streamsep/pong", self._last) != [self._last]:
                    pass
            except TimeoutError:
                self.lost += 1
            else:
                return 1e3 * (time.perf_counter() - start)

    def status(self) -> dict[str, Any]:
        """The daemon's figures."""
        values = self.ask("/streamsep/status", "/streamsep/status.reply")
        return dict(zip(values[::2], values[1::2], strict=True))


@contextlib.contextmanager
def daemon(seconds: float, *settings: str) -> Iterator[tuple[int, int]]:
    """A daemon that plays the bundled song, again and again, for `seconds` at most: its OSC port and process id."""
    stems = [soundfile.read(path, dtype="float32", always_2d=True) for path in demo.STEMS.values()]
    song, rate = sum(x for x, _ in stems), stems[0][1]
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        path = Path(folder) / "song.wav"
        soundfile.write(path, np.resize(song, (int(seconds * rate), song.shape[1])), rate, subtype="PCM_16")
        free.bind((HOST, 0))
        port = free.getsockname()[1]
        free.close()
        command = [sys.executable, "-m", "streamsep", "run", "--input", f"file:{path.name}", "--output", "none"]
        process = subprocess.Popen(
            [*command, "--osc-port", str(port), "--json", *settings],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr
        try:
            for line in process.stderr:
                if "OSC on" in line:
                    break
            else:
                raise SystemExit("bench/osc: the daemon did not start")
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def flood(port: int, stop: threading.Event, sent: list[int]) -> None:
    """One of `CLIENTS` that send `RATE` between them, in small bursts; what comes back is taken and thrown away."""
    client = Client(port)
    client.socket.setblocking(False)
    messages = [
        build_msg("/streamsep/source/vocals/gain", [-3.0]).dgram,
        build_msg("/streamsep/source/accompaniment/mute", [0]).dgram,
        build_msg("/streamsep/output/gain").dgram,
        build_msg("/streamsep/wet", [1.0]).dgram,
    ]
    burst, count, begin = 10, 0, time.perf_counter()
    while not stop.is_set():
        for n in range(burst):
            with contextlib.suppress(OSError):
                client.send(messages[n % len(messages)])
            with contextlib.suppress(OSError):
                client.socket.recv(65536)
        count += burst
        time.sleep(max(0.0, begin + count * CLIENTS / RATE - time.perf_counter()))
    sent.append(count)
    client.socket.close()


def summary(times: list[float]) -> dict[str, float]:
    """p50, p99 and maximum, ms."""
    return {f"p{q}": round(float(np.percentile(times, q)), 3) for q in (50, 99)} | {"max": round(max(times), 3)}


def pings(client: Client, seconds: float) -> dict[str, float]:
    """Round trips for so long."""
    times, begin = [], time.perf_counter()
    while time.perf_counter() - begin < seconds:
        times.append(client.ping())
        time.sleep(EVERY)
    return summary(times)


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(seconds: float, malformed: int) -> dict[str, Any]:
    """All figures."""
    report: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "seconds": seconds,
    }
    with daemon(3 * seconds + malformed / 500 + 60) as (port, pid):
        client = Client(port)
        pings(client, 1)
        before, resident = client.status(), memory(pid)
        first = before["hops"]
        report["calm"] = {"ping_ms": pings(client, seconds), "late": client.status()["late"] - before["late"]}

        before, stop = client.status(), threading.Event()
        sent: list[int] = []
        threads = [threading.Thread(target=flood, args=(port, stop, sent)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        report["flood"] = {"ping_ms": pings(client, seconds)}
        stop.set()
        for thread in threads:
            thread.join()
        after = client.status()
        report["flood"] |= {
            "sent": sum(sent),
            "sent_per_s": round(sum(sent) / seconds),
            "obeyed": after["osc.messages"] - before["osc.messages"],
            "late": after["late"] - before["late"],
        }

        times, before, begin = [], client.status(), time.perf_counter()
        for n, packet in enumerate(hostile(0, malformed)):
            with contextlib.suppress(OSError):
                client.send(packet)
            if n % BATCH == BATCH - 1:
                times.append(client.ping())
        after = client.status()
        grown = memory(pid) - resident
        played = 4 * after["out_channels"] * (after["hops"] - first) * after["hop"]
        report["malformed"] = {
            "sent": malformed,
            "sent_per_s": round(malformed / (time.perf_counter() - begin)),
            "malformed": after["osc.malformed"] - before["osc.malformed"],
            "refused": after["osc.refused"] - before["osc.refused"],
            "late": after["late"] - before["late"],
            "batch_ms": summary(times) if times else {},
        }
        report |= {"hops": after["hops"], "faults": after["osc.faults"], "deadline_ms": after["deadline_ms"]}
        report["lost_pings"] = client.lost
        report["step_ms"] = {key: after[f"step_ms.{key}"] for key in ("p50", "p99", "max")}
        report["grown_mib"] = round((grown - played) / 2**20, 1)
    return report


def markdown(report: dict[str, Any]) -> str:
    """The figures for people."""
    calm, flooded, bad, step = report["calm"], report["flood"], report["malformed"], report["step_ms"]
    rows = (
        ("calm", "a ping every 10 ms", calm),
        (
            f"flood, {CLIENTS} clients",
            f"{flooded['sent']} sent, {flooded['sent_per_s']}/s, {flooded['obeyed']} messages taken",
            flooded,
        ),
        (
            "malformed",
            f"{bad['sent']} sent, {bad['sent_per_s']}/s; {bad['malformed']} thrown away, {bad['refused']} refusals",
            bad,
        ),
    )
    lines = [
        f"The bundled song through the shipped model in real time, {report['machine']}, {report['seconds']:g} s a stretch. "
        f"A hop took {step['p50']:.2f} / {step['p99']:.2f} / {step['max']:.2f} ms (p50 / p99 / max) of "
        f"{report['deadline_ms']}; memory grew by {report['grown_mib']} MiB; {report['faults']} faults in the server's loop; "
        f"{report['lost_pings']} pings lost.",
        "",
        "| stretch | messages | ping p50 / p99 / max ms | late hops |",
        "|---|---|---|---|",
    ]
    for name, messages, r in rows:
        p = r.get("ping_ms")
        times = f"{p['p50']:.2f} / {p['p99']:.2f} / {p['max']:.2f}" if p else "-"
        lines.append(f"| {name} | {messages} | {times} | {r['late']} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of the calm and of the flood (60)")
    parser.add_argument("--malformed", type=int, default=1_000_000, help="packets (1000000)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a Markdown section")
    arguments = parser.parse_args()
    report = measure(arguments.seconds, arguments.malformed)
    print(json.dumps(report, indent=2) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
