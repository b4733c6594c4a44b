"""The comparison of objectives: fair songs, a null that exchanges vocals, measures that know the truth, and resumes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file

from common.bases import ACE_STEP_15
from common.config import load_config
from common.errors import UserError
from common.music.chord import TONICS
from infer.audio.mixdown import MixdownSettings
from infer.band.session import Session
from infer.evaluate.measures.clip import Clip
from infer.request.record import GenerationSettings
from infer.request.request import Runtime
from infer.request.text_inputs import TextInputs, cached_lyrics, cached_prompt
from infer.request.vocal import vocal_from_shards
from models.flow.sampler import SamplerSettings
from models.loading.checkpoint import BUNDLES, TINY
from prep.made_up.folder import HELD_OUT_SEED
from prep.made_up.melody import compose
from prep.made_up.render import render_song, song_key
from prep.made_up.truth import prompt_of, tell_truth
from prep.made_up.world import SCALES, draw_world
from recipe.music_measures import signature
from recipe.objectives import experiment as module
from recipe.objectives import training
from recipe.objectives.band_measures import BandMeasures, measure_band
from recipe.objectives.experiment import ANCHORS, Experiment
from recipe.objectives.report import GAINS, MARKS, ObjectivesReport, Result, summarise, tables, write_report
from recipe.objectives.settings import ARMS, CHANGES, UNTRAINED, ObjectivesSettings, SongSettings, arm_of
from recipe.objectives.songs import JudgedSongs, true_bands, truth_of, untold_band, write_songs
from recipe.objectives.training import Pace, training_config
from recipe.stages import RecipeSettings
from shards.reader import read_song
from train.data.plan import seed_of

TOY = ObjectivesSettings(
    songs=SongSettings(training=3, judged=3, seconds=3.0, judged_seconds=6.0),
    arms=("bridge_vp", "controlnet"),
    seeds=(0,),
    training_seconds=4.0,
    training=(
        "lora.r=2",
        "batch_size=2",
        "warmup_steps=1",
        "checkpoint_every_n_steps=1",
        "accompaniment.reference_strength=1",
    ),
    timed_steps=3,
    sampler={"steps": 2},
    batch=2,
)
PACE = Pace(step_seconds={"tiny_image2image": 1.0, "tiny_controlnet": 2.0})


class KilledError(Exception):
    """The process is gone."""


class DiesAt(Callback):
    """After so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            raise KilledError


def experiment(work: Path, settings: ObjectivesSettings = TOY) -> Experiment:
    made = Experiment(TINY, work, settings)
    made.pace = PACE
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory, few_clips, few_rounds) -> Path:
    """A work folder in which everything ran to its end."""
    work = tmp_path_factory.mktemp("whole")
    write_report(experiment(work).run(), work / "objectives.md")
    return work


@pytest.fixture
def begun(whole, tmp_path) -> Path:
    """A work folder with songs and shards alone."""
    for name in ("songs", "shards"):
        shutil.copytree(whole / name, tmp_path / name)
    return tmp_path


def test_no_song_is_trained_on_twice_or_judges_what_it_taught():
    songs, recipe = ObjectivesSettings().songs, RecipeSettings()
    taught, judges = set(songs.training_seeds), set(songs.judged_seeds)
    assert taught.isdisjoint(judges)
    assert taught.isdisjoint(range(recipe.corpus.songs))
    assert judges.isdisjoint(range(recipe.corpus.songs))
    assert min(judges) == HELD_OUT_SEED > max(taught)
    assert len(judges) >= 48
    assert len(ObjectivesSettings().seeds) >= 3


def test_prompts_tell_who_plays_but_neither_tempo_nor_key_nor_mode():
    for seed in range(100):
        world = draw_world(seed, 10.0)
        assert untold_band(prompt_of(world)) == ", ".join([*world.players, world.energy])


def test_every_arm_is_a_training_of_its_own():
    configs = [training_config(arm, ObjectivesSettings(), steps=5, seed=3) for arm in ARMS.values()]
    assert len({config.accompaniment.model_dump_json() for config in configs}) == len(ARMS)
    assert {config.accompaniment.objective for config in configs} == {"bridge_vp", "offset", "naive"}
    alike = {"lora", "learning_rate", "batch_size", "max_steps", "seed", "val_fraction", "max_duration"}
    assert len({config.model_dump_json(include=alike) for config in configs}) == 1
    assert configs[0].val_fraction == 0


