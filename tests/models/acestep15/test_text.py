"""Prompts, text states, lyric rows and what the condition encoder makes of them are those of diffusers' pipeline."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.errors import UserError
from models.acestep15.prompts import TRACKS, Metas, complete, lyrics_prompt, text_prompt
from models.loading.checkpoint import open_text_encoder, open_transformer

CPU = torch.device("cpu")
TAGS = ("the band", "112 BPM", "plays", "a minor key", "3/4")
LYRICS = "[verse]\nthe band plays\nthe drums"


@pytest.fixture(scope="module")
def encoders(diffusers_folder, original_folder):
    return [open_text_encoder(diffusers_folder), open_text_encoder(original_folder)]


def asked(pipeline, **words):
    return pipeline.encode_prompt(
        [", ".join(TAGS)], [LYRICS], CPU, vocal_language="ja", bpm=112, keyscale="A minor", timesignature="3", **words
    )


@pytest.mark.parametrize("tracks", [(), ("drums", "bass")])
def test_templates_are_those_of_the_pipeline(pipeline, tracks):
    instruction = pipeline._get_task_instruction("complete", complete_track_classes=list(tracks))
    assert complete(tracks) == instruction
    assert set(tracks) <= set(TRACKS)
    text, lyrics = pipeline._format_prompt(
        ", ".join(TAGS), LYRICS, "ja", 12.7, instruction, bpm=112, keyscale="A minor", timesignature="3"
    )
    assert text_prompt(TAGS, seconds=12.7, instruction=instruction) == text
    assert lyrics_prompt(LYRICS, language="ja") == lyrics
    assert text_prompt(("the band",), seconds=240) == pipeline._format_prompt("the band", audio_duration=240.0)[0]


@pytest.mark.parametrize(
    ("tags", "metas"),
    [
        ((), Metas()),
        (("112bpm", "90 bpm"), Metas(bpm=112)),
        (("fast 112bpm", "key of life", "A minor chord"), Metas()),
        (("F# Major", "6/8 time"), Metas(keyscale="F# major", timesignature="6")),
        (("bb min key",), Metas(keyscale="Bb minor")),
    ],
)
def test_tags_fill_the_template(tags, metas):
    assert Metas.of(tags) == metas


@torch.no_grad()
def test_states_and_rows_are_those_of_the_pipeline(pipeline, encoders):
    instruction = complete(["drums"])
    states, mask, rows, rows_mask = asked(pipeline, audio_duration=12.0, instruction=instruction)
    for encoder in encoders:
        text = encoder.embed([text_prompt(TAGS, seconds=12, instruction=instruction)])
        lyrics = encoder.lyric_rows([lyrics_prompt(LYRICS, language="ja")])
        torch.testing.assert_close(text.states, states, atol=1e-5, rtol=0)
        assert torch.equal(lyrics.states, rows)
        assert torch.equal(text.mask, mask)
        assert torch.equal(lyrics.mask, rows_mask)


@torch.no_grad()
def test_what_pads_a_prompt_changes_nothing_in_it(encoders):
    short, long = (text_prompt(tags, seconds=12) for tags in (("band",), TAGS))
    together, alone = encoders[0].embed([short, long]), encoders[0].embed([short])
    count = int(together.mask[0].sum())
    assert count == alone.mask.sum() < together.mask.shape[1]
    torch.testing.assert_close(together.states[0, :count], alone.states[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_conditions_are_those_of_the_pipeline(pipeline, encoders, diffusers_folder):
    states, mask, rows, rows_mask = asked(pipeline, audio_duration=12.0)
    reference = pipeline.condition_encoder.silence_latent[:, :750]
    expected, expected_mask = pipeline.condition_encoder(
        text_hidden_states=states, text_attention_mask=mask, lyric_hidden_states=rows, lyric_attention_mask=rows_mask,
        refer_audio_acoustic_hidden_states_packed=reference, refer_audio_order_mask=torch.zeros(1, dtype=torch.long),
    )  # fmt: skip
    text = encoders[0].embed([text_prompt(TAGS, seconds=12)])
    lyrics = encoders[0].lyric_rows([lyrics_prompt(LYRICS, language="ja")])
    network = open_transformer(diffusers_folder)
    found = network.condition(text.states, text.mask, lyrics.states, lyrics.mask)
    torch.testing.assert_close(found.states, expected, atol=1e-5, rtol=0)
    assert torch.equal(found.mask, expected_mask)
    null = network.null_condition(text.states, text.mask, lyrics.states, lyrics.mask)
    assert torch.equal(null.states, pipeline.condition_encoder.null_condition_emb.expand_as(expected))
    assert torch.equal(null.mask, expected_mask)


def test_a_prompt_is_cut_at_its_limit_and_lyrics_at_theirs(encoders):
    encoder = encoders[0]
    assert encoder.fits("band " * 255)
    assert not encoder.fits("band " * 256)
    assert encoder.lyric_rows(["band " * 3000]).mask.sum() == 2048
    assert encoder.embed(["band " * 3000]).mask.sum() == 256


def test_weakened_states_are_refused(encoders):
    with pytest.raises(UserError) as raised:
        encoders[0].embed(["band"], weakened=True)
    assert str(raised.value) == "erg: ace-step-1.5 has no entropy rectifying guidance. Set erg to false."


def test_a_text_encoder_of_other_weights_or_settings_is_refused_in_one_line(original_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(original_folder, copy)
    room = copy / "Qwen3-Embedding-0.6B"
    path = room / "model.safetensors"
    weights = load_file(path)
    save_file({name: weight for name, weight in weights.items() if name != "model.norm.weight"}, path)
    with pytest.raises(UserError, match=r"1 missing; the first is norm\.weight\.$"):
        open_text_encoder(copy)
    config = room / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": "two"}))
    with pytest.raises(UserError) as raised:
        open_text_encoder(copy)
    assert str(raised.value).startswith(f"{config}: ")
    assert "\n" not in str(raised.value)
