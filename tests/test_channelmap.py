"""Channel maps: what people write, and the table that comes of it."""

import numpy as np
import pytest

from streamsep import rings as R
from streamsep.channelmap import default_routes, parse, parse_inputs, parse_outputs, spell

SOURCES = ("vocals", "accompaniment")


def played(routes, y, outputs):
    """`y` `[shape=(sources, channels, frames)]` as it reaches the device `[shape=(outputs, frames)]`."""
    rings = R.make_rings(64, y.shape[1], outputs, y.shape[0] * y.shape[1], routes)
    rings.outward[:] = np.nan
    R.put(rings, y)
    return rings.outward[: y.shape[2]].T


def test_sources_go_where_they_are_sent_bit_for_bit():
    y = np.random.default_rng(0).standard_normal((2, 2, 32)).astype(np.float32)
    wiring = parse(None, "accompaniment=2,1; vocals=5,4")
    out = played(wiring.routes(SOURCES, 2), y, wiring.highest_output)
    for channel, expected in enumerate([y[1, 1], y[1, 0], 0 * y[0, 0], y[0, 1], y[0, 0]]):
        np.testing.assert_array_equal(out[channel], expected)


def test_one_channel_gets_the_mean_and_mono_goes_to_all():
    y = np.random.default_rng(0).standard_normal((2, 2, 32)).astype(np.float32)
    out = played(parse(None, "vocals=1;mix=2,3").routes(SOURCES, 2), y, 3)
    np.testing.assert_allclose(out, [y[0].mean(0), *y.sum(0)], atol=1e-6)
    mono = y[:, :1]
    np.testing.assert_array_equal(played(parse(None, "vocals=1,2,3").routes(SOURCES, 1), mono, 3), mono[0].repeat(3, axis=0))


def test_without_a_wish_the_usual_way():
    assert parse(None, None).routes(SOURCES, 2) is None
    pairs = default_routes(2, 2, 4)
    np.testing.assert_array_equal(pairs.where, [[0, 0, 0], [0, 1, 1], [1, 0, 2], [1, 1, 3]])
    np.testing.assert_array_equal(pairs.weight, 1)


def test_a_source_that_there_is_not():
    with pytest.raises(ValueError, match="source 'drums' is unknown: expected one of vocals, accompaniment, mix"):
        parse(None, "drums=1,2").routes(SOURCES, 2)


def test_toml_lists_and_tables_are_the_same_words():
    assert parse_inputs(spell([3, 1])) == parse_inputs("3, 1") == (3, 1)
    assert parse_inputs(spell(2)) == (2,)
    assert parse_outputs(spell({"vocals": [1, 2], "mix": 3})) == parse_outputs("vocals=1,2;mix=3")


@pytest.mark.parametrize("text", ["", "0", "1,1", "1;2", "a", "1,2,3,4,5,6,7,8,9", "65", "-1", "1,"])
def test_inputs_that_make_no_sense(text):
    with pytest.raises(ValueError, match="expected"):
        parse_inputs(text)


@pytest.mark.parametrize("text", ["vocals", "=1", "vocals=", "vocals=1,1", "vocals=1;vocals=2", "vocals=0", "vocals=1=2"])
def test_outputs_that_make_no_sense(text):
    with pytest.raises(ValueError, match="expected"):
        parse_outputs(text)
