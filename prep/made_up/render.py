"""A whole made-up song in memory: the singer and the band in one room, at levels of a real mix."""

from dataclasses import dataclass

import numpy as np
from scipy.signal import oaconvolve

from common.audio.wave import frame_levels
from prep.made_up.band import play_band
from prep.made_up.melody import Phrase, compose
from prep.made_up.signal import SAMPLE_RATE_HZ
from prep.made_up.truth import SongTruth, tell_truth
from prep.made_up.voice import sing
from prep.made_up.world import World, draw_world, stream

GRID = np.float32(2.0**-15)
"""Samples are multiples of this, the step of 16-bit audio, so that the stems sum to the mix exactly in any file."""
PEAK = 10.0 ** (-1.5 / 20)
"""Highest sample of the mix or of a stem."""
VOCAL_OVER_BAND_DB = (0.0, 3.0)
"""RMS of the vocal over that of the band, both where the vocal sounds."""
SUNG_RANGE_DB = 26.0
"""A frame of LEVEL_SAMPLES counts as sung where the vocal is at most this much below its loudest frame."""
LEVEL_SAMPLES = 2205
ROOM_SECONDS, FIRST_ECHO_SECONDS = 0.3, 0.004
ROOM_SHARE = {"vocal": 0.16, "band": 0.06}
"""Amplitude of the room beside the direct sound."""
FADE_IN_SECONDS, FADE_OUT_SECONDS = 0.01, 0.25


@dataclass(frozen=True)
class MadeUpSong:
    """A made-up song, float32 [2, N] at 44.1 kHz on a 16-bit grid."""

    truth: SongTruth
    vocal: np.ndarray
    inst: np.ndarray

    @property
    def key(self) -> str:
        """Its name in a folder, "song-000007" for seed 7."""
        return song_key(self.truth.seed)

    @property
    def mix(self) -> np.ndarray:
        return self.vocal + self.inst


def song_key(seed: int) -> str:
    return f"song-{seed:06d}"


def render_song(seed: int, seconds: float) -> MadeUpSong:
    """Song `seed`, round(seconds * 44100) samples long; the same arguments give the same samples."""
    samples = round(seconds * SAMPLE_RATE_HZ)
    world = draw_world(seed, seconds)
    phrases = compose(world)
    rng = stream(seed, "mix")
    room = _room(rng)
    vocal = _sung(world, phrases, room, samples)
    inst = _in_room(play_band(world, samples), room, ROOM_SHARE["band"]) * _fades(samples)
    vocal *= _vocal_gain(vocal, inst, rng.uniform(*VOCAL_OVER_BAND_DB))
    gain = np.float32(PEAK) / max(np.abs(part).max() for part in (vocal, inst, vocal + inst))
    return MadeUpSong(tell_truth(world, phrases), _on_grid(vocal * gain), _on_grid(inst * gain))


def render_vocal(seed: int, seconds: float) -> np.ndarray:
    """The vocal of song `seed` without its band, float32 [2, N]: that of `render_song`, but for its gain, sooner."""
    world = draw_world(seed, seconds)
    vocal = _sung(world, compose(world), _room(stream(seed, "mix")), round(seconds * SAMPLE_RATE_HZ))
    return vocal * (np.float32(PEAK) / max(np.abs(vocal).max(), GRID))


def _sung(world: World, phrases: tuple[Phrase, ...], room: np.ndarray, samples: int) -> np.ndarray:
    """The singer in the room, float32 [2, samples]."""
    voice = sing(phrases, singer=world.singer, samples=samples, seed=world.seed)
    return _in_room(voice[None], room, ROOM_SHARE["vocal"]) * _fades(samples)


def _room(rng: np.random.Generator) -> np.ndarray:
    """A short room without its direct sound, of unit energy on each side: float32 [2, n]."""
    time = np.arange(round(ROOM_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    echoes = rng.standard_normal((2, len(time))) * np.exp(-time / (ROOM_SECONDS / 6)) * (time > FIRST_ECHO_SECONDS)
    return (echoes / np.sqrt(np.sum(echoes**2, axis=1, keepdims=True))).astype(np.float32)


def _in_room(sound: np.ndarray, room: np.ndarray, share: float) -> np.ndarray:
    """`sound` [1 or 2, N] and its echoes, cut to N samples: [2, N]."""
    return sound + np.float32(share) * oaconvolve(sound, room, axes=1)[:, : sound.shape[1]]


def _fades(samples: int) -> np.ndarray:
    """Fade at both ends of the clip, float32 [samples]."""
    seconds = samples / SAMPLE_RATE_HZ
    ends = (0.0, FADE_IN_SECONDS, seconds - FADE_OUT_SECONDS, seconds)
    return np.interp(np.arange(samples) / SAMPLE_RATE_HZ, ends, (0, 1, 1, 0)).astype(np.float32)


def _vocal_gain(vocal: np.ndarray, inst: np.ndarray, over_band_db: float) -> np.float32:
    """What lifts `vocal` to `over_band_db` above `inst` where it is sung."""
    vocal_dbfs, inst_dbfs = (frame_levels(part, frame_samples=LEVEL_SAMPLES) for part in (vocal, inst))
    sung = vocal_dbfs > vocal_dbfs.max() - SUNG_RANGE_DB
    vocal_power, inst_power = (np.mean(10.0 ** (dbfs[sung] / 10)) for dbfs in (vocal_dbfs, inst_dbfs))
    return np.float32(np.sqrt(inst_power / vocal_power) * 10.0 ** (over_band_db / 20))


def _on_grid(samples: np.ndarray) -> np.ndarray:
    return np.rint(samples / GRID) * GRID
