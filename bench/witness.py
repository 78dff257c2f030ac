"""Whether the machine itself stood still: a process of the highest priority that only sleeps, and notes how late it is woken.

    python bench/witness.py        until SIGTERM; then one JSON object

A late hop says something about a program only where the machine was there to run it. A virtual machine is not always: its host
may stop all of its cores for tens of milliseconds when they are busy, and nothing in the guest, of whatever priority, runs
then. `stalls` counts wake-ups that came more than `STALL` late, `worst_ms` is the latest one. It is an upper bound: the sleeper
is a Python process on one core, and may be late where the daemon on the other was not. Without the right to a real-time
priority (`realtime`: false) it counts what else the machine did, too.
"""

import json
import signal
import time

from streamsep.native import become_realtime, lock_memory

PERIOD, STALL = 0.002, 0.005  # s
PRIORITY = 90  # above the daemon, the server and the clients


def main() -> None:
    """Sleep and note."""
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    lock_memory()
    granted, stalls, worst = become_realtime(PRIORITY), 0, 0.0
    while not ended:
        before = time.monotonic()
        time.sleep(PERIOD)
        late = time.monotonic() - before - PERIOD
        stalls += late > STALL
        worst = max(worst, late)
    print(json.dumps({"stalls": stalls, "worst_ms": round(1e3 * worst, 2), "realtime": granted}))


if __name__ == "__main__":
    main()
