"""The text encoder against upstream's numbers, and its tokenizer."""

import socket

import pytest
import torch
from tokenizers import Tokenizer

from common.bases import TOKENIZER_FILE
from common.errors import UserError
from models.acestep1.text.encoder import MAX_TOKENS, TextEncoder, build_network, tied
from models.loading.acestep1 import open_text_encoder
from models.loading.checkpoint import resolve_checkpoint


@pytest.fixture(scope="module")
def tiny_text() -> TextEncoder:
    return open_text_encoder(resolve_checkpoint("tiny", ["umt5-base"]))


@pytest.fixture
def golden_text(golden, tmp_path) -> TextEncoder:
    """The golden's network; its ids come ready-made, so any tokenizer will do."""
    known = golden("text_encoder")
    network = build_network(known.notes["config"], tmp_path)
    network.load_state_dict(tied(known.weights), assign=True)
    folder = resolve_checkpoint("tiny", ["umt5-base"])
    tokenizer = Tokenizer.from_file(str(folder / "umt5-base" / TOKENIZER_FILE))
    return TextEncoder(network, tokenizer).eval().requires_grad_(False)


@pytest.mark.parametrize(("weakened", "expected"), [(False, "hidden"), (True, "hidden_null")])
def test_states_are_upstreams(golden, golden_text, weakened, expected):
    known = golden("text_encoder")
    ids, mask = known.inputs["input_ids"], known.inputs["attention_mask"]
    states = golden_text.states(ids, mask, weakened=weakened)
    bound = 1e-5 * max(1.0, float(known.expected[expected].abs().max()))
    torch.testing.assert_close(states, known.expected[expected], rtol=0, atol=bound)


def test_weakening_ends_with_its_call(golden, golden_text):
    known = golden("text_encoder")
    ids, mask = known.inputs["input_ids"], known.inputs["attention_mask"]
    before = golden_text.states(ids, mask)
    golden_text.states(ids, mask, weakened=True)
    assert torch.equal(golden_text.states(ids, mask), before)


def test_an_encoder_without_the_weakened_blocks_says_so(tiny_text):
    with pytest.raises(UserError) as error:
        tiny_text.embed(["pop"], weakened=True)
    assert str(error.value) == (
        "erg: this text encoder has 2 blocks; blocks 8 and 9 are those to weaken. Set erg to false."
    )


def test_embed_gives_states_and_a_mask_of_the_longest_prompt(tiny_text):
    text = tiny_text.embed(["piano", "piano, slow, sad, 日本語"])
    assert text.mask.dtype == torch.bool
    assert text.states.shape == (*text.mask.shape, tiny_text.width)
    assert text.mask[1].all()
    assert 0 < text.mask[0].sum() < text.mask.shape[1]
    assert tiny_text.width == 768


def test_a_prompt_in_a_batch_is_embedded_as_alone(tiny_text):
    alone = tiny_text.embed(["rock"])
    together = tiny_text.embed(["rock", "rock, electric guitar, male vocal"])
    tokens = alone.states.shape[1]
    torch.testing.assert_close(together.states[:1, :tokens], alone.states, rtol=0, atol=1e-5)


def test_long_prompts_are_cut_to_256_tokens_and_still_end(tiny_text):
    text = tiny_text.embed(["x " * 1000])
    assert text.mask.shape == (1, MAX_TOKENS)
    assert tiny_text.tokenizer.encode("x " * 1000).ids[-1] == 1


@pytest.mark.parametrize("prompt", ["", "pop, 120 bpm", "Ünïcödé ♫ 日本語", "\x00\n"])
def test_the_tiny_tokenizer_spells_any_text_but_the_commas_between_tags_and_ends_it(tiny_text, prompt):
    ids = tiny_text.tokenizer.encode(prompt).ids
    assert ids[-1] == 1
    assert 2 not in ids
    assert tiny_text.tokenizer.decode(ids).strip() == prompt.replace(",", "").strip()


def test_opening_needs_no_network(monkeypatch):
    def refuse(*args: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert open_text_encoder(resolve_checkpoint("tiny", ["umt5-base"])).width == 768