def test_a_changed_setting_of_the_sampler_leaves_the_others():
    changed = load_config(ObjectivesSettings, None, ["sampler.guidance=cfg"])
    assert changed.sampler.model_copy(update={"guidance": "apg"}) == ObjectivesSettings().sampler


def test_an_arm_takes_changes_of_its_training_and_of_its_sampler():
    plain = training_config(ARMS["controlnet"], ObjectivesSettings(), steps=5, seed=3)
    for name in CHANGES:
        arm = arm_of(f"controlnet+{name}")
        changed = training_config(arm, ObjectivesSettings(), steps=5, seed=3)
        assert (changed == plain) == (not arm.settings), name
        assert arm != ARMS["controlnet"]
    both = arm_of("bridge_vp-0+noise+early")
    assert both.settings == (*ARMS["bridge_vp-0"].settings, *CHANGES["noise"].settings)
    assert both.sampler == CHANGES["early"].sampler
    assert arm_of("controlnet+lead_sheet+inferred").lead_sheets == "inferred"


def test_songs_that_choose_are_none_of_those_that_teach():
    chooses = load_config(ObjectivesSettings, None, ["songs.first_judged=600000"]).songs
    assert (chooses.judged_seeds[0], chooses.judged_seeds[-1]) == (600_000, 600_047)
    with pytest.raises(UserError) as error:
        load_config(ObjectivesSettings, None, ["songs.first_judged=500100"])
    assert str(error.value) == (
        "defaults: songs: first_judged 500100 is among the songs to train on, which go up to 500399; raise it"
    )


def test_an_inferred_sheet_is_that_of_the_songs_vocal(tmp_path):
    write_songs(tmp_path, [600_003], 8.0)
    truth = truth_of(600_003, 8.0)
    sheet = JudgedSongs(samples=(), truths=(truth,), folder=tmp_path, others=(0,)).inferred_sheet(0)
    assert sheet.bpm == pytest.approx(truth.tempo_bpm, rel=0.04)
    assert sheet.starts[-1] == pytest.approx(8.0, abs=sheet.bars[-1].seconds)


def test_equal_time_buys_steps_by_their_cost():
    assert PACE.steps(ARMS["bridge_vp"], 100.0) == 100
    assert PACE.steps(ARMS["controlnet"], 100.0) == 50


def test_the_true_band_fits_and_others_do_not():
    song = render_song(HELD_OUT_SEED, 10.0)
    vocal, truth = Clip(song.vocal).mono, song.truth
    fit = measure_band(truth, vocal, Clip(song.inst))
    assert fit.key == fit.tempo == 1
    assert fit.beats > 0.8
    assert fit.chords > 0.7
    assert fit.leak_fine < 0.15 < measure_band(truth, vocal, Clip(song.vocal)).leak_fine
    relative = {"major": ("minor", 9), "minor": ("major", 3)}[truth.mode]
    tonics = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
    at = tonics.index(truth.key)
    same = truth.model_copy(update={"mode": relative[0], "key": tonics[(at + relative[1]) % 12]})
    higher = truth.model_copy(update={"key": tonics[(at + 1) % 12], "tempo_bpm": round(1.25 * truth.tempo_bpm)})
    assert measure_band(same, vocal, Clip(song.inst)).key == 1
    wrong = measure_band(higher, vocal, Clip(song.inst))
    assert wrong.key == wrong.tempo == 0
    silent = measure_band(truth, vocal, Clip(np.zeros_like(song.inst)))
    assert (silent.key, silent.tempo, silent.beats, silent.leak_fine) == (0, 0, 0, 0)


def told_by_the_notes(seed: int, seconds: float) -> float:
    """Chance of the right key signature for a guess among those that have every note that is sung."""
    world = draw_world(seed, seconds)
    truth = tell_truth(world, compose(world))
    sung = {note.midi % len(TONICS) for note in truth.notes}
    fitting = [tonic for tonic in range(len(TONICS)) if sung <= {(tonic + step) % 12 for step in SCALES["major"]}]
    assert signature(truth.full_key) in fitting
    return 1 / len(fitting)


@pytest.mark.parametrize(("seconds", "told"), [(10.0, 0.747), (20.0, 0.865)])
def test_ten_seconds_of_melody_leave_the_key_signature_open(seconds, told):
    chances = [told_by_the_notes(seed, seconds) for seed in ObjectivesSettings().songs.judged_seeds]
    assert np.mean(chances) == pytest.approx(told, abs=5e-4)


