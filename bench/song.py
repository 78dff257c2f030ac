"""Render the demo song of ``streamsep demo``: a sung voice over a band, as true stems.

    python bench/song.py [-o streamsep/demo] [--soundfont FluidR3_GM.sf2]

The voice: espeak-ng speaks each phrase and tells where its phonemes lie; WORLD (pyworld) takes the speech apart into
pitch, spectral envelope and aperiodicity; vowels are stretched to the notes, consonants kept short before the beat, the
pitch replaced by the melody; WORLD sings the result. The band: a MIDI file written here and played by fluidsynth.
Every random number is seeded: the same tools render the same samples.

Needs the Debian packages libespeak-ng1, fluidsynth and fluid-soundfont-gm, and pyworld (the extra ``song``).
"""

import argparse
import ctypes
import shutil
import struct
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # a checkout's: train is in no installed package
from train.sing import SingError, load_world  # noqa: E402

RATE = 48000  # Hz
SECONDS = 21.0
BEAT = 0.5  # seconds: 120 to the minute, four to the bar
FRAME = 0.0025  # seconds between WORLD frames; at its usual 5 ms the plosives blur
BINS = 1025  # of WORLD's envelope at 48 kHz: 0 Hz to 24 kHz
SPEAKER = "en-us+f1"  # of the female variants the one with clean formants up to 5 kHz and no built-in echo
SPOKEN = 110  # words a minute: slow enough for each vowel to reach its formants
VOWEL, HISS = 11, 0  # dB, the power of WORLD's frames: what vowels are levelled towards, the most that s, f, t may have
SILENCE = 1e-12  # power in every bin
BREATH = -26  # dB: breathing in, under the words
TIGHT = 0.75  # sung consonants are this much of the slowly spoken ones
PEAK_DB = -1.5  # of the mixture, full scale
VOICE_OVER_BAND_DB = 1.5  # where the voice sounds
BUS = 0.5  # the band's peaks bend over softly towards here
SOUNDFONT = "/usr/share/sounds/sf2/FluidR3_GM.sf2"

# Turn the lights down, let the band play on, I'll be singing till the night is gone.
# Oh, hear me, oh, hear me over the noise, lift me out of the river, I'm only a voice.
# Beat of the first vowel, espeak-ng phonemes, pitch:beats for each syllable; + slurs two notes on one syllable.
VERSE = (
    (3.0, "t'3:n D@2 l'aIts d'aUn", "A3:.5 B3:.5 D4:1 F#4:1.5"),
    (7.0, "l'Et D@2 b'and pl'eI 'O2n", "E4:.5 D4:.5 F#4:1 E4:.5 D4:1.25"),
    (11.0, "aIl bi: s'ININ", "A3:.5 B3:.5 G4:1.5 F#4:1"),
    (15.0, "t'Il D@2 n'aIt Iz g'O2n", "E4:.5 D4:.5 E4:1 F#4:.5 E4:1.25"),
)
HOOK = (
    (19.0, "'oU h'i@3 m'i:", "A4:1 B4:1.5 A4:1"),
    (23.0, "'oU h'i@3 m'i:", "F#4:1 A4:1.5 F#4:.75"),
    (26.5, "'oUv3 D@2 n'OIz", "E4:.5 F#4:.5 E4:.5 G4:.5+E4:.75"),
    (29.5, "l'Ift mi: 'aUt @v D@2 r'Iv3", "D4:.5 E4:.5 F#4:.5 G4:.5 F#4:.5 B4:1 A4:.75"),
    (34.0, "aIm 'oUnli: a# v'OIs", "F#4:.5 E4:.5 F#4:.5 E4:.5 F#4:1+D4:2"),
)
BELOW = (  # the hook's second voice
    "F#4:1 G4:1.5 F#4:1",
    "D4:1 F#4:1.5 D4:.75",
    "C#4:.5 D4:.5 C#4:.5 E4:.5+B3:.75",
    "B3:.5 B3:.5 D4:.5 E4:.5 D4:.5 G4:1 F#4:.75",
    "D4:.5 C#4:.5 D4:.5 C#4:.5 D4:1+A3:2",
)
HARMONY = tuple((beat, words, notes) for (beat, words, _), notes in zip(HOOK, BELOW, strict=True))

