"""Whether given stems belong together sample by sample, and the mending of those that nearly do.

What is left of a mix without its vocal becomes the band: a stem of another level, sign or time than in its mix, or one
that is not in it, leaves its voice there. Waves are stereo [2, N].
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from common.audio.disk_wave import DiskWave
from common.audio.leakage import projection_db
from prep.config import StemsConfig
from prep.sources.channels import Channel, channel_energies, silent_channel
from prep.sources.fit import EXCERPT_SAMPLES, StemFit, exact, fit_stem, loudest, mended
from prep.sources.roles import look_swapped
from prep.sources.segment import SampleSpan
from prep.sources.tracks import SongTracks
from shards.rejection import SongError
from shards.schema import Part, StemNote

MAX_LENGTH_DIFFERENCE_SECONDS = 0.5
MAX_DELAY_SECONDS = 0.05
"""What coders of audio disagree by is less; a stem further off is rejected."""
CLEAN_RESIDUAL_DB = -30.0
"""Three given parts that leave no more than this are taken as they are."""
TAPS = 512
"""Length of the filter through which one part may be in another: 12 ms."""
FAINT_SHARE = 1e-3
"""A channel with less than this share of both parts' energy is not asked what it holds."""

FILL = "take the other with --set silent_channel=fill"


@dataclass(frozen=True)
class _Held:
    """Stems held against their mix."""

    tracks: SongTracks
    missing: frozenset[Part] = field(default_factory=frozenset)
    """Stems that are not in the mix."""


def check_lengths(waves: Iterable[DiskWave]) -> None:
    """Raises SongError where files of one song differ in length by more than 0.5 s."""
    lengths = [wave.samples / wave.rate_hz for wave in waves]
    apart = max(lengths) - min(lengths)
    if apart > MAX_LENGTH_DIFFERENCE_SECONDS:
        limit = f"at most {MAX_LENGTH_DIFFERENCE_SECONDS:g} s is allowed"
        raise SongError("misaligned", f"its files differ in length by {apart:.2f} s ({limit}).")


def align(given: Mapping[Part, DiskWave], config: StemsConfig, new_wave: Callable[[], DiskWave]) -> SongTracks:
    """The song that two or three parts make, cut to the shortest.

    A stem that one gain, sign and delay brings to where it lies in the mix is brought there, and noted.
    Raises SongError for lengths more than 0.5 s apart, a stem more than 50 ms off the mix, and parts that hold each
    other or do not sum up, by more than `config` allows.
    """
    check_lengths(given.values())
    lengths = [wave.samples for wave in given.values()]
    derived: set[Part] = {"vocal", "inst", "mix"} - set(given)
    held = _Held(_measured(SongTracks(given, min(lengths), derived=derived.pop() if derived else None)))
    if "mix" in given and not _is_clean(held.tracks):
        for part in sorted(set(given) - {"mix"}):
            held = _hold(held, part, new_wave)
    _check_sum(held, config)
    _check_leak(held, config)
    if config.swapped == "reject" and (why := look_swapped(held.tracks)):
        raise SongError("swapped", f"{why} Exchange their names, or keep it with --set stems.swapped=keep.")
    return held.tracks


def _is_clean(tracks: SongTracks) -> bool:
    return tracks.derived is None and (tracks.residual_db is None or tracks.residual_db <= CLEAN_RESIDUAL_DB)


def _hold(held: _Held, part: Part, new_wave: Callable[[], DiskWave]) -> _Held:
    """The tracks with one stem as it lies in its mix; as they were where it lies there, or cannot be found."""
    tracks = held.tracks
    fit = fit_stem(tracks.waves[part], tracks.waves["mix"])
    if not fit.is_found:
        return replace(held, missing=held.missing | {part})
    seconds = abs(fit.delay_samples) / tracks.rate_hz
    if seconds > MAX_DELAY_SECONDS:
        where = "later" if fit.delay_samples > 0 else "earlier"
        limit = f"at most {MAX_DELAY_SECONDS * 1000:g} ms is mended"
        raise SongError("misaligned", f"its {part} lies {seconds * 1000:.0f} ms {where} in the mix ({limit}).")
    if not fit.is_off:
        return held
    fit = exact(fit)
    wave = mended(tracks.waves[part], fit, new_wave())
    notes = (*tracks.notes, _note(part, fit, tracks.rate_hz))
    brought = replace(tracks, waves={**tracks.waves, part: wave}, notes=notes)
    brought = _measured(brought)
    return replace(held, tracks=brought) if _trouble(brought) < _trouble(tracks) else held