def test_everything_is_shown_beside_its_null(whole):
    report = load_config(ObjectivesReport, whole / "objectives.json")
    assert set(report.systems) == {*ANCHORS, *UNTRAINED, *TOY.arms}
    for name, system in report.systems.items():
        nulls = {measured.exchanged is not None for measured in system.measured.values()}
        assert nulls == {name in ("sdedit", *TOY.arms)}, name
        assert set(system.gains) == (set(GAINS) if name in TOY.arms else set())
        assert len(system.distances) == (0 if name in ANCHORS else 1)
    assert report.systems["controlnet"].steps == 2
    assert report.systems["true"].measured["key"].own == 1
    assert report.systems["true"].leak.over_true.value == 0
    assert report.systems["codec"].measured["chords"].own < report.systems["true"].measured["chords"].own
    text = (whole / "objectives.md").read_text(encoding="utf-8")
    assert text.count("\n| bridge_vp |") == 7 + 3
    levels = report.systems["bridge_vp"].levels
    assert set(levels) == {"loss", "gain_over_muted", "conditioning_gain"}
    assert all(list(by_level) == ["0.1", "0.3", "0.5", "0.7", "0.9", "1"] for by_level in levels.values())
    assert f"| bridge_vp | loss | {levels['loss']['0.1']:.3f} |" in text
    assert text.count("\n| true bands of other songs |") == 1


def test_true_bands_of_other_songs_are_nearer_than_what_a_few_steps_draw(whole):
    report = load_config(ObjectivesReport, whole / "objectives.json")
    drawn = [report.systems[name].distances[0] for name in ("text2music", *TOY.arms)]  # sdedit starts near true latents
    assert 0 < report.distance_of_others < min(drawn)


def test_songs_are_whole_exchanged_without_a_fixed_point_and_in_shards_without_what_the_vocal_tells(whole):
    judged = experiment(whole).judged
    assert sorted(judged.others) == [0, 1, 2]
    assert all(number != other for number, other in enumerate(judged.others))
    for sample, truth in zip(judged.samples, judged.truths, strict=True):
        assert sample.meta.samples == 6 * 44100
        assert sample.meta.start_seconds == 0
        assert sample.meta.song == f"song-{truth.seed}"
        assert sample.meta.prompt == untold_band(truth.prompt)
        assert sample.meta.lyrics == "[instrumental]"


@pytest.mark.parametrize("which", ["own", "exchanged"])
def test_bands_are_those_that_infer_draws(which, whole):
    made = experiment(whole)
    judged, unit = made.judged, made.unit("controlnet", 0)
    assert unit.sampler is not None
    assert unit.training is not None
    (adapter,) = made.trainings(unit).glob("training/version_*/checkpoints/*step=2_lora")
    band = Session().sampler(Runtime(TINY, torch.device("cpu")), [adapter], [1.0])
    drawn = load_file(made.folder(unit) / f"{which}.safetensors")["bands"]
    for number, song in enumerate(judged.samples):
        sung = judged.samples[judged.others[number]] if which == "exchanged" else song
        vocal = vocal_from_shards(whole / "shards" / "judged", sung.meta.song, [sung], 44_100)
        seed = seed_of("objectives", 0, song.meta.key)
        settings = GenerationSettings(
            ref_strength=1,
            lora_weights=(1,),
            sampler=unit.sampler,
            blend=None,
            mixdown=MixdownSettings(),
            seed=seed,
            num_samples=1,
        )
        (again,) = band.draw(vocal, TextInputs(cached_prompt(song), cached_lyrics(song, "en")), settings, [seed])
        torch.testing.assert_close(drawn[number], again, rtol=1e-3, atol=1e-3)


