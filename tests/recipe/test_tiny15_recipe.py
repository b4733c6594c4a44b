"""The recipe of models/tiny15/: where its VAE begins, what its transformer is shown, and a bundle at the end."""

import numpy as np
import pytest
import torch

from common.bases import ACE_STEP_15
from models.flow.sampler import SamplerSettings
from models.loading.acestep15 import open_codec, open_transformer
from recipe.corpus import CorpusSettings
from recipe.flow import LatentSongs, SongClip
from recipe.measure import MeasureSettings
from recipe.tiny15.flow import (
    PromptedFlow,
    PromptedFlowSettings,
    conditions,
    draw_source,
    hear_silence_once,
    train_prompted_flow,
    worded,
)
from recipe.tiny15.lapped import begin_lapped
from recipe.tiny15.stages import STAGES, Tiny15Recipe, Tiny15Settings
from recipe.tiny15.vae import VaeSettings, decode, encode, new_vae, spectral_distance
from train.fitting import TrainingSettings

RATE_HZ = ACE_STEP_15.latents.sample_rate_hz


def short(steps: int = 2) -> TrainingSettings:
    return TrainingSettings(steps=steps, batch=2, learning_rate=1e-3, warmup_steps=2)


TOY = Tiny15Settings(
    corpus=CorpusSettings(songs=2, crop_songs=2, judged=1, seconds=5.0),
    vae=VaeSettings(training=short(), frames=8),
    flow=PromptedFlowSettings(training=short(), shortest_frames=20),
    measure=MeasureSettings(ear_songs=2, batch=2, sampler=SamplerSettings(steps=2)),
)


@torch.no_grad()
def test_the_vae_begins_with_the_low_notes_of_the_mean_of_both_channels():
    torch.manual_seed(0)
    vae = new_vae()
    begin_lapped(vae)
    for frequency_hz, least_db, most_db in ((110.0, 20.0, 60.0), (330.0, 15.0, 60.0), (3000.0, -6.0, 1.0)):
        tone = 0.1 * torch.sin(torch.arange(RATE_HZ) * (2 * torch.pi * frequency_hz / RATE_HZ)).expand(1, 2, -1)
        within = slice(RATE_HZ // 4, -RATE_HZ // 4)
        missed = (decode(vae, encode(vae, tone)) - tone)[..., within]
        ratio_db = 10 * torch.log10(tone[..., within].square().mean() / missed.square().mean())
        assert least_db < ratio_db < most_db, frequency_hz


def test_spectra_are_equal_for_the_same_sound_alone():
    wave, other = 10 * torch.randn(2, 2, 2, 16384, generator=torch.Generator().manual_seed(0))
    assert spectral_distance(wave, wave, VaeSettings()) == 0
    assert spectral_distance(other, wave, VaeSettings()) > 0.3
    assert spectral_distance(0.5 * wave, wave, VaeSettings()) == pytest.approx(np.log(2), rel=0.05)


def test_a_clip_is_completed_from_a_part_of_it():
    rng = np.random.default_rng(0)
    parts = np.arange(3.0)[:, None, None, None] * np.ones((3, 64, 1, 4), np.float32)  # inst, mix, vocal
    inst, mix = (SongClip(parts, target, "piano, 112bpm, A minor key", "[verse]") for target in ("inst", "mix"))
    always = PromptedFlowSettings(mix_source_share=1.0, inst_source_share=1.0)
    never = PromptedFlowSettings(mix_source_share=0.0, inst_source_share=0.0)
    for clip, heard in ((inst, {2.0}), (mix, {0.0, 2.0})):
        assert draw_source(clip, never, rng) is None
        sources = [draw_source(clip, always, rng) for _ in range(40)]
        assert {float(source.mean()) for source in sources if source is not None} == heard
    asked, plain = (worded(mix.prompt, 250, completes=completes) for completes in (True, False))
    assert "Complete the input track:" in asked
    assert "Complete" not in plain
    for words in ("- bpm: 112\n", "- keyscale: A minor\n", "- duration: 10 seconds\n"):
        assert words in plain


def test_words_left_out_change_nothing_and_silence_is_heard_alike_by_all():
    torch.manual_seed(0)
    flow = PromptedFlow(torch.randn(1, 15_000, 64))

    def encoded(prompts, *, kept):
        lyrics = ["[verse]"] * len(prompts)
        return conditions(flow.network, flow.text, prompts, lyrics, kept=torch.full((len(prompts),), kept)).states

    apart, together = (encoded(prompts, kept=True) for prompts in (["organ"], ["piano", "organ"]))
    hear_silence_once(flow.network)
    torch.testing.assert_close(encoded(["piano", "organ"], kept=True), together)
    torch.testing.assert_close(together[1:], apart)
    assert not torch.allclose(together[0], together[1])
    assert torch.equal(*encoded(["piano", "organ"], kept=False))


@torch.no_grad()
def test_the_transformer_begins_by_passing_the_noisy_latents_on():
    torch.manual_seed(0)
    network = PromptedFlow(torch.zeros(1, 15_000, 64)).network
    latents, words = network.example(torch.Generator().manual_seed(0))
    passed = network.decode(latents, torch.tensor([900.0]), words).sample
    assert torch.corrcoef(torch.stack([passed.flatten(), latents.flatten()]))[0, 1] > 0.8


def test_the_flow_learns(tmp_path):
    noise = np.random.default_rng(0).normal(size=(2, 3, 64, 1, 16))
    songs = LatentSongs((1 + 0.1 * noise).astype(np.float16), ["piano", "organ"], ["[verse]", "[verse]"])
    torch.manual_seed(0)
    settings = PromptedFlowSettings(training=short(12), shortest_frames=16)
    trained = train_prompted_flow(tmp_path, PromptedFlow(torch.zeros(1, 15_000, 64)), songs, settings, seed=1)
    assert trained.losses["flow"] < 0.5, "1 is what a network that answers nothing has, the first step 0.9"


@pytest.mark.slow
def test_the_whole_recipe_ends_in_a_bundle_with_its_card(tmp_path):
    out = tmp_path / "out"
    recipe = Tiny15Recipe(tmp_path / "work", TOY, out=out, workers=1)
    for stage in STAGES:
        recipe.run(stage)
    card = (out / "CARD.md").read_text(encoding="utf-8")
    for words in ("round trip", "text2music, inst", "text2music, mix", "null: mode", '"mix_source_share": 0.5'):
        assert words in card
    silence = open_codec(out, encoder=True, decoder=False).encode(torch.zeros(2, RATE_HZ))
    for variant in ("base", "turbo"):
        network = open_transformer(out / f"acestep-v15-{variant}")
        assert network.variant_name == variant
        torch.testing.assert_close(network.silence(10)[0], silence[..., 5:15], rtol=2e-3, atol=2e-3)  # not at an end
    assert sum(path.stat().st_size for path in out.rglob("*.*")) < 16e6
