"""What a daemon has to stand beside its work. `python bench/loads.py gil|osc|cpu` (see bench/soak.py)

gil ARGUMENTS    `streamsep ARGUMENTS`, in it a Python thread that from a line on stdin on never lets go of the GIL by itself
osc PORT         10,000 messages a second to an OSC port of this machine; prints how many it sent, at SIGTERM
cpu              one core busy
"""

import signal
import socket
import sys
import threading
import time

from streamsep.benchmark.loads import hog

PER_SECOND = 10_000


def hog_when_told() -> None:
    """Compute in Python for ever, after a line on stdin."""
    sys.stdin.readline()
    hog()


def flood(port: int) -> None:
    """Messages that set a gain, evenly spread; what comes back is dropped by the system."""
    from pythonosc.osc_message_builder import build_msg

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    packet = build_msg("/streamsep/source/vocals/gain", [0.0]).dgram
    sent, start = 0, time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        while not ended.is_set():
            due = int((time.monotonic() - start) * PER_SECOND)
            for _ in range(due - sent):
                try:
                    sender.send(packet)
                except ConnectionRefusedError:  # nobody is there any more
                    ended.set()
            sent = due
            time.sleep(0.001)
    print(round(sent / (time.monotonic() - start)))


def main() -> None:
    """Be the load that is named."""
    name, *rest = sys.argv[1:]
    if name == "gil":
        threading.Thread(target=hog_when_told, daemon=True).start()
        from streamsep.cli import main as streamsep

        streamsep(rest)
    elif name == "osc":
        flood(int(rest[0]))
    elif name == "cpu":
        hog()
    else:
        sys.exit(f"loads: {name!r} is unknown: expected gil, osc or cpu")


if __name__ == "__main__":
    main()
