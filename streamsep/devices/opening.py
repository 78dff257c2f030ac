"""Which device a configuration means: a file, the network, JACK, or one of PortAudio's."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ..config import Config
from ..lines import as_one
from ..live import Device
from ..model import Model
from . import jackdevice
from .filedevice import FileDevice
from .filesink import FileSink
from .oscinput import DEFAULT_RATE, OSC, OscInput
from .portaudiodevice import FILE, NONE, DeviceError, PortAudioDevice

JACK, DEFAULT = "JACK", "default"
PREFIXES = frozenset({JACK, "ALSA", "PULSE", "OSS", "COREAUDIO", "WASAPI", "ASIO", "MME", "DIRECTSOUND", "WDMKS"})


def open_device(config: Config, model: Model) -> Device:
    """The device that the configuration names, not yet started.

    Without names it is JACK where a server runs (it is there to be used), else the devices named last, else the system's own.

    Raises
    ------
    DeviceError
        there is none, or it cannot do what is asked.
    """
    if str(config.input or "").startswith(OSC):
        return _open_osc(config, model)
    if any(str(name or "").startswith(FILE) for name in (config.input, config.output)):
        return _open_file(config, model)
    source, sink = (None if name == DEFAULT else name for name in (config.input, config.output))
    names = [name for name in (source, sink) if name not in (None, NONE)]
    prefixes = {name.partition(":")[0].upper() for name in names} & PREFIXES
    sources, wiring = as_one(config, model.contract.sources)

    def jack() -> Device:
        return jackdevice.open_jack(source, sink, sources, config.rate, config.block, wiring)

    if prefixes == {JACK} or (not names and jackdevice.available()):
        return jack()
    if not prefixes and not any(map(str.isdecimal, names)) and jackdevice.available():
        with suppress(DeviceError):  # then the name is one of PortAudio's, or PortAudio says what there is
            return jack()
    wishes = wiring, config.host_api, config.clocks
    return PortAudioDevice(config.input, config.output, config.rate, config.block, _hop_seconds(model), sources, *wishes)


def reopen_device(config: Config, model: Model, before: Device) -> Device:
    """The same device once more, by its name, after it went away; DeviceError while it is not there."""
    if isinstance(before, PortAudioDevice | jackdevice.JackDevice):
        return before.again()
    return open_device(config, model)


def _hop_seconds(model: Model) -> float:
    return model.contract.hop_length / model.contract.sample_rate


def _open_file(config: Config, model: Model) -> FileDevice:
    """A file to a file, or to nothing."""
    if not str(config.input or "").startswith(FILE) or not (
        config.output in (None, NONE) or str(config.output).startswith(FILE)
    ):
        raise DeviceError(
            f"input={config.input!r} with output={config.output!r}: a file plays to a file or to {NONE!r}; "
            f"route a player's output into an audio device instead"
        )
    if config.output not in (None, NONE) and not path_of(config.output).resolve().parent.is_dir():
        raise DeviceError(f"output={config.output!r}: its folder does not exist; make it or choose another")
    sources, _ = as_one(config, model.contract.sources)
    device = FileDevice(path_of(config.input), config.block, _hop_seconds(model), len(sources))
    if config.rate not in (None, device.sample_rate):
        raise DeviceError(f"rate={config.rate} Hz: expected the file's own {device.sample_rate} Hz, or leave it out")
    return device


def _open_osc(config: Config, model: Model) -> OscInput:
    """Sound from the network. It has no player's clock of its own, so none can play it (see `oscinput`)."""
    port = str(config.input).removeprefix(OSC)
    if not port.isdecimal() or int(port) > 65535:
        raise DeviceError(f"input={config.input!r}: expected {OSC}PORT with 0 to 65535, 0 for any free one")
    sink = None
    if str(config.output or "").startswith(FILE):
        sources, _ = as_one(config, model.contract.sources)
        sink = FileSink(path_of(config.output), config.rate or DEFAULT_RATE, 2 * len(sources))
    elif config.output not in (None, NONE):
        raise DeviceError(
            f"input={config.input!r} with output={config.output!r}: sound from the network goes out over OSC or to a file; "
            f"leave --output out, and play it with `streamsep listen mix --play`"
        )
    jitter, hop = config.osc_jitter_ms / 1e3, _hop_seconds(model)
    return OscInput(config.osc_host, int(port), config.rate, config.block, hop, jitter, config.osc_allow, sink)


def path_of(name: str | None) -> Path:
    """The path in `file:PATH`."""
    return Path(str(name).removeprefix(FILE))
