"""The bundle of ACE-Step 1.5: the recipe's own bytes, small, and nothing in it is constant or without bounds."""

import pytest
import torch

from common.bases import ACE_STEP_15
from models.acestep15.prompts import INSTRUMENTAL, lyrics_prompt, text_prompt
from models.loading.acestep15 import open_codec, open_text_encoder, open_transformer
from models.loading.checkpoint import BUNDLES, TINY15, part_files, spec_of
from models.loading.family import check_one_family, family_of
from recipe.tiny15.networks import write_bundle

BASE, TURBO = BUNDLES["tiny15"], BUNDLES["tiny15-turbo"]
MOST_BYTES = 16 * 10**6


def test_the_shipped_bytes_are_the_recipes(tmp_path):
    write_bundle(tmp_path)
    names = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {path.relative_to(TINY15) for path in TINY15.rglob("*") if path.is_file()}
    assert not [name for name in names if (tmp_path / name).read_bytes() != (TINY15 / name).read_bytes()]
    assert sum((TINY15 / name).stat().st_size for name in names) <= MOST_BYTES


def test_both_variants_are_whole_and_of_the_family():
    for word in ("tiny15", "tiny15-turbo"):
        assert spec_of(word) is ACE_STEP_15
        folder = BUNDLES[word]
        assert {family_of(folder, part) for part in ACE_STEP_15.files} == {"tiny15"}
        assert all(path.is_file() for part in (*ACE_STEP_15.files, "demucs") for path in part_files(folder, part))
        check_one_family(word, folder, ACE_STEP_15.files)
    base, turbo = open_transformer(BASE), open_transformer(TURBO)
    assert (base.variant.kind, turbo.variant.kind) == ("base", "turbo")
    assert all(torch.equal(weight, turbo.state_dict()[name]) for name, weight in base.state_dict().items())


@torch.no_grad()
def test_sound_and_latents_keep_their_size():
    codec, silence = open_codec(BASE, encoder=True, decoder=True), open_transformer(BASE).silence(25)[0]
    wave = 0.1 * torch.randn(2, 48_000)
    latents = codec.encode(wave)
    assert 0.5 < latents.std(-1).mean() < 2
    assert 0.03 < codec.decode(latents).std() < 0.3
    assert torch.equal(codec.encode(torch.zeros_like(wave)), silence)
    assert codec.decode(silence).abs().max() < 0.5


@pytest.mark.parametrize("timestep", [999.0, 500.0, 50.0])
@torch.no_grad()
def test_the_answer_depends_on_words_source_and_noise(timestep):
    network, text = open_transformer(BASE), open_text_encoder(BASE)
    words = text.lyric_rows([lyrics_prompt(INSTRUMENTAL)])

    def conditions_of(tag):
        states = text.embed([text_prompt([tag], seconds=4)])
        return network.condition(states.states, states.mask, words.states, words.mask)

    def answer(latents, conditions):
        return network.decode(latents, torch.tensor([timestep]), conditions).sample

    latents, other = torch.randn(2, 1, 64, 1, 50)
    conditions = conditions_of("piano")
    made = answer(latents, conditions)
    assert 0.5 < made.std() < 1.5
    for changed in (
        answer(other, conditions),
        answer(latents, conditions_of("drums")),
        answer(latents, network.with_source(conditions, other)),
    ):
        assert (changed - made).std() > 0.1
