"""`streamsep run` as a process of its own, as a musician has it."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg

from tests.conftest import ROOT

started: list[subprocess.Popen[str]] = []  # to be ended whatever a test comes to (`end_all`)

# `streamsep`, beside a Python thread that never lets go of the interpreter by itself.
HOGGED = """
import sys, threading
threading.Thread(target=lambda: [sum(i * i for i in range(100_000)) for _ in iter(int, 1)], daemon=True).start()
from streamsep.cli import main
main(sys.argv[1:])
"""


def start_daemon(*arguments, hogged=False, code=""):
    """(process, what it said until OSC was there); `code` runs in its place. With `--json` its report is what it prints."""
    code = HOGGED if hogged else code
    program = ["-c", code] if code else ["-m", "streamsep"]
    command = [sys.executable, *program, "run", "--osc-port", "0", "--json", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    started.append(process)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("OSC on"):
            return process, "".join(lines)
    raise AssertionError(f"the daemon did not start: {''.join(lines)} {stop(process)}")


def stop(process, number=signal.SIGTERM):
    """End a process by its own id, and wait."""
    if process.poll() is None:
        process.send_signal(number)
    try:
        return process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


def end_all():
    """Every process that `start_daemon` began."""
    for process in started:
        stop(process, signal.SIGKILL)
    started.clear()


def osc_port(promised):
    return int(re.search(r"OSC on 127.0.0.1:(\d+)", promised).group(1))


def ask(port, address, *arguments):
    """The answer's arguments, from a daemon that is alive."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(build_msg(address, list(arguments)).dgram, ("127.0.0.1", port))
        return OscMessage(client.recv(65536)).params


def status(port):
    values = ask(port, "/streamsep/status")
    return dict(zip(values[::2], values[1::2], strict=True))
