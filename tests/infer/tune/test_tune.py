"""The command: songs from shards, bands by the adapter, the best settings into adapter.json."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.command import run
from common.errors import UserError
from infer.cli import app
from infer.tune.space import Recommended
from infer.tune.study import Tuning, TuningStudy
from infer.tune.tune import TuneRequest, choose_songs, tune
from models.adapters.adapter import read_card, rewrite_card
from models.adapters.shipped import SHIPPED
from shards.fingerprint import Fingerprint
from shards.held_out import validation_songs
from shards.reader import read_manifest
from shards.writer import ShardWriter

STEPS = 2


@pytest.fixture
def adapter(tmp_path) -> Path:
    """The shipped one, in few steps, that says that it kept half of its songs."""
    folder = shutil.copytree(SHIPPED / "controlnet", tmp_path / "adapter")
    card = read_card(folder)
    few = card.sampler.model_copy(update={"steps": STEPS})
    rewrite_card(folder, card.model_copy(update={"sampler": few, "val_fraction": 0.5}))
    return folder


@pytest.fixture
def songs(tmp_path, make_song) -> Path:
    """Shards of four songs of 1.5 s with bands."""
    networks = read_card(SHIPPED / "controlnet").networks
    fingerprint = Fingerprint(settings={}, networks=networks, steps={})
    with ShardWriter(tmp_path / "songs", fingerprint=fingerprint, targets=("inst",)) as writer:
        for number in range(4):
            sample = make_song(f"song-{number}", 0, 16)
            band = np.random.default_rng(number).standard_normal(sample.vocal.shape).astype(np.float16)
            writer.add([replace(sample, targets={"inst": band})])
    return tmp_path / "songs"


def recommended(folder: Path) -> Recommended:
    return Recommended.of(read_card(folder))


def test_the_best_settings_become_the_adapters(adapter, songs, capsys, opened):
    before = recommended(adapter)
    with pytest.raises(SystemExit) as stopped:
        run(app, ["tune", "--adapter", str(adapter), "--shards", str(songs), "--trials", "3", "--device", "cpu"])
    assert stopped.value.code == 0
    printed = capsys.readouterr()
    tuning = Tuning.model_validate_json((adapter / "tuning.json").read_text(encoding="utf-8"))
    assert tuning.before.settings == before
    assert recommended(adapter) == tuning.best.settings
    assert len(tuning.setup.songs) == 2
    assert printed.out.startswith("3 of 3 trials")
    if tuning.best is not tuning.before:
        assert "cannot tell whether it fits better" in printed.out  # of two songs
    assert "infer.band.session.open_codec" not in opened  # the encoder


def test_a_rerun_runs_nothing_and_another_hand_is_noticed(adapter, songs, opened):
    request = TuneRequest(adapter=adapter, shards=songs, trials=1, device="cpu")
    tune(request)
    content, networks = (adapter / "tuning.json").read_bytes(), opened.copy()
    tune(request)
    assert (adapter / "tuning.json").read_bytes() == content
    assert opened == networks
    card = read_card(adapter)
    rewrite_card(adapter, card.model_copy(update={"reference_strength": 0.31}))
    with pytest.raises(UserError, match=r"adapter\.json: its settings were changed since .*tuning\.json began"):
        tune(request)


def test_songs_that_were_trained_on_are_not_taken_unasked(adapter, songs):
    request = TuneRequest(adapter=adapter, shards=songs)
    card, manifest = read_card(adapter), read_manifest(songs)
    kept = choose_songs(request, card, manifest)
    assert len(kept) == 2
    every = choose_songs(TuneRequest(adapter=adapter, shards=songs, all_songs=True), card, manifest)
    assert set(kept) < set(every)
    assert (
        choose_songs(TuneRequest(adapter=adapter, shards=songs, all_songs=True, songs=2), card, manifest) == every[::2]
    )
    for fraction, why in ((None, "does not say that it kept songs"), (0.0, "kept no song of these shards")):
        with pytest.raises(UserError, match=f"{why} for validation. Give shards of songs that it was not trained on"):
            choose_songs(request, card.model_copy(update={"val_fraction": fraction}), manifest)


def test_the_adapters_inside_backline_keep_their_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run(app, ["tune", "--adapter", "controlnet", "--shards", "shards"])
    assert stopped.value.code == 2
    assert f"is Backline's own. Copy {SHIPPED / 'controlnet'} and tune the copy." in capsys.readouterr().err


def test_what_lacks_the_target_is_refused(adapter, shards):
    with pytest.raises(UserError, match="holds no target, bands are measured against inst"):
        choose_songs(TuneRequest(adapter=adapter, shards=shards), read_card(adapter), read_manifest(shards))


@pytest.mark.parametrize("made", range(4))
def test_a_song_at_another_pitch_is_on_the_side_of_its_own(adapter, songs, made):
    """As training parts them: none is taken for kept whose song was trained on, and none counts twice."""
    keys = [f"song-{number}" for number in range(4)]
    given = [key for key in keys if key != keys[made]]
    manifest = read_manifest(songs)
    shards = [
        shard.model_copy(
            update={
                "songs": tuple(
                    song.model_copy(update={"parent": given[0]}) if song.key == keys[made] else song
                    for song in shard.songs
                )
            }
        )
        for shard in manifest.shards
    ]
    manifest, card = manifest.model_copy(update={"shards": tuple(shards)}), read_card(adapter)
    kept = choose_songs(TuneRequest(adapter=adapter, shards=songs), card, manifest)
    assert set(kept) == validation_songs(given, 0.5)
    assert choose_songs(TuneRequest(adapter=adapter, shards=songs, all_songs=True), card, manifest) == tuple(given)


def test_an_interrupt_says_what_is_kept(adapter, songs, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(TuningStudy, "run_next", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(TuneRequest(adapter=adapter, shards=songs, trials=3, device="cpu"))
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "stopped; 0 of 3 trials are kept, and the same command goes on"