# Beat, beats, bass, chord.
CHORDS = (
    (0, 4, "D2", "D4 F#4 A4"),
    (4, 4, "D2", "D4 F#4 A4"),
    (8, 4, "B1", "D4 F#4 B4"),
    (12, 4, "G1", "D4 G4 B4"),
    (16, 2, "A1", "D4 E4 A4"),
    (18, 2, "A1", "C#4 E4 A4"),
    (20, 4, "G1", "D4 G4 B4"),
    (24, 4, "F#1", "D4 F#4 A4"),
    (28, 4, "E1", "D4 E4 G4 B4"),
    (32, 2, "G1", "D4 G4 B4"),
    (34, 2, "A1", "C#4 E4 A4"),
    (36, 6, "D2", "D4 F#4 A4"),
)
RIFF = ((0, "F#5:.5 E5:.5 D5:.5 A4:1"), (6, "A5:.5 F#5:.5"), (10, "F#5:.5 D5:.5"), (14, "D5:.5 B4:.5"))
STRINGS = ((20, "D5:2 B4:2 A4:2 D5:2 G4:2 B4:2 D5:2 E5:2 F#5:5.5"),)
# Eighth notes of a bar: kick, snare, hat; a capital is an accent.
INTRO_DRUMS = ("X...x...", "........", "X.x.X.xx")
VERSE_DRUMS = ("X..xX...", "..x...x.", "XxXxXxXx")
HOOK_DRUMS = ("X.xxX.x.", "..X...X.", "XXXXXXXX")
END_DRUMS = ("X.......", "........", "........")
KICK, STICK, SNARE, HAT, CRASH, RIDE, TOM = 36, 37, 38, 42, 49, 51, 45
# Channel: General MIDI program, volume, pan (64 is the middle).
BASS, GUITAR, KEYS, PAD, BELL, VIOLINS, DRUMS = 0, 1, 2, 3, 4, 5, 9
BAND = {
    BASS: (33, 100, 64),
    GUITAR: (25, 90, 34),
    KEYS: (4, 82, 92),
    PAD: (89, 74, 64),
    BELL: (11, 108, 84),
    VIOLINS: (48, 98, 44),
    DRUMS: (0, 127, 64),
}


class Note(NamedTuple):
    """A note: start and end in seconds, pitch as a MIDI number, and whether it begins a syllable."""

    start: float
    end: float
    pitch: int
    syllable: bool = True


class Phone(NamedTuple):
    """A spoken phoneme: start and end in seconds, espeak-ng's name for it."""

    start: float
    end: float
    name: str

    @property
    def vowel(self) -> bool:
        """Whether it carries a note."""
        return self.name[0] in "aAeEiIoOuUV03@"

    @property
    def diphthong(self) -> bool:
        """Whether it moves from one vowel to another."""
        return self.vowel and self.name[1:2] in tuple("IU@")

    @property
    def voiced(self) -> bool:
        """Whether it has a pitch."""
        return self.name[0] not in "ptkfsSTh_"


class Frames(NamedTuple):
    """What WORLD sings, a frame every `FRAME` seconds.

    Power `envelope` and `aperiodicity` (0 tone, 1 noise) are [frames, BINS], `voiced` is a flag [frames].
    """

    envelope: np.ndarray
    aperiodicity: np.ndarray
    voiced: np.ndarray


Played = tuple[int, float, float, int, int]  # of the band: channel, beat, beats, MIDI pitch, velocity


def pitch_number(name: str) -> int:
    """MIDI number of a note name such as F#4 (A4 is 69)."""
    return 12 + 12 * int(name[-1]) + ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B").index(name[:-1])


