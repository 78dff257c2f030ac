"""One list of settings: defaults, then a TOML file, then command-line flags; validated once, before anything starts.

The command line's options, the TOML keys and their help are made from the fields of `Config`; nothing is listed twice.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from . import StreamsepError
from .channelmap import Wiring, parse, parse_inputs, parse_outputs, spell


class ConfigError(StreamsepError):
    """A setting is unknown or out of range."""


Provider = Literal["auto", "cpu", "cuda"]
Decibels = Annotated[float, Field(allow_inf_nan=False)]
MOST_STREAMS = 64


def _inputs(words: str | None) -> str | None:
    if words is not None:
        parse_inputs(words)
    return words


def _outputs(words: str | None) -> str | None:
    if words is not None:
        parse_outputs(words)
    return words


InputChannels = Annotated[str, BeforeValidator(spell), AfterValidator(_inputs)]
OutputChannels = Annotated[str, BeforeValidator(spell), AfterValidator(_outputs)]


class StreamConfig(BaseModel):
    """One `[[stream]]`: a microphone or line of its own, separated beside the others. Spelled as the settings of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=32, description="for ports, files and OSC [default: its number]"
    )
    input_channels: InputChannels = Field(description="channels of the input device, such as 1,2; 1 to 8 of them")
    output_channels: OutputChannels | None = Field(None, description="where its sources go [default: pairs, or the mix]")
    gain: dict[str, Decibels] = Field(default_factory=dict, description="gain of each source at the start, dB")
    mute: list[str] = Field(default_factory=list, description="sources that are muted at the start")
    active: bool = Field(True, description="whether it takes part from the start; OSC lets it join and leave")

    @property
    def wiring(self) -> Wiring:
        """The channels that are asked for."""
        return parse(self.input_channels, self.output_channels)


