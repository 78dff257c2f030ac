"""The life of the daemon: start-up, main loop, shutdown. It joins the rooms and knows none of their insides."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import model as models
from .audioin import DEFAULT_RATE, OSC, OscInput
from .config import Config, ConfigError
from .device import FILE, NONE, DeviceError, PortAudioDevice
from .engine import Separator
from .filedevice import FileDevice
from .filesink import FileSink
from .live import Live
from .osc import OscServer
from .osc.services import places, services
from .soundfiles import write

Device = FileDevice | OscInput | PortAudioDevice
Report = dict[str, object]

_SILENT = 2.0  # s without a block: the device is gone, whatever PortAudio says (a killed JACK server stays "active")
_TICK = 0.05  # s; how soon a signal or the end of a file is noticed


def run(config: Config, announce: Callable[[Report], None], stop: threading.Event) -> Report:
    """Run until the duration is over, the file is played, or `stop` is set; what happened.

    `announce` is called once, before the first sound, with the set-up and the latency in its parts.

    Raises
    ------
    ModelError, ConfigError, AudioFileError, DeviceError, LiveError, OrtError, OscError
        it could not start, or (DeviceError) the device went away.
    """
    model = models.load(config.model)
    device = open_device(config, model)
    separator = _separator(config, model, device)
    live = Live(separator, device)
    osc = OscServer(
        _Host(config, live, stop),
        config.osc_host,
        config.osc_port,
        allow=config.osc_allow,
        read_only=config.osc_read_only,
        may_quit=config.osc_quit,
        services=services(config),
    )
    gone = False
    with osc:
        live.prepare()
        try:
            if not stop.is_set():
                live.open()
                announce(describe(live) | {"osc": f"{config.osc_host}:{osc.port}"} | places(osc))
                live.start()
                gone = _wait(stop, live, config.duration)
        finally:
            live.stop()
    if isinstance(device, FileDevice):
        if config.output not in (None, NONE):
            write(_path(config.output), device.played[: device.position], device.sample_rate)
    elif gone:
        raise DeviceError(f"{device.name} went away: is its server still running? Start streamsep again when it is")
    return _report(live) | {"osc": osc.counts}


class _Host:
    """This daemon as OSC sees it (`osc.Host`)."""

    def __init__(self, config: Config, live: Live, stop: threading.Event) -> None:
        self.separator, self.rings, self.meters = live.separator, live.rings, live.meters
        self.model = config.model
        self.devices = config.input or "", config.output or ""
        self.recording = ""
        self.state = "running"
        self.quit = stop.set
        self._live = live

    def status(self) -> dict[str, int | float | str]:
        return _status(self._live)

    def choose(self, *, model: str | None = None, input: str | None = None, output: str | None = None) -> None:
        raise ValueError("model and devices cannot be changed while it runs: expected a restart with other flags")

    def record(self, on: bool) -> bool:
        raise ValueError("nothing is recorded: expected a receiver of /streamsep/audio")


def _separator(config: Config, model: models.Model, device: Device) -> Separator:
    try:
        separator = Separator(model, device.sample_rate, device.in_channels, config.provider)
    except ValueError as error:
        raise DeviceError(f"{device.name} does not fit the engine: {error}") from error
    try:
        for source, db in config.gain.items():
            separator.set_gain(source, db)
    except ValueError as error:
        raise ConfigError(f"gain: {error}") from error
    return separator


def _path(name: str | None) -> Path:
    return Path(str(name).removeprefix(FILE))


def open_device(config: Config, model: models.Model) -> Device:
    """The device that the configuration names; DeviceError if there is none."""
    contract = model.contract
    hop_seconds = contract.hop_length / contract.sample_rate
    sources = len(contract.sources)
    if str(config.input or "").startswith(OSC):
        return _osc_input(config, hop_seconds, sources)
    files = [str(name or "").startswith(FILE) for name in (config.input, config.output)]
    if not any(files):
        return PortAudioDevice(config.input, config.output, config.rate, config.block, hop_seconds, sources)
    if not files[0] or not (files[1] or config.output in (None, NONE)):
        raise DeviceError(
            f"input={config.input!r} with output={config.output!r}: a file plays to a file or to {NONE!r}; "
            f"route a player's output into an audio device instead"
        )
    if files[1] and not _path(config.output).resolve().parent.is_dir():
        raise DeviceError(f"output={config.output!r}: its folder does not exist; make it or choose another")
    device = FileDevice(_path(config.input), config.block, hop_seconds, sources)
    if config.rate not in (None, device.sample_rate):
        raise DeviceError(f"rate={config.rate} Hz: expected the file's own {device.sample_rate} Hz, or leave it out")
    return device


def _osc_input(config: Config, hop_seconds: float, sources: int) -> OscInput:
    """Sound from the network. It has no player's clock of its own, so none can play it (see `audioin`)."""
    port = str(config.input).removeprefix(OSC)
    if not port.isdecimal() or int(port) > 65535:
        raise DeviceError(f"input={config.input!r}: expected {OSC}PORT with 0 to 65535, 0 for any free one")
    sink = None
    if str(config.output or "").startswith(FILE):
        sink = FileSink(_path(config.output), config.rate or DEFAULT_RATE, 2 * sources)
    elif config.output not in (None, NONE):
        raise DeviceError(
            f"input={config.input!r} with output={config.output!r}: sound from the network goes out over OSC or to a file; "
            f"leave --output out, and play it with `streamsep listen mix --play`"
        )
    jitter = config.osc_jitter_ms / 1e3
    return OscInput(config.osc_host, int(port), config.rate, config.block, hop_seconds, jitter, config.osc_allow, sink)


def describe(live: Live) -> Report:
    """The set-up, for people and programs."""
    separator, contract = live.separator, live.separator.model.contract
    return {
        "model": contract.name,
        "sources": list(contract.sources),
        "device": live.device.name,
        "sample_rate": separator.sample_rate,
        "in_channels": separator.channels,
        "out_channels": live.device.out_channels,
        "block": live.block,
        "hop": separator.geometry.hop_length,
        "provider": separator.network.provider,
        "c_api": separator.native,
        "realtime": live.realtime,
        "latency_ms": live.latency.ms(),
        "latency_samples": live.latency.samples(),
    }


def _report(live: Live) -> Report:
    """The set-up and what has happened."""
    received = {"input": live.device.counts} if isinstance(live.device, OscInput) else {}
    return describe(live) | live.report() | received


def _status(live: Live) -> dict[str, int | float | str]:
    """The report, flat, for OSC."""
    flat: dict[str, int | float | str] = {}
    for key, value in _report(live).items():
        if isinstance(value, dict):
            flat |= {f"{key}.{part}": number for part, number in value.items()}
        elif isinstance(value, bool | int):
            flat[key] = int(value)
        elif isinstance(value, list):
            flat[key] = ",".join(map(str, value))
        else:
            flat[key] = value if isinstance(value, float) else str(value)
    return flat


def _wait(stop: threading.Event, live: Live, duration: float | None) -> bool:
    """Until something ends the run; True if that was the device."""
    end = time.monotonic() + duration if duration else float("inf")
    while not stop.wait(min(_TICK, max(0.0, end - time.monotonic()))):
        if live.device.finished or live.silent_for() > _SILENT:
            return True
        if time.monotonic() >= end:
            break
    return False