def parse_notes(beat: float, line: str) -> list[Note]:
    """Notes of a line such as "A3:.5 G4:.5+E4:.75" that begins at `beat`."""
    notes = []
    for syllable in line.split():
        for i, (name, beats) in enumerate(note.split(":") for note in syllable.split("+")):
            notes.append(Note(beat * BEAT, (beat + float(beats)) * BEAT, pitch_number(name), i == 0))
            beat += float(beats)
    return notes


def smooth(x: np.ndarray, seconds: float) -> np.ndarray:
    """Running Hann-weighted mean of frames `x` [frames], the ends held."""
    n = round(seconds / FRAME) | 1
    window = np.hanning(n + 2)[1:-1]
    return np.convolve(np.pad(x, n // 2, mode="edge"), window / window.sum(), "valid")


# --- The voice ------------------------------------------------------------------------------------


class Event(ctypes.Structure):
    """espeak_EVENT of espeak-ng's speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    )


class Espeak:
    """espeak-ng's library, which tells the sample where each phoneme starts; the command does not."""

    CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(Event))
    SYNCHRONOUS, PHONEME_EVENTS, UTF8, PHONEME_INPUT = 2, 1, 0x1, 0x100
    RATE, PITCH, RANGE = 1, 3, 4
    END, PHONEME = 0, 7

    def __init__(self) -> None:
        try:
            self.library = ctypes.CDLL("libespeak-ng.so.1")
        except OSError:
            sys.exit("song: espeak-ng's library is missing: apt install libespeak-ng1")
        self.rate = self.library.espeak_Initialize(self.SYNCHRONOUS, 0, None, self.PHONEME_EVENTS)
        self.callback = self.CALLBACK(self._receive)  # held here: ctypes does not keep it alive
        self.library.espeak_SetSynthCallback(self.callback)
        self.library.espeak_SetVoiceByName(SPEAKER.encode())
        for parameter, value in ((self.RATE, SPOKEN), (self.PITCH, 30), (self.RANGE, 0)):
            self.library.espeak_SetParameter(parameter, value, 0)

    def _receive(self, wave, count: int, events) -> int:
        if wave and count:
            self.blocks.append(np.ctypeslib.as_array(wave, (count,)) / 32768)
        i = 0
        while events[i].type != self.END:
            if events[i].type == self.PHONEME:
                self.starts.append((events[i].sample / self.rate, events[i].name.decode()))
            i += 1
        return 0

    def speak(self, words: str) -> tuple[np.ndarray, list[Phone]]:
        """Speak phonemes on one low pitch; the wave [samples] at `RATE` and its phonemes, without the closing pause."""
        self.blocks: list[np.ndarray] = []
        self.starts: list[tuple[float, str]] = []
        text = f"[[{words}]]".encode()
        flags = self.UTF8 | self.PHONEME_INPUT
        self.library.espeak_Synth(text, ctypes.c_size_t(len(text) + 1), 0, 1, 0, flags, None, None)
        wave = soxr.resample(np.concatenate(self.blocks), self.rate, RATE)
        phones = [Phone(start, end, name) for (start, name), (end, _) in pairwise(self.starts)]
        return wave, [phone for phone in phones if not phone.name.startswith("_")]


def analyse(world: ModuleType, wave: np.ndarray, phones: list[Phone]) -> Frames:
    """WORLD frames of a spoken phrase [samples]; which of them are voiced is taken from the phonemes."""
    found, times = world.dio(wave, RATE, frame_period=1000 * FRAME)
    found = world.stonemask(wave, found, times, RATE)
    voiced = np.zeros(len(times), bool)
    for phone in phones:
        voiced[round(phone.start / FRAME) : round(phone.end / FRAME)] = phone.voiced
    f0 = np.where(voiced, np.where(found > 0, found, np.median(found[found > 0])), 0.0)
    envelope = world.cheaptrick(wave, f0, times, RATE)
    aperiodicity = world.d4c(wave, f0, times, RATE)
    return breathe(Frames(envelope, np.where(voiced[:, None], aperiodicity, 1.0), voiced))


def breathe(frames: Frames) -> Frames:
    """Fill in what espeak-ng leaves out: air above its voice's 4.5 kHz and above its noise's 10 kHz."""
    hertz = np.linspace(0, RATE / 2, BINS)
    envelope, aperiodicity, voiced = frames
    air = envelope.copy()
    for rows, low, high, drop in ((voiced, 3000, 4500, 12), (~voiced, 8000, 10000, 0)):
        reference = envelope[rows][:, (hertz > low) & (hertz < high)].mean(1, keepdims=True)
        slope = -drop - 15 * np.log2(np.maximum(hertz, high) / high)
        air[rows] += np.where(hertz > high, reference * 10 ** (slope / 10), 0)
    breath = np.interp(hertz, (1000, 4000, 10000), (0.0, 0.15, 0.8))
    return Frames(air, np.maximum(aperiodicity, breath), voiced)


def align(phones: list[Phone], notes: list[Note]) -> tuple[list[float], list[float]]:
    """Times in the speech and in the song that belong together.

    A vowel starts on its note; its edges (of a diphthong, its glide) keep their pace and the middle is stretched. The
    consonants up to the next vowel end where that vowel's note starts.
    """
    vowels = [phone for phone in phones if phone.vowel]
    starts = [note.start for note in notes if note.syllable]
    if len(vowels) != len(starts):
        raise ValueError(f"{len(vowels)} vowels, {len(starts)} syllables of notes: {[p.name for p in phones]}")
    spoken = [phones[0].start]
    sung = [starts[0] - TIGHT * (vowels[0].start - phones[0].start)]
    nexts = [*(vowel.start for vowel in vowels[1:]), phones[-1].end]
    for vowel, start, end, after in zip(vowels, starts, [*starts[1:], notes[-1].end], nexts, strict=True):
        close = end - min(TIGHT * (after - vowel.end), 0.45 * (end - start))
        length = vowel.end - vowel.start
        edge = min(0.04, 0.25 * length, 0.25 * (close - start))
        glide = min((0.5 if vowel.diphthong else 0.2) * length, 0.4 * (close - start))
        spoken += [vowel.start, vowel.start + edge, vowel.end - glide, vowel.end]
        sung += [start, start + edge, close - glide, close]
    return [*spoken, phones[-1].end], [*sung, notes[-1].end]


def stretch(frames: Frames, spoken: list[float], sung: list[float]) -> tuple[slice, Frames]:
    """Frames of a phrase set to the song's time, and the song's frames that they fill."""
    place = slice(round(sung[0] / FRAME), round(sung[-1] / FRAME))
    at = np.interp(np.arange(place.start, place.stop) * FRAME, sung, spoken) / FRAME
    low = np.minimum(at.astype(int), len(frames.voiced) - 2)
    part = (at - low)[:, None]
    envelope = np.exp((1 - part) * np.log(frames.envelope[low]) + part * np.log(frames.envelope[low + 1]))
    aperiodicity = (1 - part) * frames.aperiodicity[low] + part * frames.aperiodicity[low + 1]
    return place, Frames(envelope, aperiodicity, frames.voiced[np.round(at).astype(int)])


def level(frames: Frames, notes: list[Note], place: slice) -> np.ndarray:
    """Gain [frames] that evens out a phrase's vowels, tames its hiss, ebbs on long notes and ends softly."""
    seconds = np.arange(place.start, place.stop) * FRAME
    power = 10 * np.log10(smooth(frames.envelope[:, : BINS // 5].sum(1), 0.06))
    sonorous = frames.voiced & (power > power[frames.voiced].max() - 9)
    wanted = np.interp(seconds, seconds[sonorous], 0.6 * (VOWEL - power)[sonorous])
    gain = np.clip(smooth(wanted, 0.12), -9, 9)
    gain = np.where(frames.voiced, gain, np.minimum(gain, HISS - 10 * np.log10(frames.envelope.sum(1))))
    for note in notes:
        gain -= 3 * np.clip((seconds - note.start - 0.3) / 1.0, 0, 1) * (seconds < note.end)
    fade = np.clip((notes[-1].end - seconds) / (0.15 if frames.voiced[-1] else 0.05), 0, 1)
    return 10 ** (smooth(gain, 0.05) / 20) * np.sin(np.pi / 2 * fade) * np.clip((seconds - seconds[0]) / 0.01, 0, 1)


def intone(notes: list[Note], seconds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pitch in Hz [frames] at `seconds`: a scoop into the phrase, portamento, late vibrato and a little drift."""
    pitch = np.full(len(seconds), float(notes[0].pitch))
    pitch -= 0.8 * np.exp(-np.maximum(seconds - notes[0].start, 0) / 0.04)
    for a, b in pairwise(notes):
        pitch += (b.pitch - a.pitch) / (1 + np.exp(-(seconds - b.start + 0.01) / 0.012))
    for note in notes:
        if note.end - note.start > 0.35:
            ramp = np.clip((seconds - note.start - 0.12) / 0.2, 0, 1) * np.clip((note.end - seconds) / 0.04, 0, 1)
            pitch += 0.28 * ramp * np.sin(2 * np.pi * 5.5 * (seconds - note.start))
    for period, depth in ((0.3, 0.04), (0.03, 0.02)):  # seconds, semitones
        drift = smooth(rng.standard_normal(len(seconds)), period)
        pitch += depth * drift / drift.std()
    return 440 * 2 ** ((pitch - 69) / 12)


def inhale(whole: Frames, start: int, vocal_tract: np.ndarray) -> None:
    """Breathe in before the phrase at frame `start`, through the `vocal_tract` (power [BINS]) of the coming words."""
    first = max(start - round(0.3 / FRAME), np.flatnonzero(np.append(True, whole.envelope[:start, 0] > SILENCE))[-1])
    count = start - round(0.03 / FRAME) - first
    if count * FRAME > 0.06:
        swell = np.sin(np.pi * np.arange(count) / count) ** 2
        whole.envelope[first : first + count] = SILENCE + 10 ** (BREATH / 10) * swell[:, None] * vocal_tract


def sing(world: ModuleType, espeak: Espeak, song: tuple, seed: int, late: float = 0.0, tune: float = 0.0) -> np.ndarray:
    """Sing phrases as a dry mono voice [samples], `late` seconds behind the beat and `tune` semitones off."""
    rng = np.random.default_rng(seed)
    count = round(SECONDS / FRAME)
    whole = Frames(np.full((count, BINS), SILENCE), np.ones((count, BINS)), np.zeros(count, bool))
    f0 = np.zeros(count)
    for beat, words, line in song:
        notes = [Note(n.start + late, n.end + late, n.pitch, n.syllable) for n in parse_notes(beat, line)]
        wave, phones = espeak.speak(words)
        place, frames = stretch(analyse(world, wave, phones), *align(phones, notes))
        inhale(whole, place.start, frames.envelope[: len(frames.envelope) // 2].mean(0))
        loudness = level(frames, notes, place)[:, None] ** 2
        whole.envelope[place] = np.maximum(frames.envelope * loudness, SILENCE)
        whole.aperiodicity[place] = frames.aperiodicity
        pitch = intone(notes, np.arange(place.start, place.stop) * FRAME, rng) * 2 ** (tune / 12)
        f0[place] = np.where(frames.voiced, pitch, 0)
    voice = world.synthesize(f0, whole.envelope, whole.aperiodicity, RATE, frame_period=1000 * FRAME)
    return compress(fit(voice))


def compress(voice: np.ndarray) -> np.ndarray:
    """`voice` [samples] with what is louder than its middle brought half way down to it."""
    hop = round(FRAME * RATE)
    power = smooth((voice.reshape(-1, hop) ** 2).mean(1), 0.1)
    gain = np.minimum(np.median(power) / np.maximum(power, 1e-9), 1) ** 0.25
    return voice * np.interp(np.arange(len(voice)), hop * (np.arange(len(gain)) + 0.5), gain)


def convolve(x: np.ndarray, response: np.ndarray) -> np.ndarray:
    """`x` [samples] through `response` [samples, channels], cut to the length of `x`."""
    n = len(x) + len(response)
    spectrum = np.fft.rfft(x, n)[:, None] * np.fft.rfft(response, n, axis=0)
    return np.fft.irfft(spectrum, n, axis=0)[: len(x)]


def room(seconds: float, seed: int) -> np.ndarray:
    """Response [samples, 2] of unit energy: noise that falls by 60 dB in `seconds`, its treble sooner, after 25 ms."""
    noise = np.random.default_rng(seed).standard_normal((round(seconds * RATE), 2))
    time = np.arange(len(noise))[:, None] / RATE
    hertz = np.fft.rfftfreq(len(noise), 1 / RATE)[:, None]
    spectrum = np.fft.rfft(noise, axis=0) * (hertz > 250)
    bass = np.fft.irfft(spectrum * (hertz < 2500), len(noise), axis=0) * 10 ** (-3 * time / seconds)
    treble = np.fft.irfft(spectrum * (hertz >= 2500) * (hertz < 9000), len(noise), axis=0) * 10 ** (-6 * time / seconds)
    response = np.pad(bass + treble, ((round(0.025 * RATE), 0), (0, 0)))
    return response / np.sqrt((response**2).sum() / 2)


def echo(beats: float, gain: float) -> np.ndarray:
    """Response [samples, 2] of a delay that bounces between left and right."""
    step = round(beats * BEAT * RATE)
    response = np.zeros((3 * step + 1, 2))
    for i in range(3):
        response[(i + 1) * step, i % 2] = gain ** (i + 1)
    return response


def place_voice(lead: np.ndarray, double: np.ndarray, harmony: np.ndarray) -> np.ndarray:
    """Three dry voices [samples] on the stage [samples, 2]: the lead in the middle, the others softer at the sides."""
    dry = np.stack([lead + 0.28 * double + 0.1 * harmony, lead + 0.08 * double + 0.3 * harmony], axis=1)
    middle = dry.mean(1)
    return dry + 0.22 * convolve(middle, room(1.3, seed=5)) + 0.5 * convolve(middle, echo(0.75, 0.2))


# --- The band -------------------------------------------------------------------------------------


def drum_hits() -> list[tuple[float, int, int]]:
    """The drums: beat, General MIDI percussion note, velocity."""
    hits = []
    for bar, pattern in enumerate([INTRO_DRUMS, *4 * [VERSE_DRUMS], *4 * [HOOK_DRUMS], END_DRUMS]):
        for note, row in zip((KICK, SNARE if bar > 4 else STICK, RIDE if bar > 4 else HAT), pattern, strict=True):
            full = 84 if note in (HAT, RIDE) else 120
            hits += [(4 * bar + i / 2, note, full if c == "X" else full - 22) for i, c in enumerate(row) if c != "."]
    hits += [(beat, CRASH, 88) for beat in (4, 20, 36)]
    hits += [(18.5 + i / 4, SNARE if i < 3 else TOM, 70 + 8 * i) for i in range(6)]
    return hits + [(35 + i / 4, (SNARE, SNARE, TOM, TOM)[i], 84 + 6 * i) for i in range(4)]


def comping() -> list[Played]:
    """Bass, guitar, keys and pad from the chords."""
    played: list[Played] = []
    for beat, beats, bass, chord in CHORDS:
        tones = [pitch_number(name) for name in chord.split()]
        last, hook = beat == 36, 20 <= beat < 36
        played += [(PAD, beat, beats, tone, 80 if hook else 58) for tone in tones]
        played += [(KEYS, beat, beats - 0.1, tone, 74) for tone in tones]
        if last:
            played.append((BASS, beat, beats, pitch_number(bass), 100))
            played += [(GUITAR, beat + 0.04 * i, beats, tone - 12 * (i == 0), 90) for i, tone in enumerate(tones)]
            continue
        for i in range(2 * beats if beat else 0):
            octave = 12 * (hook and i % 4 == 3)
            played.append((BASS, beat + i / 2, 0.45, pitch_number(bass) + octave, 104 if i % 2 == 0 else 88))
        for i in range(2 * beats):
            strum = tones if i % 2 == 0 else tones[1:]
            played += [(GUITAR, beat + i / 2 + 0.02 * j, 0.5, tone, 86 - 18 * (i % 2)) for j, tone in enumerate(strum)]
        if hook:
            played += [(KEYS, beat + 1.5 + 2 * i, 0.4, tone, 84) for i in range(beats // 2) for tone in tones]
    return played


def band_notes() -> list[Played]:
    """Every note of the band, a little off the grid and uneven as hands are."""
    played = comping() + [(DRUMS, beat, 0.2, note, velocity) for beat, note, velocity in drum_hits()]
    for channel, lines, velocity in ((BELL, RIFF, 84), (VIOLINS, STRINGS, 82)):
        for beat, line in lines:
            notes = parse_notes(beat, line)
            played += [(channel, n.start / BEAT, (n.end - n.start) / BEAT, n.pitch, velocity) for n in notes]
    rng = np.random.default_rng(7)
    loose = [(rng.normal(0, 0.006), int(rng.integers(-6, 7))) for _ in played]
    return [(c, max(b + db, 0), d, p, v + dv) for (c, b, d, p, v), (db, dv) in zip(played, loose, strict=True)]


def variable_length(value: int) -> bytes:
    """A MIDI file's variable-length number: seven bits a byte, all but the last marked."""
    more = variable_length(value >> 7)[:-1] + bytes([value >> 7 & 0x7F | 0x80]) if value > 0x7F else b""
    return more + bytes([value & 0x7F])


def midi_file(played: list[Played], ticks: int = 480) -> bytes:
    """A format 0 MIDI file of notes, `ticks` to the beat."""
    events = [(0, b"\xff\x51\x03" + round(BEAT * 1e6).to_bytes(3, "big"))]
    for channel, (program, volume, pan) in BAND.items():
        events.append((0, bytes([0xC0 | channel, program])))
        events += [(0, bytes([0xB0 | channel, control, value])) for control, value in ((7, volume), (10, pan))]
    for channel, beat, beats, pitch, velocity in played:
        events.append((round(beat * ticks), bytes([0x90 | channel, pitch, velocity])))
        events.append((round((beat + beats) * ticks), bytes([0x80 | channel, pitch, 0])))
    events.sort()  # at one tick 0x80 comes before 0x90: a repeated note ends before it starts again
    events.append((round((SECONDS + 1) / BEAT * ticks), b"\xff\x2f\x00"))
    track = b"".join(variable_length(b[0] - a[0]) + b[1] for a, b in pairwise([(0, b""), *events]))
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, ticks)
    return header + b"MTrk" + struct.pack(">I", len(track)) + track


def play_band(soundfont: str) -> np.ndarray:
    """The band [samples, 2] as fluidsynth plays it, its loudest peaks rounded off."""
    if not shutil.which("fluidsynth"):
        sys.exit("song: fluidsynth is missing: apt install fluidsynth")
    if not Path(soundfont).is_file():
        sys.exit(f"song: no soundfont at {soundfont}: apt install fluid-soundfont-gm, or name one with --soundfont")
    with tempfile.TemporaryDirectory() as folder:
        midi, wave = Path(folder, "song.mid"), Path(folder, "song.wav")
        midi.write_bytes(midi_file(band_notes()))
        options = ["-niq", "-r", str(RATE), "-g", "0.6", "-O", "s24", "-T", "wav", "-F", str(wave)]
        subprocess.run(["fluidsynth", *options, soundfont, str(midi)], check=True, capture_output=True)
        band, _ = soundfile.read(wave)
    return BUS * np.tanh(fit(band) / BUS)


# --- The stems ------------------------------------------------------------------------------------


def fit(wave: np.ndarray) -> np.ndarray:
    """`wave` [samples, ...] cut or padded to the song, its last second faded."""
    count = round(SECONDS * RATE)
    wave = np.pad(wave[:count], [(0, max(count - len(wave), 0))] + [(0, 0)] * (wave.ndim - 1))
    fade = np.minimum(np.arange(count)[::-1] / RATE, 1)
    return wave * fade.reshape(-1, *[1] * (wave.ndim - 1))


def balance(voice: np.ndarray, band: np.ndarray) -> np.ndarray:
    """The voice [samples, 2] `VOICE_OVER_BAND_DB` above the band, by their power in blocks of 50 ms where it sounds."""
    loudness = [(stem.reshape(-1, round(0.05 * RATE) * 2) ** 2).mean(1) for stem in (voice, band)]
    active = loudness[0] > 1e-3 * loudness[0].max()
    return voice * np.sqrt(loudness[1][active].mean() / loudness[0][active].mean()) * 10 ** (VOICE_OVER_BAND_DB / 20)


def encode(path: Path, wave: np.ndarray) -> np.ndarray:
    """Write `wave` [samples, 2] as Ogg Vorbis; what a player decodes from it."""
    with soundfile.SoundFile(path, "w", RATE, 2, format="OGG", subtype="VORBIS", compression_level=0.5) as file:
        for block in np.array_split(wave, 200):  # libsndfile overruns its stack on one long Vorbis write
            file.write(block)
    decoded, _ = soundfile.read(path)
    if decoded.shape != wave.shape:
        raise RuntimeError(f"{path.name}: {decoded.shape} decoded, {wave.shape} encoded")
    return decoded


def write_stems(folder: Path, stems: dict[str, np.ndarray]) -> None:
    """Encode the stems so that their decoded sum peaks at `PEAK_DB`."""
    gain = 10 ** (PEAK_DB / 20) / np.abs(sum(stems.values())).max()
    for _ in range(3):  # the coder moves peaks by a fraction of a dB
        decoded = [encode(folder / f"song.{name}.ogg", gain * stem) for name, stem in stems.items()]
        peak = np.abs(sum(decoded)).max()
        gain *= 10 ** (PEAK_DB / 20) / peak
    print(f"{folder}: {SECONDS:g} s, sum peaks at {20 * np.log10(peak):.2f} dBFS")


def main() -> None:
    """Render the stems into a folder."""
    parser = argparse.ArgumentParser(description="Render the demo song's stems.")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "streamsep" / "demo")
    parser.add_argument("--soundfont", default=SOUNDFONT)
    options = parser.parse_args()
    band = play_band(options.soundfont)
    try:
        world, espeak = load_world(), Espeak()
    except SingError as error:
        sys.exit(f"song: {error}")
    lead = sing(world, espeak, VERSE + HOOK, seed=1)
    double = sing(world, espeak, HOOK, seed=2, late=0.016, tune=0.08)
    harmony = sing(world, espeak, HARMONY, seed=3, late=0.008, tune=-0.04)
    voice = balance(place_voice(lead, double, harmony), band)
    options.out.mkdir(parents=True, exist_ok=True)
    write_stems(options.out, {"vocals": voice, "accompaniment": band})


if __name__ == "__main__":
    main()
