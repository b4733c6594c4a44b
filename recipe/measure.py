"""What the bundle can do, measured on songs that nothing was trained on: numbers for CARD.md.

B songs, C latent channels (8), H latent rows (16), T latent frames, N samples at 44100 Hz.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from demucs.apply import apply_model
from demucs.hf import load_safetensors_model
from pydantic import Field
from torch import Tensor

from common.bases import ACE_STEP_1, LatentLayout
from common.config import Config
from common.progress import progress
from models.acestep1.codec.codec import decode_audio
from models.acestep1.codec.mel import HOP_SAMPLES, log_mel, magnitudes, mel_tables
from models.acestep1.codec.vocoder import phased
from models.flow.sampler import SamplerSettings, sample
from models.loading.acestep1 import open_codec, open_text_encoder, open_transformer, open_vocoder
from prep.made_up.truth import SongTruth
from recipe.bundle import SEPARATOR as SEPARATOR_NAME
from recipe.corpus import Corpus
from recipe.flow import TARGETS, Target, conditions, tags_of, word_ids
from recipe.music_measures import (
    SOUNDS,
    InstrumentClassifier,
    MusicMeasures,
    beat_f,
    features,
    fit_classifier,
    measure_music,
    same_tempo,
    signature,
    sounds_in,
)

LATENTS = ACE_STEP_1.latents

Numbers = Mapping[str, float]

GRIFFIN_LIM_ROUNDS = 32


class MeasureSettings(Config):
    ear_songs: Annotated[int, Field(ge=1)] = 200
    """Training songs, through codec and vocoder, that the instrument classifier learns from."""
    ear_ridge: float = 100.0
    batch: Annotated[int, Field(ge=1)] = 16
    """Songs that are drawn from the transformer at once."""
    sampler: SamplerSettings = SamplerSettings()


RoundTrip = Callable[[np.ndarray], np.ndarray]
"""A wave [2, N] through latents and back."""
MakeSongs = Callable[[Sequence[SongTruth], Target], Sequence[np.ndarray]]
"""Songs of one length from the prompts and sections of truths alone: waves [2, N]."""


def measure_round_trip(round_trip: RoundTrip, corpus: Corpus) -> Numbers:
    """What latents keep of a mix: estimates on the original against those on its round trip."""

    def compare(seed: int) -> Numbers:
        wave = corpus.song(seed).audio("mix")
        again = round_trip(wave)
        before, after = measure_music(wave), measure_music(again)
        return {
            "log-mel distance, nats": mel_distance(wave, again),
            "same key": before.key == after.key,
            "same key signature": signature(before.key) == signature(after.key),
            "same tempo": same_tempo(before.tempo_bpm, after.tempo_bpm),
            "beat F": beat_f(before.beats, after.beats),
            "beat F against the truth": beat_f(corpus.truth(seed).beats, after.beats),
            "beat F of the original against the truth": beat_f(corpus.truth(seed).beats, before.beats),
            "same chord": float((before.chords == after.chords).mean()),
        }

    return _mean_over("round trip", corpus.judged_seeds, compare)


def round_trip_of(bundle: Path) -> RoundTrip:
    """Through the bundle's codec and vocoder."""
    codec, vocoder = open_codec(bundle, encoder=True, decoder=True), open_vocoder(bundle)

    @torch.no_grad()
    def round_trip(wave: np.ndarray) -> np.ndarray:
        latents = codec.encode(torch.from_numpy(wave))
        return decode_audio(codec, vocoder, latents, samples=wave.shape[-1]).numpy()

    return round_trip


def mel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two waves' log-mels."""
    mels = [log_mel(torch.from_numpy(np.ascontiguousarray(_whole_hops(wave)))) for wave in (one, other)]
    return float((mels[0] - mels[1]).abs().mean())


