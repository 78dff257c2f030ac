"""What N streams cost is counted right, and the largest N is found; how fast this machine is plays no part."""

import numpy as np
import pytest

from streamsep import capacity
from streamsep.capacity import Cost


def cost(streams, limit) -> Cost:
    p99 = 8.0 * streams / limit
    figures = {"p50": p99 / 2, "p99": p99 - 1e-9, "p99.9": p99, "max": p99}
    return Cost(streams, 100, 8.0, True, False, 0, figures, {})


@pytest.mark.parametrize("limit", [1, 2, 3, 40, 47, 100, 1000])
def test_the_largest_number_that_holds_is_found(limit):
    asked = []
    found = capacity.largest(lambda n: (asked.append(n), cost(n, limit))[1])
    held = max((c.streams for c in found if c.holds), default=0)
    assert limit - max(1, limit // 20) <= held <= limit
    assert [c.streams for c in found] == sorted(asked)
    assert len(asked) == len(set(asked)) < 20


def test_none_may_hold_and_all_may():
    assert not any(c.holds for c in capacity.largest(lambda n: cost(n, 0.5)))
    assert capacity.largest(lambda n: cost(n, 10_000), most=50)[-1].streams == 50


@pytest.mark.parametrize("paced", [False, True])
def test_every_hop_of_every_stream_is_counted(live, paced):
    made = capacity.make(live, 3)
    found = capacity.measure(made, hops=5, paced=paced)
    assert (found.streams, found.hops, found.deadline_ms, found.paced, found.together) == (3, 5, 8.0, paced, False)
    assert {stream.counts["hops"] for stream in made.streams} == {25}  # 20 of them to warm up
    assert made.counts["failed_steps"] == made.counts["bad_masks"] == 0
    assert set(found.stages_ms) == set(capacity.STAGES)
    assert all(0 < stage["p50"] <= stage["max"] <= found.whole_ms["max"] * 1.05 for stage in found.stages_ms.values())
    assert found.per_stream_ms == found.whole_ms["p50"] / 3
    levels = [float(np.abs(stream.state.y).max()) for stream in made.streams]
    assert min(levels) > 0
    assert max(levels) > 3 * min(levels)  # streams of their own
