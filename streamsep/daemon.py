"""The life of the daemon: start-up, main loop, shutdown. It joins the rooms and knows none of their insides.

A device that goes away is waited for: OSC stays up, and when the device is back it is opened again by its name, with nothing
remembered of the sound before. A recording goes on over that, with silence for none of the time between.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from . import StreamsepError, native
from . import model as models
from .batch import Batch
from .config import Config, ConfigError, is_loopback
from .devices.filedevice import FileDevice
from .devices.opening import open_device, path_of, reopen_device
from .devices.oscinput import OscInput
from .devices.portaudiodevice import FILE, NONE, DeviceError
from .engine import Engine, Separator
from .lines import Lines, lines_of
from .live import Device, Live, LiveError, Share
from .meters import Meters
from .ort import fallen_back
from .osc import OscServer
from .osc.host import Line
from .osc.services import places, services
from .recorder import Recorder, RecorderError
from .rings import Rings
from .soundfiles import write
from .takes import Takes

Report = dict[str, object]
Tell = Callable[[str], None]

_SILENT = 1.0  # s without a block: the device is gone, whatever its library says (a killed server's streams stay "active")
_TICK = 0.05  # s; how soon a signal, a wish or the end of a file is noticed
_RETRY = 0.25  # s between two looks for a device that is gone
_BACK_WITHIN = 3.0  # s that a device which is back may take to deliver sound: idle PulseAudio sinks take two


class Daemon:
    """A device, the engine, OSC and the recorder, until it is told to stop. OSC sees it as its `osc.Host`.

    Parameters
    ----------
    config
        validated settings.
    tell
        gets one line whenever something happens that somebody should know.

    Raises
    ------
    ModelError, ConfigError, AudioFileError, DeviceError, OrtError, OscError
        it cannot start like that.
    """

    def __init__(self, config: Config, tell: Tell) -> None:
        self.config = config
        self.state = "starting"
        self.problem = ""  # why the device is not there
        self.reopened = 0
        self._tell = tell
        self._model = models.load(config.model)
        self._first_model = config.model
        self.live = self._build(open_device(config, self._model))
        self._osc = OscServer(
            self,
            config.osc_host,
            config.osc_port,
            allow=config.osc_allow,
            read_only=config.osc_read_only,
            may_quit=config.osc_quit,
            services=services(config),
        )
        self._recorder = self._new_recorder()
        self._recorder_said = ""
        self._take_over = False  # the take that runs is to be ended
        self._wanted: Config | None = None
        self._stop = threading.Event()
        self.memory_locked = ""  # or why it is not

    def _build(self, device: Device, engine: Separator | Batch | None = None) -> Live:
        """The live path on `device`, with `engine` if that fits."""
        rate, channels = device.sample_rate, device.in_channels
        try:
            if engine is None or engine.sample_rate != rate or (isinstance(engine, Separator) and engine.channels != channels):
                engine = self._engine(rate, channels)
            return Live(engine, device, self._shares(device), self.config.rehearse)
        except ValueError as error:
            raise DeviceError(f"{device.name} does not fit the engine: {error}") from error

    def _shares(self, device: Device) -> list[Share]:
        """What of `device` each stream has. Files and the network bring all their channels, others those that are heard."""
        if self._lines is None:
            return []
        whole = isinstance(device, FileDevice | OscInput)
        inputs = tuple(range(1, device.in_channels + 1)) if whole else self._lines.inputs
        return self._lines.shares(device.routes, inputs, device.out_channels)

    @property
    def _lines(self) -> Lines | None:
        """The streams, where the configuration names some."""
        return lines_of(self.config, self._model.contract.sources)

    def _engine(self, sample_rate: int, channels: int) -> Separator | Batch:
        """An engine for each stream, with the gains of the configuration."""
        if not (lines := self._lines):
            separator = Separator(self._model, sample_rate, channels, self.config.engine_provider)
            _set(separator, self.config.gain)
            self._tell_fallback(separator)
            return separator
        batch = Batch(self._model, [(sample_rate, n) for n in lines.channels], self.config.engine_provider)
        self._tell_fallback(batch)
        for slot, stream in enumerate(lines.streams):
            _set(batch.streams[slot], stream.gain, stream.mute)
            if stream.active:
                batch.join(slot)
        return batch

    def _tell_fallback(self, engine: Separator | Batch) -> None:
        for line in fallen_back(self.config.provider, engine.provider, engine.provider_notes):
            self._tell(line)

    # ----------------------------------------------------------------------------------------------------------- its life

    def run(self, announce: Callable[[Report], None], stop: threading.Event) -> Report:
        """Until the duration is over, the file is played, or `stop` is set; what happened.

        `announce` is called once, before the first sound, with the set-up and the latency in its parts.
        """
        self._stop = stop
        with self._osc:
            self.live.prepare()
            self.memory_locked = native.lock_memory()
            try:
                if not stop.is_set():
                    self.live.open()
                    for note in getattr(self.live.device, "notes", ()):
                        self._tell(note)
                    if self.config.record:
                        self._recorder.start()
                    osc = f"{self.config.osc_host}:{self._osc.port}"
                    announce(self.describe() | {"osc": osc, "recording": self.recording} | places(self._osc))
                    self._go()
                    self._tell_manners()
                    self._serve(time.monotonic() + (self.config.duration or float("inf")))
            finally:
                self.live.stop()
                self._end_take()
        self._keep_file()
        more = {"reopened": self.reopened, "recorded": self._recorder.counts, "osc": self._osc.counts}
        return self._report() | more

    def _go(self) -> None:
        """Let sound through a device that is open."""
        self.live.start()
        self.state = "running"
        for note in self.live.engine.network.notes:
            self._tell(note)

    def _tell_manners(self) -> None:
        """Tell what the system does not allow, and how it would."""
        missing = [] if self.live.realtime else ["real-time scheduling"]
        if self.memory_locked:
            missing.append(f"locked memory ({self.memory_locked})")
        if missing and not isinstance(self.live.device, FileDevice):
            self._tell(f"this system does not allow {' and '.join(missing)}: docs/realtime.md says how to")

    def _serve(self, end: float) -> None:
        """The main loop."""
        while not self._over(end, _TICK):
            device = self.live.device
            self._hear_recorder()
            if self._wanted:
                self._change(end)
            elif isinstance(device, FileDevice):
                if device.finished:
                    return
            elif device.finished or self.live.silent_for() > _SILENT:
                self._regain(end, f"{device.name} went away")
            elif getattr(device, "changed", False):
                self._regain(end, f"{device.name} changed its block or rate")

    def _over(self, end: float, pause: float) -> bool:
        return self._stop.wait(min(pause, max(0.0, end - time.monotonic()))) or time.monotonic() >= end

    # --------------------------------------------------------------------------------------- devices and models come and go

    def _regain(self, end: float, reason: str) -> None:
        """Wait for the device, and go on with it; `reason` says why, "" where that is known."""
        self.state = "device lost"
        if reason:
            self._tell(f"{reason}: waiting for it to come back")
        self.live.stop()
        while not self._reopen():
            if self._over(end, _RETRY):
                return
            self._hear_recorder()
            if self._wanted:  # another one, then
                self._change(end)
                return
        if not reason:
            return
        self.reopened += 1
        total = self.live.latency.ms()["total"]
        self._tell(f"{self.live.device.name} is back: sound goes on, latency {total:.1f} ms")

    def _reopen(self) -> bool:
        """Whether the device is there again, and delivers."""
        try:
            device = reopen_device(self.config, self._model, self.live.device)
            if self.live.separator.model is self._model and self.live.fits(device):
                self.live.replace(device)
            else:
                self._replace_live(self._build(device))
            self.live.open(_BACK_WITHIN)
        except (DeviceError, LiveError) as error:
            self.problem = str(error)
            return False
        self.problem = ""
        self._go()
        return True

    def _replace_live(self, live: Live) -> None:
        """Another engine, because the rate or the channels are others: recording and listeners begin anew."""
        for slot, (stream, before) in enumerate(zip(live.streams, self.live.streams, strict=True)):
            stream.follow(before)
            if isinstance(live.engine, Batch) and isinstance(self.live.engine, Batch):
                (live.engine.join if self.live.engine.wanted(slot) else live.engine.leave)(slot)
        live.prepare()
        recorded = self._recorder.recording
        self._end_take()
        self.live = live
        self._recorder = self._new_recorder()
        self._osc.attach(live.separator, live.parts[0].rings, live.meters)
        if recorded:
            with suppress(ValueError):  # it was told
                self._begin_take()

    def choose(self, *, model: str | None = None, input: str | None = None, output: str | None = None) -> None:
        """Begin to change to another model or device, and return; ValueError where that cannot be.

        The sound pauses for it. Where the device does not open, the one before goes on.
        """
        if isinstance(self.live.device, FileDevice):
            raise ValueError("a file is being played: model and devices stay until its end")
        if any(str(name or "").startswith(FILE) for name in (input, output)):
            raise ValueError(f"device={input or output!r}: files are named at the start only")
        reachable = not (is_loopback(self.config.osc_host) and is_loopback(self.config.http_host))
        if model is not None and reachable and model not in (*models.shipped(), self._first_model):
            raise ValueError(f"model={model!r}: expected a shipped one ({', '.join(models.shipped())}); others only from here")
        changes = {"model": model, "input": input, "output": output}
        wanted = (self._wanted or self.config).model_copy(update={k: v for k, v in changes.items() if v is not None})
        if model is not None:
            try:
                models.load(model)
            except StreamsepError as error:
                raise ValueError(str(error)) from error
        self._wanted = wanted

    def _change(self, end: float) -> None:
        """To the model and device that are wanted; back where that fails."""
        before = self.config, self._model
        assert self._wanted
        self.config, self._wanted = self._wanted, None
        self.state = "changing"
        try:
            self._model = models.load(self.config.model)
            engine = self._engine(self.live.separator.sample_rate, self.live.separator.channels)
            self.live.stop()
            self._replace_live(self._build(open_device(self.config, self._model), engine))
            self.live.open(_BACK_WITHIN)
        except (StreamsepError, OSError) as error:
            self.config, self._model = before
            self._tell(f"no change: {error}")
            self._regain(end, "")
        else:
            self._go()
            self._tell(f"now {self._model.contract.name} on {self.live.device.name}")

    def _keep_file(self) -> None:
        device = self.live.device
        if isinstance(device, FileDevice) and self.config.output not in (None, NONE):
            write(path_of(self.config.output), device.played[: device.position], device.sample_rate)

    # ---------------------------------------------------------------------------------------------------------- recording

    def _new_recorder(self) -> Recorder | Takes:
        folder, live = Path(self.config.record or "recordings"), self.live
        names = self._lines.names if self._lines else ("",)
        recorders = {
            name: Recorder(folder / name, stream.sources, stream.channels, stream.sample_rate, part.rings)
            for name, stream, part in zip(names, live.streams, live.parts, strict=True)
        }
        return Takes(folder, recorders, live.rings) if self._lines else recorders[""]

    @property
    def recording(self) -> str:
        """The folder of the take that runs, "" when none does."""
        return str(self._recorder.folder) if self._recorder.recording and not self._take_over else ""

    def record(self, on: bool) -> bool:
        """Begin a take, or end the one that runs; whether one runs then. ValueError where none can begin.

        A slow disk may take its time for the end: the main loop waits for it, not the caller.
        """
        if not on:
            self._take_over = self._recorder.recording
        elif self._take_over:
            raise ValueError("the last recording is being closed: expected a moment of patience")
        elif not self._recorder.recording:
            self._begin_take()
        return bool(self.recording)

    def _begin_take(self) -> None:
        try:
            self._recorder.start()
        except (RecorderError, OSError) as error:
            self._tell(f"no recording: {error}")
            raise ValueError(str(error)) from error
        self._tell(f"recording to {self._recorder.folder}")

    def _end_take(self) -> None:
        """End the take that runs, if one does, and tell what came of it."""
        running = self._recorder.recording
        self._recorder.stop()
        self._take_over = False  # only now: until here no other take may begin
        self._hear_recorder()
        if running:
            self._tell(self._recorder.summary())

    def _hear_recorder(self) -> None:
        """End the take if that is wanted; tell, once, that one ended early."""
        if self._take_over:
            self._end_take()
        if self._recorder.error != self._recorder_said:
            self._recorder_said = self._recorder.error
            if self._recorder.error:
                self._tell(f"the recording ended: {self._recorder.error}; sound goes on")

    # ------------------------------------------------------------------------------------------------------------- figures

    def _report(self) -> Report:
        """The set-up and what has happened."""
        received: Report = {"input": self.live.device.counts} if isinstance(self.live.device, OscInput) else {}
        return self.describe() | self.live.report() | received

    def describe(self) -> Report:
        """The set-up, for people and programs."""
        live = self.live
        separator, contract = live.separator, live.separator.model.contract
        return {
            "model": contract.name,
            "sources": list(contract.sources),
            "device": live.device.name,
            "sample_rate": separator.sample_rate,
            "in_channels": live.device.in_channels,
            "out_channels": live.device.out_channels,
            "block": live.block,
            "hop": separator.geometry.hop_length,
            "provider": live.engine.provider,
            "c_api": live.engine.native,
            "realtime": live.realtime,
            "latency_ms": live.latency.ms(),
            "latency_samples": live.latency.samples(),
            "drift": getattr(live.device, "drift", {}),
        } | self._describe_streams()

    def _describe_streams(self) -> Report:
        """Each stream and how it does, where there are several; nothing else."""
        live, lines = self.live, self._lines
        if lines is None or not isinstance(live.engine, Batch):
            return {}
        streams = [
            {"name": name, "active": live.engine.wanted(slot), "channels": stream.channels, **stream.counts}
            for slot, (name, stream) in enumerate(zip(lines.names, live.streams, strict=True))
        ]
        return {"together": live.engine.together, "streams": streams}

    @property
    def separator(self) -> Engine:
        """The engine that sounds now."""
        return self.live.separator

    @property
    def lines(self) -> Sequence[Line]:
        """The streams, where there are several."""
        named = zip(self.config.stream, self.live.streams, self.live.parts, strict=True) if self.config.stream else ()
        return [Line(stream.name or "", engine, part.meters) for stream, engine, part in named]

    def active(self, stream: int) -> bool:
        """Whether a stream (from 0) takes part, or soon will."""
        assert isinstance(self.live.engine, Batch)
        return self.live.engine.wanted(stream)

    def activate(self, stream: int, on: bool) -> bool:
        """Let a stream join or leave; whether it takes part then. One that takes part already goes on."""
        assert isinstance(self.live.engine, Batch)
        if on != self.active(stream):
            (self.live.engine.join if on else self.live.engine.leave)(stream)
        return on

    @property
    def rings(self) -> Rings:
        """The engine's rings."""
        return self.live.parts[0].rings

    @property
    def meters(self) -> Meters:
        """What its worker saw of each hop."""
        return self.live.meters

    @property
    def model(self) -> str:
        """The model's name or file, as `choose` takes it."""
        return self.config.model

    @property
    def devices(self) -> tuple[str, str]:
        """Input and output device, as `choose` takes them; "" is the system's own."""
        return self.config.input or "", self.config.output or ""

    def quit(self) -> None:
        """End, soon."""
        self._stop.set()

    def status(self) -> dict[str, int | float | str]:
        """All figures, flat, for OSC."""
        flat: dict[str, int | float | str] = {"state": self.state, "problem": self.problem, "reopened": self.reopened}
        flat |= {"recording": self.recording, "pid": os.getpid()}
        for key, value in self._report().items():
            if isinstance(value, dict):
                flat |= {f"{key}.{part}": number for part, number in value.items()}
            elif isinstance(value, bool | int):
                flat[key] = int(value)
            elif key == "streams" and isinstance(value, list):
                flat[key] = len(value)  # each has addresses of its own
            elif isinstance(value, list):
                flat[key] = ",".join(map(str, value))
            else:
                flat[key] = value if isinstance(value, float) else str(value)
        return flat


def _set(engine: Engine, gains: Mapping[str, float], mutes: Sequence[str] = ()) -> None:
    """What the configuration says of an engine at its start."""
    try:
        for source, db in gains.items():
            engine.set_gain(source, db)
        for source in mutes:
            engine.set_mute(source, True)
    except ValueError as error:
        raise ConfigError(f"gain: {error}") from error


def run(config: Config, announce: Callable[[Report], None], tell: Tell, stop: threading.Event) -> Report:
    """A `Daemon` from start to stop.

    Parameters
    ----------
    config
        validated settings (`config.load`).
    announce
        called once, before the first sound, with the set-up and the latency in its parts, ms.
    tell
        gets one line whenever something happens that somebody should know.
    stop
        ends it when it is set; a duration or the end of a file do so, too.

    Returns
    -------
    dict
        the set-up and what happened: hops, late hops, xruns, step times (ms), what was recorded.

    Raises
    ------
    ModelError, ConfigError, AudioFileError, DeviceError, OrtError, OscError
        it cannot start like that.
    """
    return Daemon(config, tell).run(announce, stop)