class Config(BaseModel):
    """What `streamsep run` can be told. Frozen; an unknown name is an error, as is a value out of its range."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: str | None = Field(
        None, description="input device: index, name, words of it, file:PATH, or osc:PORT [default: the system's]"
    )
    output: str | None = Field(None, description="output device, file:PATH, or none [default: the system's]")
    model: str = Field("live", description="a shipped model's name, or an .onnx file")
    rate: int | None = Field(None, ge=8_000, le=192_000, description="sample rate, Hz [default: the input device's]")
    block: int = Field(0, ge=0, le=8192, description="device block, frames; 0: the server's own (JACK) or one hop")
    provider: Provider = Field("auto", description="where the network runs")
    require_gpu: bool = Field(False, description="end with exit code 3 where the network cannot run on the GPU")
    rehearse: bool = Field(
        False, description="run the network for nothing right before each hop: a third of the step, 10 % of a core more (CPU)"
    )
    osc_host: str = Field("127.0.0.1", min_length=1, description="address the OSC server listens on; 0.0.0.0 or ::, all")
    osc_port: int = Field(9000, ge=0, le=65535, description="UDP port of the OSC server; 0: any free one")
    osc_tcp_port: int | None = Field(
        None, ge=0, le=65535, description="TCP port of the OSC server; 0: any free one [default: no TCP]"
    )
    http: int | None = Field(
        None, ge=0, le=65535, description="port for the monitor page and OSCQuery; 0: any free one [default: no HTTP]"
    )
    http_host: str = Field("127.0.0.1", min_length=1, description="address the HTTP port is opened at")
    http_token: str | None = Field(
        None,
        pattern=r"^([\w.~-]{16,})?$",
        description="token in the page's URL [default: none on the loopback, else a new one]",
    )
    advertise: bool = Field(False, description="announce by zeroconf to other machines, too; --http alone does to this one")
    osc_allow: str | list[str] = Field(
        "", validate_default=True, description="other machines that may speak OSC: addresses or networks, commas between"
    )
    osc_read_only: bool = Field(False, description="answer questions over OSC, refuse all that steers")
    osc_quit: bool = Field(False, description="whether /streamsep/quit ends the daemon")
    osc_jitter_ms: float = Field(20, ge=1, le=1000, description="how much later than others a packet to osc:PORT may come, ms")
    duration: float | None = Field(None, gt=0, description="stop after so many seconds [default: run until told to stop]")
    input_channels: Annotated[str | None, BeforeValidator(spell), AfterValidator(_inputs)] = Field(
        None, description="channels of the input device, such as 1,2; 1 to 8 of them [default: the first two]"
    )
    output_channels: Annotated[str | None, BeforeValidator(spell), AfterValidator(_outputs)] = Field(
        None, description="where sources go, such as 'vocals=1,2;accompaniment=3,4;mix=5,6' [default: pairs, or the mix]"
    )
    clocks: Literal["auto", "one", "two"] = Field(
        "auto", description="whether input and output run by one clock; two: each by its own, with a resampler between"
    )
    host_api: dict[str, bool | str | int] = Field(
        default_factory=dict, description="settings of WASAPI or CoreAudio, such as exclusive = true (TOML only)"
    )
    record: str | None = Field(None, description="folder to record each source and what is heard into, as FLAC")
    gain: dict[str, Decibels] = Field(default_factory=dict, description="gain of each source at the start, dB (TOML only)")
    stream: list[StreamConfig] = Field(
        default_factory=list, max_length=MOST_STREAMS, description="several microphones or lines, each by itself (TOML only)"
    )

    @field_validator("stream")
    @classmethod
    def _streams(cls, value: list[StreamConfig], info: ValidationInfo) -> list[StreamConfig]:
        """Names that tell streams apart; nothing said twice."""
        names = [stream.name or f"stream{n}" for n, stream in enumerate(value, 1)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"expected each name once, not {name!r} again")
        for key in ("input_channels", "output_channels", "gain"):
            if value and info.data.get(key):
                raise ValueError(f"expected {key} in each [[stream]], not beside them")
        if value and info.data.get("rehearse"):
            raise ValueError("expected none with rehearse = true, which is for one")
        return value

    @property
    def wiring(self) -> Wiring:
        """The channels that are asked for."""
        return parse(self.input_channels, self.output_channels)

    @field_validator("require_gpu")
    @classmethod
    def _gpu(cls, value: bool, info: ValidationInfo) -> bool:
        """Not together with a provider that has none."""
        if value and info.data.get("provider") == "cpu":
            raise ValueError("expected provider 'auto' or 'cuda' with it, not 'cpu'")
        return value

    @property
    def engine_provider(self) -> Provider:
        """What an engine is to be told."""
        return engine_provider(self.provider, self.require_gpu)

    @field_validator("osc_allow")
    @classmethod
    def _networks(cls, value: str | list[str], info: ValidationInfo) -> list[str]:
        """Addresses and networks that are ones; needed as soon as something listens off the loopback."""
        networks = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        for network in networks:
            try:
                ip_network(network)
            except ValueError:
                raise ValueError("expected addresses or networks such as 192.168.1.0/24") from None
        for key in ("osc_host", "http_host"):
            host = str(info.data.get(key))
            if not networks and not is_loopback(host):
                raise ValueError(f"expected who may speak to {key}={host!r}, for example 192.168.1.0/24 (0.0.0.0/0: anybody)")
        return networks


def engine_provider(provider: Provider, require_gpu: bool) -> Provider:
    """What an engine is to be told, to which "cuda" is an order: for people it is a wish, unless they require it."""
    if require_gpu and provider == "cpu":
        raise ConfigError("require_gpu=True: expected provider 'auto' or 'cuda' with it, not 'cpu'")
    return "cuda" if require_gpu else "auto" if provider == "cuda" else provider


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def load(path: Path | None, flags: dict[str, Any]) -> Config:
    """Defaults, overlaid with the TOML file at `path`, overlaid with those `flags` that are not None.

    Parameters
    ----------
    path
        a TOML file, or None for none.
    flags
        by the names of the fields of `Config`.

    Raises
    ------
    ConfigError
        the file cannot be read, or a value is not what was expected.
    """
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"configuration file {str(path)!r} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"configuration file {str(path)!r} is not TOML: {error}") from error
    settings |= {key: value for key, value in flags.items() if value is not None}
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(explain(error.errors()[0])) from error


def explain(problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors in one line: the setting, its value, what was expected."""
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        near = "".join(f"{word!r}, or " for word in get_close_matches(name, Config.model_fields, 1))
        return f"setting {name!r} is unknown: expected {near}one of {', '.join(Config.model_fields)}"
    expected = (
        problem["msg"]
        .removeprefix("Value error, ")
        .replace("Input should be", "expected")
        .replace("String should", "expected to")
    )
    return f"{name}={problem['input']!r}: {expected}"