def test_vocals_of_another_kind_are_of_the_same_songs(tmp_path):
    arms = (
        "controlnet",
        "controlnet+separated+latent_noise",
        "controlnet+half_separated",
        "controlnet+separated_bleed",
    )
    settings = TOY.model_copy(update={"arms": arms, "judged_vocals": "separated", "training_steps": 2})
    made = Experiment(TINY, tmp_path, settings)
    made.make_songs()
    keys = [song_key(seed) for seed in settings.songs.training_seeds]
    samples = {
        room.name.removeprefix("training-"): [read_song(room, key)[0] for key in keys]
        for room in (tmp_path / "shards").glob("training*")
    }
    separated = {kind: [sample.meta.is_separated for sample in found] for kind, found in samples.items()}
    assert separated == {
        "training": [False] * 3,
        "separated": [True] * 3,
        "half_separated": [True, False, True],
        "separated_bleed": [False] * 3,
    }
    for bleeding, alone in zip(samples["separated_bleed"], samples["separated"], strict=True):
        assert np.abs(bleeding.targets["inst"].astype(float) - alone.targets["inst"]).mean() < 0.2, "the band stays"
        assert np.abs(bleeding.vocal.astype(float) - alone.vocal).mean() > 0.1
    assert all(sample.meta.is_separated for sample in made.judged.samples)
    judged = [read_song(tmp_path / "shards" / "judged", sample.meta.song)[0] for sample in made.judged.samples]
    assert torch.equal(made.true_bands, true_bands(judged)), "those that were played, whatever the vocal"
    units = [made.unit(arm, 0) for arm in arms]
    assert [unit.training_vocals for unit in units] == ["clean", "separated", "half_separated", "separated_bleed"]
    assert len({made.trainings(unit) for unit in units}) == 4
    other = Experiment(TINY, tmp_path, settings.model_copy(update={"judged_vocals": "clean"}))
    assert other.trainings(other.unit(arms[1], 0)) == made.trainings(units[1]), "one training is judged with both"
    assert other.unit(arms[1], 0).name != units[1].name
    assert other.unit("true", 0).name == made.unit("true", 0).name


def test_what_is_finished_is_only_read(whole):
    found = [path for room in ("songs", "units") for path in (whole / room).rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in found}
    experiment(whole).run()
    assert {path: path.stat().st_mtime_ns for path in found} == before


def find(work: Path) -> Result:
    """The result of the arm `bridge_vp`, by a process of its own."""
    begun = experiment(work)
    return begun.result(begun.unit("bridge_vp", 0))


@pytest.mark.slow
def test_a_unit_that_was_killed_ends_as_one_that_was_not(whole, begun, monkeypatch):
    """Once amid its training, and once between the bands for the own and for the exchanged vocals."""
    fit, draw_all, drawn = training.fit, module.draw_all, list[str]()

    def dying_draw(*args: Any, what: str) -> Any:
        if what.endswith("exchanged"):
            raise KilledError
        drawn.append(what)
        return draw_all(*args, what=what)

    with monkeypatch.context() as patch:
        patch.setattr(training, "fit", lambda config, **rest: fit(config, **rest, callbacks=[DiesAt(1)]))
        with pytest.raises(KilledError):
            find(begun)
    with monkeypatch.context() as patch:
        patch.setattr(module, "draw_all", dying_draw)
        with pytest.raises(KilledError):
            find(begun)
    assert find(begun) == find(whole)
    assert drawn == ["drawing bridge_vp, own"]
    (training_folder,) = (begun / "trainings").iterdir()
    assert [path.name for path in (training_folder / "training").iterdir()] == ["version_0"], (
        "its training was begun anew"
    )


def test_arms_that_draw_otherwise_share_a_training_of_so_many_steps(begun):
    settings = load_config(
        ObjectivesSettings,
        None,
        ["exchange=false", "untrained=[]", "compared_with=controlnet", "training_steps=2"],
    ).model_copy(
        update={
            "arms": ("controlnet", "controlnet+early"),
            **{name: getattr(TOY, name) for name in ("songs", "seeds", "training", "sampler", "batch")},
        }
    )
    made = Experiment(TINY, begun, settings)
    report = made.run()
    assert list(report.systems) == [*ANCHORS, "controlnet", "controlnet+early"]
    assert len([*(begun / "trainings").iterdir()]) == 1
    assert not [*begun.glob("pace-*")], "no step was timed"
    plain, early = (made.unit(name, 0) for name in settings.arms)
    assert plain.training == early.training
    assert early.sampler is not None
    assert early.sampler.vocal_guidance_interval == (0.7, 1.0)
    assert early.sampler.steps == 2, "all else is what all share"
    bands = [load_file(made.folder(unit) / "own.safetensors")["bands"] for unit in (plain, early)]
    assert not torch.equal(*bands)
    assert not (made.folder(plain) / "exchanged.safetensors").exists()
    key = report.systems["controlnet+early"].measured["key"]
    assert (key.exchanged, key.difference) == (None, None)
    assert key.over_default is not None
    assert report.systems["controlnet"].steps == 2
    assert "own vocal, over controlnet" in tables(report)