def _whole_hops(wave: np.ndarray) -> np.ndarray:
    return wave[:, : wave.shape[1] // HOP_SAMPLES * HOP_SAMPLES]


@torch.no_grad()
def measure_vocoder(bundle: Path, corpus: Corpus) -> Numbers:
    """Distance of log-spectra between a mix and what is made of its true log-mel, by the vocoder and by no network."""
    vocoder = open_vocoder(bundle)

    def compare(seed: int) -> Numbers:
        wave = torch.from_numpy(_whole_hops(corpus.song(seed).audio("mix")))
        mel = log_mel(wave)
        made = {"vocoder": vocoder(mel)[:, 0], "Griffin-Lim alone": griffin_lim(mel)}
        return {f"{name}, nats": log_distance(again, wave) for name, again in made.items()}

    return _mean_over("vocoder", corpus.judged_seeds, compare)


def griffin_lim(mel: Tensor) -> Tensor:
    """Waves [B, N] that fit log-mels [B, 128, F], with no network: the yardstick of a vocoder."""
    guessed = (torch.linalg.pinv(mel_tables(mel.device).filters.T) @ mel.exp()).clamp(min=0)
    return phased(guessed, rounds=GRIFFIN_LIM_ROUNDS, momentum=0.99)


def log_distance(made: Tensor, true: Tensor) -> float:
    """Mean absolute difference of two waves' log-magnitudes, over all bins and windows."""
    window = mel_tables(true.device).window
    return (magnitudes(made, window).log() - magnitudes(true, window).log()).abs().mean().item()


def measure_separation(bundle: Path, corpus: Corpus) -> Numbers:
    """How much nearer to the true vocal the separated one is than the mix."""
    model = load_safetensors_model(bundle / "demucs" / f"{SEPARATOR_NAME}.safetensors").eval()

    def compare(seed: int) -> Numbers:
        song = corpus.song(seed)
        mix = torch.from_numpy(song.audio("mix"))
        mean, deviation = mix.mean(0).mean(), mix.mean(0).std()
        with torch.no_grad():
            stems = apply_model(model, ((mix - mean) / deviation)[None], shifts=0)[0]
        vocal = (stems[model.sources.index("vocals")] * deviation + mean).numpy()
        before, after = si_sdr_db(song.audio("mix"), song.vocal), si_sdr_db(vocal, song.vocal)
        return {"SI-SDR of the mix, dB": before, "SI-SDR of the vocal, dB": after, "gain, dB": after - before}

    return _mean_over("separation", corpus.judged_seeds, compare)


def si_sdr_db(made: np.ndarray, true: np.ndarray) -> float:
    """Power of the best multiple of `true` over that of the rest of `made`, all channels together."""
    target = true * (np.sum(made * true, dtype=np.float64) / np.sum(true**2, dtype=np.float64))
    return float(10 * np.log10(np.sum(target**2) / np.sum((made - target) ** 2)))


def measure_text2music(
    round_trip: RoundTrip, make: MakeSongs, corpus: Corpus, settings: MeasureSettings
) -> dict[str, Numbers]:
    """How often the tags of a prompt are found in what it gives, per target.

    Beside each number the null, which is the same with the prompts exchanged, and the same of the true songs.
    """
    classifier = train_classifier(round_trip, corpus, settings)
    truths = [corpus.truth(seed) for seed in corpus.judged_seeds]
    results: dict[str, Numbers] = {}
    for target in TARGETS:
        made = make_songs(make, truths, target, settings.batch)
        true = (corpus.song(seed).audio(target) for seed in corpus.judged_seeds)
        generated = [_measured(classifier, wave) for wave in made]
        originals = [_measured(classifier, wave) for wave in true]
        results[f"text2music, {target}"] = {
            **agreement(generated, truths, target),
            **{f"null: {name}": value for name, value in agreement(generated, truths[1:] + truths[:1], target).items()},
            **{f"true songs: {name}": value for name, value in agreement(originals, truths, target).items()},
        }
    return results


def train_classifier(round_trip: RoundTrip, corpus: Corpus, settings: MeasureSettings) -> InstrumentClassifier:
    """Learnt from training songs as they sound after `round_trip`, mixes and accompaniments in turn."""
    rows, sounds = [], []
    with progress(settings.ear_songs, "classifier", "songs") as done:
        for seed in corpus.train_seeds[: settings.ear_songs]:
            target = TARGETS[seed % len(TARGETS)]
            rows.append(features(round_trip(corpus.song(seed).audio(target))))
            sounds.append(sounds_in(corpus.truth(seed), vocal=target == "mix"))
            done.update()
    return fit_classifier(np.stack(rows), np.stack(sounds), ridge=settings.ear_ridge)


def make_songs(make: MakeSongs, truths: Sequence[SongTruth], target: Target, batch: int) -> list[np.ndarray]:
    """One song per truth, `batch` at once: waves [2, N]."""
    waves: list[np.ndarray] = []
    with progress(len(truths), f"text to {target}", "songs") as done:
        for start in range(0, len(truths), batch):
            waves += make(truths[start : start + batch], target)
            done.update(len(truths[start : start + batch]))
    return waves


def text2music_of(bundle: Path, sampler: SamplerSettings) -> MakeSongs:
    """By the bundle's networks."""
    codec, vocoder = open_codec(bundle, encoder=False, decoder=True), open_vocoder(bundle)
    transformer, text_encoder = open_transformer(bundle), open_text_encoder(bundle)

    @torch.no_grad()
    def make(truths: Sequence[SongTruth], target: Target) -> list[np.ndarray]:
        prompts = [", ".join(tags_of(truth.prompt, target)) for truth in truths]
        lyrics = [word_ids(truth.lyrics) for truth in truths]
        conditional, unconditional = (
            conditions(transformer, text_encoder, prompts, lyrics, text_kept=kept, lyric_kept=kept)
            for kept in (torch.full((len(truths),), kept) for kept in (True, False))
        )
        latents = sample(transformer, conditional, unconditional, draw_noise(truths, LATENTS), sampler)
        return [decode_audio(codec, vocoder, song).numpy() for song in latents]

    return make


def draw_noise(truths: Sequence[SongTruth], layout: LatentLayout) -> Tensor:
    """Noise for songs of one length, each song's own. [B, C, H, T]"""
    frames = layout.frames_of(round(truths[0].seconds * layout.sample_rate_hz))
    generators = (torch.Generator().manual_seed(truth.seed) for truth in truths)
    return torch.stack([torch.randn(layout.channels, layout.rows, frames, generator=own) for own in generators])


def _measured(classifier: InstrumentClassifier, wave: np.ndarray) -> tuple[MusicMeasures, np.ndarray]:
    return measure_music(wave), classifier.sounds(_whole_hops(wave))


def agreement(
    found: Sequence[tuple[MusicMeasures, np.ndarray]], truths: Sequence[SongTruth], target: Target
) -> dict[str, float]:
    """Share of songs whose key and tempo are those of `truths`, and for each sound the share judged rightly."""
    rows = []
    for (music, sounds), truth in zip(found, truths, strict=True):
        right = sounds == sounds_in(truth, vocal=target == "mix")
        rows.append(
            {
                "key": music.key == truth.full_key,
                "key signature": signature(music.key) == signature(truth.full_key),
                "mode": music.key is not None and music.key.endswith(truth.mode),
                "tempo": same_tempo(music.tempo_bpm, truth.tempo_bpm),
                "beat rate within 4 %": abs(music.tempo_bpm / truth.tempo_bpm - 1) <= 0.04,
                "instruments": right.mean(),
                **dict(zip(SOUNDS, right, strict=True)),
            }
        )
    return _mean(rows)


def _mean_over(what: str, seeds: Sequence[int], compare: Callable[[int], Numbers]) -> dict[str, float]:
    rows = []
    with progress(len(seeds), what, "songs") as done:
        for seed in seeds:
            rows.append(compare(seed))
            done.update()
    return _mean(rows)


def _mean(rows: Sequence[Numbers]) -> dict[str, float]:
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}
