"""`train harmoniser`: it learns from songs with lead sheets, says what that is worth, and refuses what is no use."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import train.harmony.training
from common.bases import ACE_STEP_1
from common.errors import UserError
from common.music.chord import TONICS
from common.music.notation import read_lead_sheet
from common.music.vocal_features import FEATURE_RATE_HZ, VocalFeatures, feature_frames
from models.adapters.adapter import read_card, rewrite_card
from models.adapters.harmoniser import find_harmoniser
from models.adapters.shipped import SHIPPED
from models.harmony.network import harmony_network_hash, open_harmony_network
from models.harmony.trained import SHIPPED_HARMONISER
from shards.fingerprint import Fingerprint
from shards.schema import Sample
from shards.writer import ShardWriter
from train.fitting import TrainingSettings
from train.harmony.examples import UNKNOWN, Disturbance
from train.harmony.report import score_of_network
from train.harmony.run import harmoniser_of_shards
from train.harmony.songs import SungSong, read_sung_songs, sung_song

LATENTS = ACE_STEP_1.latents
BEAT_SECONDS, BARS = 0.5, 6
FEW_STEPS = TrainingSettings(steps=50, batch=8, learning_rate=3e-3, warmup_steps=5, average_decay=0.9)


def sung(rng: np.random.Generator, samples: int, tonic: int) -> tuple[VocalFeatures, str]:
    """The tones of a chord in each bar, and the lead sheet that tells it."""
    frames = feature_frames(samples, LATENTS.sample_rate_hz)
    midi, confidence, onsets = np.full(frames, 60.0), np.zeros(frames), np.zeros((3, frames))
    names, per_beat = list[str](), round(BEAT_SECONDS * FEATURE_RATE_HZ)
    for bar in range(BARS):
        root = int(rng.choice([0, 5, 7]))
        names.append(TONICS[(tonic + root) % 12])
        for beat in range(4):
            at = (4 * bar + beat) * per_beat
            midi[at : at + per_beat] = 60 + tonic + root + (0, 4, 7, 4)[beat]
            confidence[at : at + per_beat - 3] = 1.0
            onsets[:, at : at + 2] = 1.0
    told = f"key: {TONICS[tonic]} major\nbpm: 120\n| {' | '.join(names)} |\n"
    return VocalFeatures(midi, confidence, confidence, onsets, 0.0), told


@pytest.fixture
def song_of(make_sample):
    """song_of("a", features=..., sheet=...): a sample of a made-up song that is sung, with what it is to hold."""

    def make(key: str, *, features: bool = True, sheet: bool = True, parent: str | None = None) -> Sample:
        frames = LATENTS.frames_of(round(4 * BARS * BEAT_SECONDS * LATENTS.sample_rate_hz))
        sample = make_sample(key, 0, frames)
        rng = np.random.default_rng(list(key.encode()))
        found, told = sung(rng, sample.meta.samples, int(rng.integers(12)))
        return replace(
            sample,
            meta=sample.meta.model_copy(update={"parent": parent, "semitones": 0 if parent is None else 2}),
            vocal_features=found.packed() if features else None,
            lead_sheet=read_lead_sheet(told) if sheet else None,
        )

    return make


@pytest.fixture
def written(tmp_path):
    """written(samples) writes shards of them."""

    def write(samples: list[Sample]) -> Path:
        fingerprint = Fingerprint(settings={}, networks={}, steps={})
        with ShardWriter(tmp_path / "shards", fingerprint=fingerprint, targets=("inst", "mix")) as writer:
            for sample in samples:
                writer.add([sample])
        return tmp_path / "shards"

    return write


@pytest.fixture
def few_steps(monkeypatch):
    for name in ("FROM_NOTHING", "FROM_ANOTHER"):
        monkeypatch.setattr(train.harmony.training, name, FEW_STEPS)


def trained(shards, out, **options):
    given = {"adapter": None, "init_from": None, "seed": 0, **options}
    return harmoniser_of_shards(str(shards), out=out, **given)


def test_from_nothing_it_learns_what_these_songs_play_and_again_the_same_bytes(tmp_path, song_of, written, few_steps):
    shards = written([song_of(f"song{number}") for number in range(24)])
    made = trained(shards, tmp_path / "own", init_from="none").training
    scores = made.scores
    assert list(scores) == ["chance", "key alone", "rules", "trained"]
    assert made.training_songs + made.held_out_songs == 24
    assert made.chosen_step > 0
    for other in ("chance", "key alone"):
        assert scores["trained"].chord_log_likelihood > scores[other].chord_log_likelihood + 0.3
        assert scores["trained"].chords > scores[other].chords + 0.1
    assert scores["trained"].key_log_likelihood > scores["chance"].key_log_likelihood + 0.3
    assert made.beats.tempo == 1.0
    trained(shards, tmp_path / "again", init_from="none")
    for path in (tmp_path / "own").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_from_the_shipped_one_it_becomes_no_worse(tmp_path, song_of, written, few_steps):
    shards = written([song_of(f"song{number}") for number in range(12)])
    made = trained(shards, tmp_path / "own").training
    assert made.init_from == harmony_network_hash(SHIPPED_HARMONISER)
    before, after = made.scores["started from"], made.scores["trained"]
    assert after.chord_log_likelihood + 0.3 * after.key_log_likelihood >= (
        before.chord_log_likelihood + 0.3 * before.key_log_likelihood - 1e-3
    )


def test_what_was_made_of_a_held_out_song_is_held_out_with_it(song_of, written):
    songs = [song_of(f"song{number}") for number in range(12)]
    songs += [song_of(f"song{number}_up2", parent=f"song{number}") for number in range(12)]
    found = read_sung_songs(written(songs), 0.3)
    held_out, training = ({song.song for song in side} for side in (found.held_out, found.training))
    assert len(held_out) >= 2
    assert found.counts == (12 - len(held_out), len(held_out))
    assert training == {f"song{n}{end}" for n in range(12) for end in ("", "_up2") if f"song{n}" not in held_out}


@pytest.mark.parametrize(
    ("lacks", "complaint"),
    [
        (
            {"features": False},
            "9 of 12 songs have features of the vocal; it takes 10. Run prep build-shards again with",
        ),
        (
            {"sheet": False},
            "9 of 12 songs have features of the vocal and a lead sheet; it takes 10. Run prep lead-sheets on",
        ),
    ],
)
def test_what_cannot_teach_is_refused_in_one_line(tmp_path, song_of, written, lacks, complaint):
    shards = written([song_of(f"song{number}", **(lacks if number < 3 else {})) for number in range(12)])
    with pytest.raises(UserError) as raised:
        trained(shards, tmp_path / "own")
    assert str(raised.value).startswith(f"{shards}: {complaint}")
    assert not (tmp_path / "own").exists()


def test_places_that_cannot_take_it_are_refused(tmp_path, song_of, written):
    shards = written([song_of("song")])
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "song.wav").write_bytes(b"")
    for options, complaint in (
        ({"out": tmp_path / "music"}, f"{tmp_path / 'music'}: holds song.wav, which is no part of a harmoniser."),
        ({"out": None}, "the harmoniser goes into an adapter's folder (--adapter) or its own (--out)."),
        ({"out": None, "adapter": tmp_path / "music"}, f"{tmp_path / 'music'}: no adapter.json inside."),
        ({"out": tmp_path / "own", "init_from": str(SHIPPED)}, f"{SHIPPED}: no config.json inside, so that it is no"),
    ):
        with pytest.raises(UserError) as raised:
            trained(shards, **options)
        assert str(raised.value).startswith(complaint)
    assert [path.name for path in (tmp_path / "music").iterdir()] == ["song.wav"]


@pytest.fixture
def song(song_of) -> SungSong:
    found = sung_song(song_of("song"))
    assert found is not None
    return found


def test_labels_are_the_triads_of_the_sheet_and_nothing_else(song):
    sheet = read_lead_sheet("key: C major\nbpm: 120\n| Am7 | Bm7b5 | N.C. | F/A | G7 |\n")
    truth = replace(song, sheet=sheet).truth(song.found)
    bars = [list(truth.chords[8 * bar + 1 : 8 * bar + 7]) for bar in range(6)]
    assert bars == [[number] * 6 for number in (9 + 12, UNKNOWN, UNKNOWN, 5, 7, UNKNOWN)]
    assert truth.key == 0


def test_a_part_of_a_long_song_is_what_the_whole_is_there(song, monkeypatch):
    monkeypatch.setattr("train.harmony.songs.MOST_BEATS", 8)
    still = Disturbance(beat_seconds=0, wrong_bar_share=0, other_signature_share=0, softest=1, gap_share=0)
    for seed in range(8):
        drawn = song.draw(np.random.default_rng(seed), still)
        assert len(drawn.values) == 2 * 8
        changes = np.flatnonzero(np.diff(drawn.chords)) + 1
        assert (drawn.values[changes, 14:].argmax(axis=1) == 0).all()  # chords change where a bar begins
        tones = (drawn.chords[:, None] + np.array([0, 4, 7])) % 12
        assert (np.take_along_axis(drawn.values[:, :12], tones, axis=1).sum(axis=1) > 0.5).all()  # and are sung


def test_an_adapter_gets_it_and_its_card_notes_it(tmp_path, song_of, written, few_steps):
    adapter = tmp_path / "adapter"
    shutil.copytree(SHIPPED / "controlnet", adapter)
    shards = written([song_of(f"song{number}") for number in range(10)])
    made = trained(shards, None, adapter=adapter, init_from="none")
    assert made.folder == adapter / "harmoniser"
    assert read_card(adapter).harmoniser == harmony_network_hash(made.folder)
    assert find_harmoniser([adapter], [read_card(adapter)]) == made.folder
    assert made.training.scores["trained"].chords == pytest.approx(
        score_of_network(open_harmony_network(made.folder), read_sung_songs(shards, 0.15).held_out).chords
    )
    bare = read_card(adapter)
    without = bare.conditioning.model_copy(update={"lead_sheet": None})
    rewrite_card(adapter, bare.model_copy(update={"conditioning": without}))
    with pytest.raises(UserError, match="takes no lead sheet, so that no harmoniser would change its bands"):
        trained(shards, None, adapter=adapter)