def _note(part: Part, fit: StemFit, rate_hz: int) -> StemNote:
    delay_ms = fit.delay_samples / rate_hz * 1000
    return StemNote(part=part, gain_db=fit.gain_db, inverted=fit.gain < 0, delay_ms=delay_ms)


def _measured(tracks: SongTracks) -> SongTracks:
    """The tracks with what they leave over, and with how much of one part is in the other."""
    whole = replace(tracks, residual_db=residual_db(tracks)) if tracks.derived is None else tracks
    return replace(whole, leak_db=leak_db(whole))


def _trouble(tracks: SongTracks) -> float:
    """What mending must lower."""
    found = tracks.leak_db if tracks.derived else tracks.residual_db
    return -math.inf if found is None else found


def leak_db(tracks: SongTracks) -> float | None:
    """Share of the derived part, in dB, that a short filter makes of the other stem; -60 for none.

    Of the inst from the vocal where both were given. Measured where the stem is loudest, of the channel with more; None
    for a song that is shorter than two such filters.
    """
    if tracks.samples < 2 * TAPS:
        return None
    stem: Part = "inst" if tracks.derived == "vocal" else "vocal"
    band: Part = "vocal" if stem == "inst" else "inst"
    starts = loudest(tracks.waves[stem], tracks.samples)
    excerpts = [SampleSpan(start, min(start + EXCERPT_SAMPLES, tracks.samples)) for start in starts]
    held, holder = (np.concatenate([tracks.part(part, at) for at in excerpts], axis=1) for part in (stem, band))
    faint = FAINT_SHARE * (energy(held) + energy(holder))
    channels = [channel for channel in holder if energy(channel) > faint] or [np.zeros(1)]
    return max(projection_db(held.mean(axis=0), channel, taps=TAPS) for channel in channels)


def _check_sum(held: _Held, config: StemsConfig) -> None:
    residual = held.tracks.residual_db
    if residual is None or residual <= config.max_residual_db:
        return
    limit = f"at most {config.max_residual_db:g} dB, stems.max_residual_db"
    missing = "".join(f"its {part} is not found in its mix: " for part in sorted(held.missing))
    left = f"{missing}its vocal and inst leave {residual:+.1f} dB of its mix ({limit})"
    for stem in ("inst", "vocal"):
        if channel := _silent_channel(held.tracks, stem):
            raise SongError("no_sum", f"its {stem}'s {channel} channel is silent: {left}; {FILL}.")
    raise SongError("no_sum", f"{left}. Leave out its mix, or the stem that is wrong.")


def _check_leak(held: _Held, config: StemsConfig) -> None:
    tracks, leak = held.tracks, held.tracks.leak_db
    if leak is None or leak <= config.max_leak_db:
        return
    limit = f"at most {config.max_leak_db:g} dB, stems.max_leak_db"
    if tracks.derived in ("mix", None):
        way = "If one of them is the mix, name it so"
        raise SongError("leak", f"its inst holds its vocal: {leak:.1f} dB of it is that ({limit}). {way}.")
    stem: Part = "inst" if tracks.derived == "vocal" else "vocal"
    left = f"{leak:.1f} dB of what is left of its mix without its {stem} is still that ({limit})"
    if channel := _silent_channel(tracks, stem):
        raise SongError("leak", f"its {stem}'s {channel} channel is silent: {left}; {FILL}.")
    if stem in held.missing:
        raise SongError("leak", f"its {stem} is not found in its mix: {left}. Give the stem of this song.")
    raise SongError("leak", f"{left}. Export it as the mix has it, effects and all.")


def _silent_channel(tracks: SongTracks, part: Part) -> Channel | None:
    return silent_channel(channel_energies(tracks.waves[part].blocks()))


def residual_db(tracks: SongTracks) -> float | None:
    """Level of mix - vocal - inst against the mix; None where they sum to it exactly."""
    left_over, whole = 0.0, 0.0
    for parts in map(tracks.piece, tracks.blocks()):
        left_over += energy(parts.mix - parts.vocal - parts.inst)
        whole += energy(parts.mix)
    return 10 * math.log10(left_over / whole) if left_over and whole else None


def energy(wave: np.ndarray) -> float:
    """Sum of the squares over channels and time."""
    return float(np.sum(np.square(wave, dtype=np.float64)))
