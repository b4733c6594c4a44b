from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from common.bases import ACE_STEP_1
from common.errors import UserError
from common.latents import LatentStatistics
from infer.request.text_inputs import (
    EncodedPrompt,
    TextInputs,
    TokenizedLyrics,
    cached_lyrics,
    cached_prompt,
    embed_prompt,
    encode_conditions,
    encode_null_conditions,
    read_lyrics,
    read_text_file,
)
from models.acestep1.text.lyric_tokens import INSTRUMENTAL
from models.flow.sampler import SamplerSettings, sample
from models.loading.checkpoint import TINY, open_lyric_reader, open_text_encoder, open_transformer
from shards.reader import read_song
from train.config import TrainingConfig
from train.data.clips import ClipMaker
from train.loop.module import conditioning_of, encode


@pytest.fixture
def words(shards) -> TextInputs:
    sample = read_song(shards, "ballad")[0]
    return TextInputs(cached_prompt(sample), cached_lyrics(sample, "en"))


def test_a_prompt_is_spelt_as_shards_spell_it():
    prompt = embed_prompt(" piano ,drums,  112 bpm,", open_text_encoder(TINY), seconds=4.0)
    assert prompt.tags == "piano, drums, 112 bpm"
    with torch.no_grad():
        expected = open_text_encoder(TINY).embed(["piano, drums, 112 bpm"]).states[0]
    torch.testing.assert_close(prompt.states, expected, rtol=0, atol=0)


def test_a_prompt_that_is_too_long_names_what_is_left_out(capsys):
    tags = [f"instrument number {number}" for number in range(90)]
    prompt = embed_prompt("; ".join(tags), open_text_encoder(TINY), seconds=4.0)
    kept = prompt.tags.split(", ")
    assert kept == tags[: len(kept)]
    assert capsys.readouterr().err == (
        f"the prompt is longer than 256 tokens; these tags are left out: {', '.join(tags[len(kept) :])}\n"
    )


def test_a_text_in_shift_jis_is_read_with_a_word(tmp_path, capsys):
    path = tmp_path / "lyrics.txt"
    path.write_bytes("[chorus]\nあの日の空\n".encode("cp932"))
    assert read_text_file(path) == "[chorus]\nあの日の空"
    assert capsys.readouterr().err == f"{path}: read as Shift-JIS.\n"


def test_cached_words_are_the_first_order_without_its_padding(words, shards):
    sample = read_song(shards, "ballad")[0]
    assert (words.prompt.tags, words.lyrics.text) == ("piano, drums", "[verse]")
    np.testing.assert_array_equal(words.prompt.states.numpy(), sample.text[0, :3].astype(np.float32))
    assert words.lyrics.ids.tolist() == [261, 259, 6683, 2]


def lyrics_in(path, content):
    reader = partial(open_lyric_reader, TINY, None)
    return read_lyrics(path, content, spec=ACE_STEP_1, reader=reader, language="en")


def test_lyrics_come_from_a_file_or_are_instrumental(tmp_path, capsys):
    (tmp_path / "lyrics.txt").write_text("[chorus]\nLa la la\n", encoding="utf-8")
    assert lyrics_in(tmp_path / "lyrics.txt", "words").ids.tolist() == [261, 259, 6684, 2]
    assert capsys.readouterr().err == (
        f"{tmp_path / 'lyrics.txt'}: only its [tags] are used; words need lyric_vocab.json in the checkpoint folder.\n"
    )
    assert lyrics_in(None, "words").text == INSTRUMENTAL
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "text", "ids", "left"),
    [
        ("instrumental", INSTRUMENTAL, [261, 259, 1, 718, 1951, 763, 56, 1, 2], "none of it is"),
        ("structure", "[chorus]", [261, 259, 6684, 2], "only its [tags] are"),
    ],
)
def test_of_lyrics_as_much_is_read_as_the_adapter_was_trained_with(content, text, ids, left, tmp_path, capsys):
    path = tmp_path / "lyrics.txt"
    path.write_text("[chorus]\nLa la la\n", encoding="utf-8")
    lyrics = lyrics_in(path, content)
    assert (lyrics.text, lyrics.ids.tolist()) == (text, ids)
    assert capsys.readouterr().err == (
        f"{path}: {left} used, as in the adapter's training. --lyrics-content words uses all of it.\n"
    )


def test_lyrics_that_cannot_be_read_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt: no such file\.$"):
        lyrics_in(tmp_path / "nowhere.txt", "words")
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt: not UTF-8 \(byte 0\)\. Save it as UTF-8\.$"):
        lyrics_in(tmp_path / "latin.txt", "words")


@pytest.mark.parametrize("dropped", [False, True])
def test_words_and_their_absence_are_those_of_training(shards, words, dropped):
    """With and without words, the transformer is conditioned as train conditions it on the same sample."""
    transformer = open_transformer(TINY)
    sample = read_song(shards, "ballad")[0]
    sample = replace(sample, targets={"inst": sample.vocal}, text=sample.text[:1], text_mask=sample.text_mask[:1])
    whole = {"lyrics_content": "words"}
    config = TrainingConfig(text_dropout=float(dropped), lyric_dropout=float(dropped), accompaniment=whole)
    statistics = LatentStatistics(silence=((0.0,) * 16,) * 8, mean=(0.0,) * 8, std=(1.0,) * 8)
    clip = ClipMaker(config, conditioning_of(config), statistics, ACE_STEP_1).batch([sample], epoch=0)
    ours = (encode_null_conditions if dropped else encode_conditions)(transformer, words)
    with torch.no_grad():
        theirs = encode(transformer, clip)
    torch.testing.assert_close(ours.states, theirs.states, rtol=0, atol=0)
    assert torch.equal(ours.mask, theirs.mask)
    assert ours.states.shape[1] == 1 + 3 + (0 if dropped else 4)


def test_erg_sets_the_words_against_themselves_as_upstream_does(golden, golden_transformer):
    transformer, numbers = golden_transformer("pipeline_erg"), golden("pipeline_erg")
    given, notes = numbers.inputs, numbers.notes["settings"]
    text, ids = (
        EncodedPrompt("", given["text"][0], given["text_null"][0]),
        TokenizedLyrics("", given["lyric_ids"][0], "en"),
    )
    words = TextInputs(text, ids)
    settings = SamplerSettings(steps=notes["infer_steps"], guidance_scale=notes["guidance_scale"], erg=True)
    conditional, unconditional = encode_conditions(transformer, words), encode_null_conditions(transformer, words)
    latents = sample(transformer, conditional, unconditional, given["noise"], settings)
    torch.testing.assert_close(latents, numbers.expected["erg_all"], rtol=0, atol=1e-4)
