"""The bundle that ships: of the recipe's sizes, small, and good at what it was trained for on other songs."""

from pathlib import Path

import pytest
from demucs.hf import load_safetensors_model
from demucs.htdemucs import HTDemucs

from common.bases import TOKENIZER_FILE
from models.acestep1.sizes import TINY as SIZES
from models.acestep1.sizes import TINY_SEPARATOR
from models.adapters.shipped import SHIPPED
from models.flow.sampler import SamplerSettings
from models.loading.acestep1 import open_codec, open_vocoder
from models.loading.checkpoint import TINY, open_text_encoder, open_transformer
from models.pretrained import open_tokenizer
from prep.made_up.truth import prompt_of
from prep.made_up.world import draw_world
from recipe.bundle import SEPARATOR, stored, write_codec, write_part, write_separator, write_vocoder
from recipe.corpus import Corpus, CorpusSettings, make_corpus
from recipe.flow import mode_alone
from recipe.measure import (
    make_songs,
    measure_round_trip,
    measure_separation,
    round_trip_of,
    text2music_of,
)
from recipe.music_measures import measure_music, signature
from recipe.tokenizer import make_tokenizer, world_texts

MOST_BYTES = 30 * 10**6


def judging(folder: Path, songs: int) -> Corpus:
    """So many songs that judge, none to train on."""
    return make_corpus(folder, CorpusSettings(songs=0, crop_songs=0, judged=songs), workers=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return judging(tmp_path_factory.mktemp("corpus"), songs=6)


def test_it_is_small_and_holds_nothing_that_could_run():
    files = [path for path in TINY.rglob("*") if path.is_file()]
    networks = [path for path in files if not path.is_relative_to(SHIPPED)]  # adapters have a limit of their own
    assert sum(path.stat().st_size for path in networks) <= MOST_BYTES
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".yaml", ".md"}


def test_networks_that_are_opened_and_written_again_are_the_shipped_bytes(tmp_path):
    """So sizes, names, dtype and layout are the recipe's."""
    write_codec(tmp_path, open_codec(TINY, encoder=True, decoder=True))
    write_vocoder(tmp_path, open_vocoder(TINY))
    write_part(tmp_path, "ace_step_transformer", SIZES.transformer, stored(open_transformer(TINY).state_dict()))
    separator = load_safetensors_model(TINY / "demucs" / f"{SEPARATOR}.safetensors")
    assert isinstance(separator, HTDemucs)
    write_separator(tmp_path, separator)
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(made) == 8
    for path in made:
        assert path.read_bytes() == (TINY / path.relative_to(tmp_path)).read_bytes(), path


def test_text_states_and_separator_are_of_the_recipes_sizes():
    assert open_text_encoder(TINY).width == SIZES.text_encoder["d_model"]
    separator = load_safetensors_model(TINY / "demucs" / f"{SEPARATOR}.safetensors")
    assert separator.sources == TINY_SEPARATOR["sources"]


def test_every_tag_of_a_song_is_a_token_of_its_own():
    tokenizer = open_tokenizer(TINY / "umt5-base" / TOKENIZER_FILE)
    assert tokenizer.get_vocab() == make_tokenizer(SIZES.text_encoder["vocab_size"], world_texts()).get_vocab()
    tags = {tag for seed in range(400) for tag in prompt_of(draw_world(seed, 10.0)).split(", ")}
    tags |= {mode_alone(tag) for tag in tags if tag.endswith("key")}
    rows = tokenizer.encode_batch(sorted(tags))
    assert {len(row.ids) for row in rows} == {2}  # and the end
    assert len({row.ids[0] for row in rows}) == len(tags)


@pytest.mark.slow
def test_codec_and_vocoder_keep_key_and_beat(corpus):
    found = measure_round_trip(round_trip_of(TINY), corpus)
    assert found["same key signature"] >= 5 / 6
    assert found["beat F"] >= 0.85


def test_the_separator_finds_the_singer(tmp_path):
    assert measure_separation(TINY, judging(tmp_path, songs=2))["gain, dB"] >= 8


@pytest.mark.slow
def test_a_song_has_the_key_of_its_prompt(corpus):
    truths = [corpus.truth(seed) for seed in corpus.judged_seeds]
    asked = [signature(truth.full_key) for truth in truths]
    measured = [
        signature(measure_music(wave).key)
        for wave in make_songs(text2music_of(TINY, SamplerSettings()), truths, "inst", batch=16)
    ]
    assert sum(one == other for one, other in zip(asked, measured, strict=True)) >= 4
    assert sum(one == other for one, other in zip(asked[1:] + asked[:1], measured, strict=True)) <= 2
