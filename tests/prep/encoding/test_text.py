import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import Qwen3Config, Qwen3Model

from common.errors import UserError
from models.acestep1.text.encoder import MAX_TOKENS
from models.acestep1.text.lyric_tokens import LyricIdReader
from models.acestep15.prompts import END
from models.acestep15.text import LyricRowReader, QwenTextEncoder
from models.loading.checkpoint import TINY, open_text_encoder
from prep.config import TextConfig
from prep.encoding.text import TextMaker, say_what_was_left_out, tag_orders
from shards.rejection import SongError

tags = st.lists(st.text("abc ", min_size=1, max_size=4).map(str.strip).filter(bool), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def encoder():
    return open_text_encoder(TINY)


@given(tags=tags, seed=st.integers(0, 5), wanted=st.integers(1, 8))
def test_orders_are_distinct_shuffles_and_begin_as_written(tags, seed, wanted):
    orders = tag_orders(tags, TextConfig(tag_orders=wanted, seed=seed))
    assert orders[0] == ", ".join(tags)
    assert len(set(orders)) == len(orders) <= wanted
    assert all(sorted(order.split(", ")) == sorted(tags) for order in orders)


def test_as_many_orders_as_asked_for_or_possible():
    assert len(tag_orders("abcd", TextConfig(tag_orders=4))) == 4
    assert len(tag_orders("ab", TextConfig(tag_orders=4))) == 2
    assert tag_orders(["instrumental"], TextConfig()) == ("instrumental",)


def test_orders_depend_on_the_seed_and_on_nothing_else():
    tags = ["folk", "guitar", "slow"]
    assert tag_orders(tags, TextConfig(seed=1)) == (
        "folk, guitar, slow",
        "slow, folk, guitar",
        "guitar, folk, slow",
        "folk, slow, guitar",
    )
    assert tag_orders(tags, TextConfig(seed=2)) != tag_orders(tags, TextConfig(seed=1))


def test_each_order_is_embedded_as_if_alone(encoder):
    made = TextMaker(TextConfig(), encoder, LyricIdReader(None)).prompt("folk, twelve-string guitar, slow", seconds=9.0)
    assert made.text.dtype == np.float16
    assert made.text.shape == (len(made.orders), made.mask.shape[1], encoder.width)
    for order, states, mask in zip(made.orders, made.text, made.mask, strict=True):
        with torch.inference_mode():
            alone = encoder.embed([order]).states[0].half().numpy()
        np.testing.assert_array_equal(states[mask], alone)
        assert not states[~mask].any()


def test_a_prompt_is_embedded_once(encoder, monkeypatch):
    embedded = []
    embed = encoder.embed
    monkeypatch.setattr(encoder, "embed", lambda prompts: embedded.append(prompts) or embed(prompts))
    maker = TextMaker(TextConfig(tag_orders=2), encoder, LyricIdReader(None))
    assert maker.prompt("a, b", seconds=9.0) is maker.prompt("a, b", seconds=9.0)
    assert embedded == [["a, b"], ["b, a"]]


def test_prompts_are_kept_by_their_bytes_and_the_one_used_longest_ago_goes(encoder):
    one = TextMaker(TextConfig(tag_orders=1), encoder, LyricIdReader(None)).prompt("x0", seconds=9.0)
    fitting = 2**20 // one.bytes
    long = ", ".join(f"tag {number}" for number in range(200))
    assert (
        one.bytes
        < 2**20
        < TextMaker(TextConfig(tag_orders=64), encoder, LyricIdReader(None)).prompt(long, seconds=9.0).bytes
    )
    maker = TextMaker(TextConfig(tag_orders=1, prompt_cache_mib=1), encoder, LyricIdReader(None))
    prompts = [f"x{number % 10}{chr(97 + number // 10 % 26)}{chr(97 + number // 260)}" for number in range(fitting + 9)]
    for prompt in prompts:
        maker.prompt(prompts[0], seconds=9.0)
        maker.prompt(prompt, seconds=9.0)
    assert maker.embedded == prompts
    maker.prompt(prompts[0], seconds=9.0)
    assert maker.embedded == prompts
    maker.prompt(prompts[1], seconds=9.0)
    assert maker.embedded == [*prompts, prompts[1]]


def test_what_is_larger_than_the_room_for_prompts_is_made_each_time(encoder):
    maker = TextMaker(TextConfig(tag_orders=1, prompt_cache_mib=0), encoder, LyricIdReader(None))
    assert np.array_equal(maker.prompt("a, b", seconds=9.0).text, maker.prompt("a, b", seconds=9.0).text)
    assert maker.embedded == ["a, b", "a, b"]


def test_every_order_of_a_long_prompt_holds_the_same_tags(encoder, capsys):
    tags = [f"instrument number {number}" for number in range(90)]
    maker = TextMaker(TextConfig(), encoder, LyricIdReader(None))
    made = maker.prompt("、".join(tags), seconds=9.0)
    kept = made.orders[0].split(", ")
    assert kept == tags[: len(kept)]
    assert all(sorted(order.split(", ")) == sorted(kept) for order in made.orders)
    assert len(made.orders) == 4
    assert made.mask.sum(1).max() <= MAX_TOKENS
    assert all(encoder.fits(order) for order in made.orders)
    assert not all(map(encoder.fits, tag_orders(tags[: len(kept) + 1], TextConfig())))
    say_what_was_left_out(maker)
    lost = ", ".join(tags[len(kept) :])
    assert capsys.readouterr().err == (
        'prompt "instrument number 0、instrument number 1、...": longer than 256 tokens; '
        f"these tags are left out: {lost}\n"
    )
    assert maker.prompt("folk, slow", seconds=9.0).orders == ("folk, slow", "slow, folk")
    assert list(maker.shortened) == ["、".join(tags)]


def test_of_one_long_tag_the_beginning_is_kept(encoder):
    sentence = " ".join(f"then word {number}" for number in range(200))
    maker = TextMaker(TextConfig(), encoder, LyricIdReader(None))
    (kept,) = maker.prompt(sentence, seconds=9.0).orders
    assert sentence.startswith(kept)
    assert encoder.fits(kept)
    assert not encoder.fits(sentence[: len(kept) + 10])
    assert maker.shortened == {sentence: (f"...{sentence[len(kept) :].lstrip()}",)}


def test_many_long_prompts_take_few_lines(encoder, capsys):
    maker = TextMaker(TextConfig(), encoder, LyricIdReader(None))
    maker.shortened = {f"prompt {number}": ("a",) for number in range(1000)}
    say_what_was_left_out(maker)
    assert capsys.readouterr().err.splitlines()[3:] == [
        "997 more prompts are longer than 256 tokens; tag_orders in their samples hold the tags that fit."
    ]


def test_lyrics_without_a_vocabulary_keep_their_tags(encoder):
    maker = TextMaker(TextConfig(), encoder, LyricIdReader(None))
    assert maker.lyrics("[verse]\nla la").dropped_words
    assert maker.lyrics("[verse]\nla la").ids.tolist() == maker.lyrics("[verse]").ids.tolist() == [261, 259, 6683, 2]
    assert not maker.lyrics("[instrumental]").dropped_words


def test_an_unknown_language_is_said_before_any_song(encoder):
    with pytest.raises(UserError, match='lyrics language "xx" is not one of') as raised:
        TextMaker(TextConfig(lyrics_language="xx"), encoder, LyricIdReader(None))
    assert not isinstance(raised.value, SongError)


@pytest.fixture(scope="module")
def rows():
    """A text encoder of ACE-Step 1.5 with random weights, to which each letter is a token."""
    tokens = {word: number for number, word in enumerate(["?", END, *map(chr, range(33, 127))])}
    tokenizer = Tokenizer(models.WordLevel(tokens, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\|endoftext\|>|\S"), "isolated")
    config = Qwen3Config(
        vocab_size=len(tokens), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    return QwenTextEncoder(Qwen3Model(config).eval(), tokenizer)


def test_a_template_says_how_long_the_segment_is_and_reads_tags(rows):
    maker = TextMaker(TextConfig(tag_orders=2), rows, LyricRowReader(rows))
    asked = rows.worded("a, 90bpm", seconds=9.7)
    assert "Complete the input track:" in asked
    assert "bpm: 90" in asked
    assert "duration: 9 seconds" in asked
    made = maker.prompt("a, 90bpm", seconds=9.7)
    assert made is maker.prompt("a, 90bpm", seconds=9.2)
    assert made is not maker.prompt("a, 90bpm", seconds=10.0)
    assert made.orders == ("a, 90bpm", "90bpm, a")
    with torch.inference_mode():
        alone = rows.embed([rows.worded("90bpm, a", seconds=9)]).states[0].half().numpy()
    np.testing.assert_array_equal(made.text[1][made.mask[1]], alone)


def test_of_lyrics_in_rows_less_is_kept_beside_them(rows):
    maker = TextMaker(TextConfig(lyrics_language="ja"), rows, LyricRowReader(rows))
    found = maker.lyrics("[Verse 1]\nla la")
    table = rows.network.get_input_embeddings().weight.detach().half().numpy()
    for ids, text in (
        (found.ids, "[Verse 1]\nla la"),
        (found.reduced["structure"], "[Verse 1]"),
        (found.reduced["instrumental"], "[Instrumental]"),
    ):
        tokens = rows.tokenizer.encode(f"# Languages\nja\n\n# Lyric\n{text}{END}").ids
        np.testing.assert_array_equal(ids, table[tokens])
    np.testing.assert_array_equal(maker.lyrics("[instrumental]").ids, found.reduced["instrumental"])
    with pytest.raises(UserError, match="is not a code such as en"):
        TextMaker(TextConfig(lyrics_language="English"), rows, LyricRowReader(rows))