def test_the_cost_of_a_step_is_measured_once(begun):
    first = Experiment(TINY, begun, TOY).pace
    assert set(first.step_seconds) == {"tiny_image2image", "tiny_controlnet"}
    assert all(0 < seconds < 60 for seconds in first.step_seconds.values())
    assert Experiment(TINY, begun, TOY).pace == first


def fit_of(value: float, leak: float = 0.0) -> BandMeasures:
    return BandMeasures(key=value, tempo=value, beats=value, chords=value, leak_fine=leak)


def test_differences_are_song_by_song_and_seeds_are_averaged_first():
    rng = np.random.default_rng(0)
    songs = rng.random(40)
    figures = {f"val/{name}{end}": 0.2 for name in GAINS for end in ("", "_low", "_high")}
    results = [
        Result(
            own=tuple(fit_of(song + shift, leak=0.1) for song in songs),
            exchanged=tuple(fit_of(song - 0.3) for song in songs),
            gains=figures | {"val/x0_gain": 0.2 + shift, "val/x0_gain_low": 0.1 - shift},
        )
        for shift in (-0.05, 0.05)
    ]
    true = Result(own=tuple(fit_of(1.0, leak=0.08) for _ in songs))
    system = summarise(results, true=true, default=[results[0]], distances=(3.0, 5.0), steps=7)
    chords = system.measured["chords"]
    assert chords.own == pytest.approx(songs.mean())
    assert chords.by_seed == pytest.approx((songs.mean() - 0.05, songs.mean() + 0.05))
    assert chords.difference is not None
    assert chords.difference.model_dump() == pytest.approx({"value": 0.3, "low": 0.3, "high": 0.3})
    assert chords.over_default is not None
    assert chords.over_default.value == pytest.approx(0.05)
    assert system.distances == (3.0, 5.0)
    assert system.leak.median == pytest.approx(0.1)
    assert system.leak.over_true.value == pytest.approx(0.02)
    gain = system.gains["x0_gain"]
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.2, 0.05, 0.2))


def test_a_document_keeps_all_but_its_tables(whole, tmp_path):
    report = load_config(ObjectivesReport, whole / "objectives.json")
    document = tmp_path / "page.md"
    document.write_text(f"# Mine\n\nBefore.\n\n{MARKS[0]}\nold\n{MARKS[1]}\n\nAfter.\n", encoding="utf-8")
    write_report(report, document)
    once = document.read_text(encoding="utf-8")
    assert once.startswith(f"# Mine\n\nBefore.\n\n{MARKS[0]}\n")
    assert once.endswith(f"{MARKS[1]}\n\nAfter.\n")
    assert "old" not in once
    write_report(report, document)
    assert document.read_text(encoding="utf-8") == once
    assert json.loads(document.with_suffix(".json").read_text()) == json.loads((whole / "objectives.json").read_text())
    document.write_text("no marks", encoding="utf-8")
    with pytest.raises(UserError) as error:
        write_report(report, document)
    assert str(error.value) == (
        f"{document}: has not the lines {MARKS[0]} and {MARKS[1]}, between which the tables go."
    )


def test_an_unknown_arm_is_refused():
    with pytest.raises(UserError) as error:
        load_config(ObjectivesSettings, None, ['arms=["bridge"]'])
    assert str(error.value).startswith(
        "defaults: arms: there is no arm 'bridge'; choose from 'bridge_vp', 'controlnet', "
    )
    with pytest.raises(UserError) as error:
        load_config(ObjectivesSettings, None, ['arms=["controlnet+loud"]'])
    assert str(error.value).startswith(
        "defaults: arms: controlnet+loud: there is no change 'loud'; choose from 'noise', "
    )


def test_a_base_with_a_source_slot_is_compared_by_its_own_sampler_and_costs(tmp_path):
    songs = SongSettings(training=2, judged=2, seconds=3.0)
    wanted = {"songs": songs, "arms": ("context",), "untrained": (), "compared_with": "context", "exchange": False}
    compared = Experiment(BUNDLES["tiny15"], tmp_path, TOY.model_copy(update=wanted | {"training_seconds": 0.1}))
    report = compared.run()
    assert set(report.step_seconds) == {"tiny_image2image", "tiny_controlnet", "tiny_context"}
    assert {*report.systems} == {*ANCHORS, "context"}
    drawn = compared.unit("context", 0).sampler
    assert drawn == SamplerSettings.of(ACE_STEP_15.samplings["base"]).model_copy(update={"steps": TOY.sampler.steps})
