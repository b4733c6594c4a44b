"""A vocal alone into shards for inference: the whole of it, levelled, cut only where it is too long.

The vocal lies on the disk; of its segments, one is in memory at a time.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from common.audio.disk_wave import DiskWave
from common.audio.wave import LevelGain, loudness_lufs, vocal_activity, vocal_gain
from common.errors import UserError
from common.files import check_writable
from common.latents import LatentLayout
from common.progress import say
from common.texts.naming import split_name, text_beside
from common.texts.tags import one_line, tags_of
from common.texts.text import UTF_8
from models.adapters.adapter import check_adapter, read_card
from models.loading.family import find_encoders
from models.protocols import LatentCodec
from prep.building.identity import build_fingerprint, hash_song
from prep.building.sample import make_samples
from prep.building.workers import torch_threads
from prep.config import EncodeConfig, PrepConfig
from prep.encoding.encode import EncodedSegment, decoded, encode_wave, open_encoder
from prep.encoding.text import open_texts, say_what_was_left_out
from prep.sources.channels import DecodedFile, decoded_file
from prep.sources.scan import NO_LYRICS, NO_PROMPT, SongFiles, read_text, safe_key
from prep.sources.segment import SampleSpan, cut, finite, mix_levels
from shards.lock import build_folder, sweep
from shards.manifest import MANIFEST_FILE, Manifest
from shards.reader import read_manifest
from shards.schema import PartLevels, SegmentAudio
from shards.writer import ShardWriter


def encode_vocal(
    vocal: Path,
    out: Path,
    config: PrepConfig,
    *,
    vocal_lufs: float,
    checkpoint: str,
    device: str,
    prompt: str | None,
    lyrics: Path | None,
    adapter: Path | None = None,
) -> Manifest:
    """Write `vocal`, brought to vocal_lufs, as the only song of `out`; it is for the `adapter`, where one is given.

    Prompt and lyrics are those given, else KEY_prompt.txt and KEY_lyrics.txt beside the vocal.
    Raises UserError for a vocal that cannot be used, for a folder that holds shards to train
    from, and for an adapter of another base.
    """
    check_writable(out)
    song = _song(vocal, prompt, lyrics)
    folder, base = find_encoders(checkpoint)
    latents = base.spec.latents
    if adapter is not None:
        check_adapter(adapter, read_card(adapter), checkpoint, folder, parts=base.spec.parts.encoders)
    fingerprint = build_fingerprint(config, folder, None, torch.device(device).type)
    fingerprint = fingerprint.model_copy(update={"settings": {**fingerprint.settings, "vocal_lufs": vocal_lufs}})
    with build_folder(out) as room, torch_threads(config.threads_per_worker):
        hashed = hash_song(song, vocal.parent)
        _check_is_ours(out, hashed.audio_sha256)
        with ExitStack() as waves:
            file = decoded_file(
                "vocal",
                decoded(vocal, latents.sample_rate_hz),
                config.silent_channel,
                lambda: waves.enter_context(DiskWave(latents.sample_rate_hz, room)),
            )
            wave = file.wave
            gain = vocal_gain(wave.blocks, wave.rate_hz, vocal_lufs, samples=wave.samples)
            cuts = _spans(vocal, wave, latents, config)
            codec = open_encoder(folder, config.encode, device)
            segments = [_encode(codec, file, span, gain, config.encode) for span in cuts]
        texts = open_texts(folder, config.text, device)
        with ShardWriter(out, fingerprint=fingerprint, targets=(), base=base) as writer:
            for note in file.notes:
                say(f"{hashed.song.key}: {note.sentence}")
            writer.add(make_samples(hashed, segments, texts, texts.lyrics(song.lyrics)))
        say_what_was_left_out(texts)
        sweep(room)
    return writer.manifest()


def _song(vocal: Path, prompt: str | None, lyrics: Path | None) -> SongFiles:
    name = split_name(vocal.stem).song
    if lyrics is not None and not lyrics.is_file():
        raise UserError(f"{lyrics}: no such file.")
    tags = prompt or _written_in(text_beside(vocal, name, "prompt"))
    words = _written_in(lyrics or text_beside(vocal, name, "lyrics")) or NO_LYRICS
    tags = one_line(tags) if tags_of(tags) else NO_PROMPT
    return SongFiles(safe_key(name), name, {"vocal": vocal}, tags, words, has_prompt=True)


def _written_in(path: Path | None) -> str:
    text = None if path is None else read_text(path)
    if text is not None and text.encoding != UTF_8:
        say(f"{path}: read as {text.encoding}.")
    return "" if text is None else text.content


def _check_is_ours(out: Path, audio_sha256: str) -> None:
    """Raises UserError where anything but an earlier encoding of the same vocal would be replaced."""
    if not (out / MANIFEST_FILE).exists():
        return
    older = read_manifest(out)
    if older.targets:
        raise UserError(f"{out}: holds shards to train from, which would be replaced. Give another folder.")
    others = [song.key for shard in older.shards for song in shard.songs if song.audio_sha256 != audio_sha256]
    if others:
        raise UserError(f"{out}: holds another vocal, {others[0]}, which would be replaced. Give another folder.")


def _spans(vocal: Path, wave: DiskWave, latents: LatentLayout, config: PrepConfig) -> list[SampleSpan]:
    seconds = wave.samples / wave.rate_hz
    if seconds < config.segment.min_seconds:
        least = f"segment.min_seconds ({config.segment.min_seconds:g} s)"
        raise UserError(f"{vocal.name}: {seconds:.2f} s is shorter than {least}. Give a longer vocal.")
    levels = np.concatenate([mix_levels(block) for block in wave.blocks()])
    return cut(levels, SampleSpan(0, wave.samples), latents, config.segment)


def _encode(
    codec: LatentCodec, file: DecodedFile, span: SampleSpan, gain: LevelGain, config: EncodeConfig
) -> EncodedSegment:
    wave, rate_hz = file.wave.read(span.start, span.end), file.wave.rate_hz
    audio = SegmentAudio(
        start_seconds=span.start / rate_hz,
        samples=wave.shape[1],
        seconds=wave.shape[1] / rate_hz,
        frames=codec.layout.frames_of(wave.shape[1]),
        lufs=PartLevels(vocal=finite(loudness_lufs(wave, rate_hz))),
        gain_db=gain.db,
        peak_limited=gain.peak_limited,
        separator=None,
        derived=None,
        residual_db=None,
        bleed_db=None,
        stems=file.notes,
    )
    wave *= gain.factor
    latents = encode_wave(codec, wave, longest=config.piece_frames(codec.layout))
    activity = vocal_activity(wave, codec.layout).astype(np.float16)
    return EncodedSegment(audio, {"vocal": latents, "activity": activity})
