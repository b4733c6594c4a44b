"""Lyrics are read in the language that training read them in, unless another is asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import UserError
from infer.band.inputs import read_inputs
from infer.band.session import Session
from infer.request.plan import plan_generation
from infer.request.request import GenerationRequest
from infer.request.text_inputs import TokenizedLyrics
from models.acestep1.text.lyric_tokens import LANGUAGE_IDS, encode_lyrics
from models.loading.checkpoint import TINY

WORDS = "la la"


@pytest.fixture
def base(tmp_path, save_vocabulary) -> Path:
    """The tiny base with a vocabulary."""
    folder = tmp_path / "base"
    folder.mkdir()
    for part in TINY.iterdir():
        (folder / part.name).symlink_to(part)
    save_vocabulary(folder / "lyric_vocab.json")
    return folder


@pytest.fixture
def lyrics_of(base, make_adapter):
    """lyrics_of("de", ...) are those that an adapter trained on German lyrics takes."""

    def read(trained: str, **flags: Any) -> TokenizedLyrics:
        adapter = make_adapter(lyrics_language=trained)
        request = GenerationRequest(
            adapters=(adapter,), prompt="piano", checkpoint_dir=str(base), device="cpu", **flags
        )
        with read_inputs(plan_generation(request), Session()) as inputs:
            return inputs.text.lyrics

    return read


@pytest.mark.parametrize(
    ("trained", "asked", "language"), [("en", None, "en"), ("de", None, "de"), ("de", "fr", "fr"), ("de", "en", "en")]
)
def test_a_file_of_lyrics_is_read_as_training_read_its_own(vocal_file, lyrics_of, trained, asked, language):
    vocal_file.with_name("ballad_lyrics.txt").write_text(WORDS, encoding="utf-8")
    lyrics = lyrics_of(trained, vocal=vocal_file, lyrics_language=asked)
    assert lyrics.language == language
    assert lyrics.ids[1] == LANGUAGE_IDS[language]


@pytest.mark.parametrize("extra", [True, False])
def test_japanese_is_read_as_the_adapter_learned_it_or_left_out_with_one_notice(
    vocal_file, lyrics_of, extra, request, capsys
):
    if not extra:
        request.getfixturevalue("without_romanisers")
    words = vocal_file.with_name("ballad_lyrics.txt")
    words.write_text("[verse]\nla\n夢\n夢を", encoding="utf-8")
    lyrics = lyrics_of("ja", vocal=vocal_file)
    assert (lyrics.language, lyrics.text) == ("ja", "[verse]\nla\n夢\n夢を")
    assert (lyrics.ids == LANGUAGE_IDS["ja"]).sum() == (3 if extra else 1)
    said = (
        f'{words}: 2 lines of lyrics are left out. The first: lyrics line "夢": reading "ja" needs the extra "lyrics": '
    )
    assert capsys.readouterr().err.count(said) == (not extra)


@pytest.mark.parametrize(
    ("trained", "asked", "language", "said"),
    [
        ("de", None, "de", ""),
        ("en", None, "de", "its lyrics were read in de, the adapter's in en. They stay as they are; --lyrics-language"),
        ("en", "fr", "fr", ""),
        ("fr", "de", "de", ""),
    ],
)
def test_lyrics_of_shards_stay_as_they_are_until_another_language_is_asked_for(
    shards, lyrics_of, trained, asked, language, said, capsys
):
    path = shards / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["fingerprint"]["settings"] = {"text": {"lyrics_language": "de"}}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    assert lyrics_of(trained, shards=shards, key="ballad", lyrics_language=asked).language == language
    printed = capsys.readouterr().err
    assert said in printed
    assert bool(said) == ("--lyrics-language" in printed)


def test_adapters_of_several_languages_say_which_is_taken(shards, tmp_path, make_adapter, base, capsys):
    german = make_adapter(lyrics_language="de").rename(tmp_path / "german")
    request: dict[str, Any] = {
        "adapters": (german, make_adapter()),
        "shards": shards,
        "key": "ballad",
        "checkpoint_dir": str(base),
    }
    assert plan_generation(GenerationRequest(**request, device="cpu")).lyrics_language == "de"
    assert capsys.readouterr().err == (
        "these adapters were trained with lyrics in de and en: taking de, the first's. --lyrics-language chooses.\n"
    )
    assert plan_generation(GenerationRequest(**request, lyrics_language="en", device="cpu")).lyrics_language == "en"
    assert capsys.readouterr().err == ""


def test_an_unknown_language_is_said_before_anything_is_read(adapter):
    request = GenerationRequest(adapters=(adapter,), vocal=Path("nowhere.wav"), lyrics_language="xx")
    with pytest.raises(UserError, match='lyrics language "xx" is not one of en, de'):
        plan_generation(request)


@pytest.mark.parametrize(
    ("trained", "asked", "text"),
    [
        ("words", None, "[verse]"),
        ("words", "instrumental", "[instrumental]"),
        ("instrumental", None, "[instrumental]"),
        ("instrumental", "structure", "[verse]"),
        ("instrumental", "words", "[verse]"),
    ],
)
def test_lyrics_of_shards_are_what_the_adapter_was_trained_with_or_what_is_asked_for(
    shards, base, make_adapter, trained, asked, text
):
    request = GenerationRequest(
        adapters=(make_adapter(lyrics_content=trained),),
        shards=shards,
        key="ballad",
        lyrics_content=asked,
        checkpoint_dir=str(base),
        device="cpu",
    )
    with read_inputs(plan_generation(request), Session()) as inputs:
        assert inputs.text.lyrics.text == text
        assert torch.equal(inputs.text.lyrics.ids, torch.from_numpy(encode_lyrics(text, None).ids).long())
