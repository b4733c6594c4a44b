"""Every stage runs at toy length, its losses and drawings mean what they say, and the whole recipe ends in a bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from demucs.hf import load_safetensors_model

from common.bases import ACE_STEP_1
from models.acestep1.codec.mel import magnitudes, mel_tables
from models.flow.sampler import SamplerSettings, sample
from models.loading.acestep1 import open_codec, open_text_encoder, open_transformer, open_vocoder
from prep.made_up.folder import HELD_OUT_SEED
from recipe.bundle import write_codec, write_flow, write_separator, write_vocoder
from recipe.corpus import Corpus, CorpusSettings, make_corpus
from recipe.dcae import CodecSettings, moment_penalty, new_codec, train_codec
from recipe.flow import FlowSettings, LatentSongs, TextConditionedFlow, conditions, draw_prompt, train_flow, word_ids
from recipe.measure import MeasureSettings, si_sdr_db
from recipe.separator import SeparatorSettings, error_db, new_separator
from recipe.stages import STAGES, Recipe, RecipeSettings
from recipe.vocoder import VocoderSettings, new_vocoder, spectral_losses
from train.fitting import TrainingSettings

LATENTS = ACE_STEP_1.latents

PROMPT = "piano, bass, drums, female vocal, 112bpm, A minor key, energetic"
SONGS = CorpusSettings(songs=2, crop_songs=2, judged=1, seconds=5.0)


def short(steps: int = 2) -> TrainingSettings:
    return TrainingSettings(steps=steps, batch=2, learning_rate=2e-3, warmup_steps=2)


TOY = RecipeSettings(
    corpus=SONGS,
    codec=CodecSettings(training=short(), frames=4),
    vocoder=VocoderSettings(training=short(), frames=4),
    separator=SeparatorSettings(training=short()),
    flow=FlowSettings(training=short(), shortest_frames=8),
    measure=MeasureSettings(ear_songs=2, batch=2, sampler={"steps": 2}),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("corpus"), SONGS, workers=1)


def test_songs_sum_are_level_and_stay_as_they_are(corpus):
    song = corpus.song(0)
    np.testing.assert_array_equal(song.audio("mix"), song.vocal + song.inst)
    assert song.vocal.shape == (2, 5 * LATENTS.sample_rate_hz)
    assert 0.5 < np.abs(song.audio("mix")).max() <= 10 ** (-1 / 20) + 1e-4
    before = {path: path.stat().st_mtime_ns for path in corpus.folder.iterdir()}
    content = corpus.path(1).read_bytes()
    corpus.path(1).unlink()
    make_corpus(corpus.folder, SONGS, workers=2)
    assert corpus.path(1).read_bytes() == content
    after = {path: path.stat().st_mtime_ns for path in corpus.folder.iterdir()}
    assert {path for path in after if after[path] != before[path]} == {corpus.path(1)}


def test_nothing_is_trained_on_a_judged_seed(corpus):
    assert max(RecipeSettings().corpus.songs, RecipeSettings().corpus.crop_songs) < HELD_OUT_SEED
    assert min(corpus.judged_seeds) == HELD_OUT_SEED
    assert RecipeSettings().corpus.judged >= 48
    rng = np.random.default_rng(0)
    vocals = [corpus.song(seed).vocal for seed in corpus.train_seeds]
    for _ in range(10):
        crop = corpus.crop(rng, 1000).vocal
        assert any(_contains(song, crop) for song in vocals)


def _contains(song: np.ndarray, crop: np.ndarray) -> bool:
    starts = np.flatnonzero(song[0, : song.shape[1] - crop.shape[1] + 1] == crop[0, 0])
    return any(np.array_equal(song[:, start : start + crop.shape[1]], crop) for start in starts)


def test_the_codec_learns(corpus, tmp_path):
    torch.manual_seed(0)
    settings = CodecSettings(training=short(60), frames=4)
    trained = train_codec(tmp_path, new_codec(), corpus, settings, seed=3)
    first = (tmp_path / "losses.jsonl").read_text().splitlines()[0]
    assert trained.losses["l1"] < 0.75 * float(first.split('"l1": ')[1].split(",")[0])


def test_the_moment_penalty_wants_mean_zero_and_variance_one():
    latents = torch.randn(4, 8, 16, 64, generator=torch.Generator().manual_seed(0))
    latents = (latents - latents.mean((0, 2, 3), keepdim=True)) / latents.std((0, 2, 3), keepdim=True)
    assert moment_penalty(latents) < 1e-6
    assert moment_penalty(latents + 0.5) == pytest.approx(0.25, rel=1e-3)
    assert moment_penalty(latents * 2) == pytest.approx(9, rel=1e-3)


def test_spectral_losses_are_zero_for_the_same_wave_alone():
    generator = torch.Generator().manual_seed(0)
    wave, other = 0.1 * torch.randn(2, 2, 16384, generator=generator)
    made = magnitudes(wave, mel_tables(wave.device).window).log()
    assert sum(spectral_losses(made, wave).values()) < 1e-5
    assert all(loss > 0.1 for loss in spectral_losses(made, other).values())


def test_separation_error_in_decibels():
    generator = torch.Generator().manual_seed(0)
    stems = torch.randn(1, 2, 2, 44100, generator=generator)
    assert error_db(stems, stems, 30.0) == pytest.approx(-30, abs=0.1)
    assert error_db(torch.zeros_like(stems), stems, 30.0) == pytest.approx(-3, abs=0.1)
    assert si_sdr_db(3 * stems[0, 0].numpy(), stems[0, 0].numpy()) > 60
    assert si_sdr_db(stems.sum(1)[0].numpy(), stems[0, 0].numpy()) == pytest.approx(0, abs=0.2)


def test_prompts_say_what_sounds():
    rng = np.random.default_rng(0)
    drawn = [set(draw_prompt(PROMPT, "inst", 0.5, rng).split(", ")) for _ in range(50)]
    assert set.union(*drawn) == set(PROMPT.split(", ")) - {"female vocal"} | {"minor key"}
    assert set.intersection(*drawn) == {"piano", "bass", "drums"}
    assert set(draw_prompt(PROMPT, "mix", 0.0, rng).split(", ")) == set(PROMPT.split(", "))


def test_words_that_are_left_out_change_nothing():
    network = TextConditionedFlow().eval()
    lyrics = [word_ids("[verse]\n\n[chorus]\n"), word_ids("[instrumental]")]
    yes, no = torch.tensor([True, True]), torch.tensor([False, False])

    def encoded(prompts, kept):
        return conditions(network.transformer, network.text, prompts, lyrics, text_kept=kept, lyric_kept=kept)

    same_length = ["piano, drums", "organ, drums"]
    assert torch.equal(encoded(same_length, no).states, encoded(same_length[::-1], no).states)
    assert not torch.equal(encoded(same_length, yes).states, encoded(same_length[::-1], yes).states)


def test_prompts_steer_what_the_transformer_makes(tmp_path):
    """Two songs, one above zero and one below: after a short training the prompt decides between them."""
    rng = np.random.default_rng(0)
    level = np.array([1.0, -1.0])[:, None, None, None, None]
    latents = (level + 0.1 * rng.normal(size=(2, 2, 8, 16, 12))).astype(np.float16)
    songs = LatentSongs(latents, ["piano", "organ"], ["[verse]", "[verse]"])
    torch.manual_seed(0)
    network = TextConditionedFlow()
    settings = FlowSettings(training=short(90), shortest_frames=12)
    settings = settings.model_copy(update={"training": settings.training.model_copy(update={"batch": 8})})
    train_flow(tmp_path, network, songs, settings, seed=1)
    lyrics, yes, no = [word_ids("[verse]")] * 2, torch.tensor([True, True]), torch.tensor([False, False])
    conditional, null = (
        conditions(network.transformer, network.text, songs.prompts, lyrics, text_kept=kept, lyric_kept=kept)
        for kept in (yes, no)
    )
    noise = torch.randn(1, 8, 16, 12, generator=torch.Generator().manual_seed(2)).expand(2, -1, -1, -1)
    made = sample(network.transformer, conditional, null, noise, SamplerSettings(steps=10, guidance="none"))
    piano, organ = made.mean((1, 2, 3))
    assert piano > 0.5
    assert organ < -0.5


def test_a_bundle_holds_the_networks_and_is_small(tmp_path):
    codec, vocoder, separator, flow = new_codec(), new_vocoder(), new_separator(), TextConditionedFlow()
    write_codec(tmp_path, codec)
    write_vocoder(tmp_path, vocoder)
    write_separator(tmp_path, separator)
    write_flow(tmp_path, flow)
    opened = {
        open_codec(tmp_path, encoder=True, decoder=True): codec,
        open_vocoder(tmp_path): vocoder,
        open_transformer(tmp_path): flow.transformer,
        open_text_encoder(tmp_path).network: flow.text.network,
        load_safetensors_model(tmp_path / "demucs" / "tiny.safetensors"): separator,
    }
    for again, original in opened.items():
        expected = original.state_dict()
        assert again.state_dict().keys() == expected.keys()
        for name, tensor in again.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=2e-3, atol=1e-5)
    assert open_text_encoder(tmp_path).embed([PROMPT]).states.shape[-1] == 768
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 24e6
    assert {path.suffix for path in files} == {".json", ".safetensors", ".yaml"}


@pytest.mark.slow
def test_the_whole_recipe_ends_in_a_bundle_with_its_card(tmp_path):
    for stage in STAGES[:4]:
        Recipe(tmp_path / "work", TOY, out=tmp_path / "out", workers=1).run(stage)
    noted = tmp_path / "work" / "measured" / "round trip.json"
    measured_at = noted.stat().st_mtime_ns
    recipe = Recipe(tmp_path / "work", TOY, out=tmp_path / "out", workers=1)
    for stage in STAGES:
        recipe.run(stage)
    assert noted.stat().st_mtime_ns == measured_at, "the same networks were measured twice"
    card = (tmp_path / "out" / "CARD.md").read_text(encoding="utf-8")
    for words in ("round trip", "separation", "text2music, inst", "text2music, mix", "null: mode", '"ear_songs": 2'):
        assert words in card
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"CARD.md", "demucs", "umt5-base", "music_vocoder"}
    assert sum(path.stat().st_size for path in Path(tmp_path / "out").rglob("*.*")) < 24e6
