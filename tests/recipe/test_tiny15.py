"""The bundle of ACE-Step 1.5 that ships: small, of the recipe, and what it makes depends on what it is asked."""

import pytest
import torch

from common.bases import ACE_STEP_15
from models.acestep15.prompts import INSTRUMENTAL
from models.loading.acestep15 import open_codec, open_text_encoder, open_transformer
from models.loading.checkpoint import BUNDLES, TINY15, part_files, spec_of
from models.loading.family import check_one_family, family_of
from recipe.tiny15.bundle import silence_of, write_text_encoder, write_variants
from recipe.tiny15.flow import conditions, worded

BASE, TURBO = BUNDLES["tiny15"], BUNDLES["tiny15-turbo"]
MOST_BYTES = 16 * 10**6


def test_networks_that_are_opened_and_written_again_are_the_shipped_bytes(tmp_path):
    """So sizes, names, dtype and layout are the recipe's."""
    write_variants(tmp_path, open_transformer(BASE))
    write_text_encoder(tmp_path, open_text_encoder(TINY15))
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == 9
    assert not [path for path in made if path.read_bytes() != (TINY15 / path.relative_to(tmp_path)).read_bytes()]


def test_both_variants_are_whole_small_and_of_the_family():
    for word in ("tiny15", "tiny15-turbo"):
        assert spec_of(word) is ACE_STEP_15
        folder = BUNDLES[word]
        assert {family_of(folder, part) for part in ACE_STEP_15.files} == {"tiny15"}
        assert all(path.is_file() for part in (*ACE_STEP_15.files, "demucs") for path in part_files(folder, part))
        check_one_family(word, folder, ACE_STEP_15.files)
    base, turbo = open_transformer(BASE), open_transformer(TURBO)
    assert (base.variant.kind, turbo.variant.kind) == ("base", "turbo")
    assert all(torch.equal(weight, turbo.state_dict()[name]) for name, weight in base.state_dict().items())
    files = [path for path in TINY15.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".pt", ".md"}


@torch.no_grad()
def test_sound_keeps_its_low_notes_and_silence_is_the_bundles_own():
    codec, network = open_codec(BASE, encoder=True, decoder=True), open_transformer(BASE)
    seconds = torch.arange(96_000) / 48_000
    tones = torch.sin(2 * torch.pi * torch.tensor([110.0, 164.8, 277.2])[:, None] * seconds)
    wave = 0.05 * tones.sum(0).expand(2, -1)
    latents = codec.encode(wave)
    assert 0.5 < latents.std() < 2
    within = slice(24_000, -24_000)
    missed = (codec.decode(latents) - wave)[:, within]
    assert missed.square().mean() < 0.1 * wave[:, within].square().mean()
    assert torch.equal(network.condition_encoder.silence_latent, silence_of(TINY15))
    assert codec.decode(network.silence(25)[0]).abs().max() < 0.02


@pytest.mark.parametrize("timestep", [999.0, 500.0, 50.0])
@torch.no_grad()
def test_the_answer_depends_on_words_source_and_noise(timestep):
    network, text = open_transformer(BASE), open_text_encoder(BASE)

    def conditions_of(tag):
        return conditions(network, text, [worded(tag, 50)], [INSTRUMENTAL], kept=torch.tensor([True]))

    def answer(latents, conditions):
        return network.decode(latents, torch.tensor([timestep]), conditions).sample

    latents, other = torch.randn(2, 1, 64, 1, 50, generator=torch.Generator().manual_seed(0))
    asked = conditions_of("piano, A minor key")
    made = answer(latents, asked)
    assert 0.5 < made.std() < 1.5
    for changed in (
        answer(other, asked),
        answer(latents, conditions_of("drums, 140bpm")),
        answer(latents, network.with_source(asked, other)),
    ):
        assert (changed - made).std() > 0.1
