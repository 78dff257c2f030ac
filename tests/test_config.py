"""One list of settings: defaults, TOML, flags, in that order; nonsense is refused by name."""

import pytest

from streamsep.config import Config, ConfigError, load


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('model = "other.onnx"\nosc_port = 7000\n[gain]\nvocals = -12\n')
    config = load(path, {"osc_port": 7001, "rate": None})
    assert (config.model, config.osc_port, config.rate, config.block) == ("other.onnx", 7001, None, 0)
    assert config.gain == {"vocals": -12}
    assert load(None, {}) == Config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("blok = 3", "'blok' is unknown: expected 'block', or one of input"),
        ("rate = 100", "rate=100: expected"),
        ('rate = "fast"', "rate='fast'"),
        ("osc_port = 70000", "osc_port=70000"),
        ("provider = 'tpu'", "provider='tpu': expected 'auto', 'cpu' or 'cuda'"),
        ("duration = 0", "duration=0"),
        ('osc_host = "0.0.0.0"', "osc_allow='': expected who may speak to osc_host='0.0.0.0', for example 192.168.1.0/24"),
        ('http_host = "::"', "expected who may speak to http_host='::'"),
        ('osc_allow = "10.0.0.0/99"', "osc_allow='10.0.0.0/99': expected addresses or networks such as 192.168.1.0/24"),
        ("= 3", "not TOML"),
        ("input_channels = [0]", "input_channels=[0]: expected channels from 1 to 64, such as 1,2"),
        ("[output_channels]\nvocals = [1, 1]", "output_channels={'vocals': [1, 1]}: expected each channel once"),
        ("clocks = 'three'", "clocks='three': expected 'auto', 'one' or 'two'"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path, text, says):
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_channels_are_the_same_as_words_and_as_toml(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("input_channels = [3, 4]\n[output_channels]\nvocals = [1, 2]\nmix = 3\n[host_api]\nexclusive = true\n")
    config = load(path, {})
    assert config.wiring == load(None, {"input_channels": "3,4", "output_channels": "vocals=1,2; mix=3"}).wiring
    assert config.wiring.inputs == (3, 4)
    assert config.wiring.outputs == {"vocals": (1, 2), "mix": (3,)}
    assert config.host_api == {"exclusive": True}


def test_who_may_speak_to_us_from_elsewhere(tmp_path):
    assert load(None, {}).osc_allow == []
    assert load(None, {"osc_host": "::1"}).osc_allow == []
    assert load(None, {"osc_host": "::", "osc_allow": "192.168.1.0/24, fe80::/10"}).osc_allow == ["192.168.1.0/24", "fe80::/10"]
    path = tmp_path / "c.toml"
    path.write_text('osc_allow = ["10.0.0.7"]\nosc_read_only = true\n')
    config = load(path, {"osc_host": "0.0.0.0"})
    assert (config.osc_allow, config.osc_read_only, config.osc_quit) == (["10.0.0.7"], True, False)


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml", {})
