"""The mechanics of a CLAP checkpoint: small and of random weights, so that nothing is said of how well one hears."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from common.audio.wave import write_audio
from common.canonical import sha256_of_file
from common.command import run
from common.errors import UserError
from prep.captions import tagger as tagger_module
from prep.captions.caption import caption_songs
from prep.captions.tagger import GENRES, INSTRUMENTS, SENTENCES, Tagger
from prep.cli import app

RATE_HZ = 16_000
CLIP_SECONDS = 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A CLAP of 16 kHz that hears 2 s at once, as transformers saves one."""
    folder = tmp_path_factory.mktemp("clap") / "small-clap"
    words = " ".join(sentence.format(tag=tag) for sentence in SENTENCES.values() for tag in (*GENRES, *INSTRUMENTS))
    splitter = pre_tokenizers.Whitespace()
    known = sorted({word for word, _ in splitter.pre_tokenize_str(words)})
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*special, *known])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    text = {
        "vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 40,
    }  # fmt: skip
    audio = {
        "spec_size": 32, "num_mel_bins": 8, "window_size": 4, "patch_size": 4, "patch_stride": [4, 4],
        "hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2],
        "num_hidden_layers": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=16)).save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=8, sampling_rate=RATE_HZ, hop_length=500, max_length_s=CLIP_SECONDS, fft_window_size=512,
        frequency_max=8000, truncation="rand_trunc",
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def tagger(checkpoint) -> Tagger:
    return Tagger(checkpoint)


def music(seconds, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * RATE_HZ),), np.float32)


def test_shares_are_those_of_the_clips_whatever_is_heard_at_once(tagger, monkeypatch):
    wave = music(5 * CLIP_SECONDS + 0.1)
    heard = tagger.hear(wave)
    assert heard == tagger.hear(wave)
    assert set(heard.shares) == {*GENRES, *INSTRUMENTS}
    assert sum(heard.shares[tag] for tag in GENRES) == pytest.approx(1, abs=1e-5)
    monkeypatch.setattr(tagger_module, "CLIPS_AT_ONCE", 1)
    alone = tagger.hear(wave)
    assert heard.shares == pytest.approx(alone.shares, abs=1e-5)
    clips = [tagger.hear(wave[start : start + CLIP_SECONDS * RATE_HZ]) for start in range(0, 5 * 32_000, 32_000)]
    means = {tag: np.mean([clip.shares[tag] for clip in clips]) for tag in heard.shares}
    assert heard.shares == pytest.approx(means, abs=1e-5)  # 0.1 s at the end count for nothing
    assert heard.shares != pytest.approx(tagger.hear(music(10, seed=1)).shares, abs=1e-5)


def test_a_share_is_the_softmax_of_cosines(tagger, checkpoint):
    """As the network itself compares a clip and sentences."""
    network = ClapModel.from_pretrained(checkpoint).eval()
    wave = music(CLIP_SECONDS)
    sentences = [SENTENCES["genre"].format(tag=tag) for tag in GENRES]
    rows = tagger._tokenizer.encode_batch(sentences)
    features = ClapFeatureExtractor.from_pretrained(checkpoint)(wave, sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.inference_mode():
        logits = network(
            input_ids=torch.tensor([row.ids for row in rows]),
            attention_mask=torch.tensor([row.attention_mask for row in rows]),
            input_features=features["input_features"].float(),
        ).logits_per_audio
    shares = tagger.hear(wave).shares
    assert [shares[tag] for tag in GENRES] == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-5)


def test_a_tag_is_said_where_it_is_sure_in_most_clips():
    shares = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.6, 0.1, 0.3], [0.0, 0.9, 0.1]])
    assert tagger_module._sure(("rock", "pop", "jazz"), shares, 0.4) == ["rock"]
    assert tagger_module._sure(("rock", "pop", "jazz"), shares, 0.3) == ["rock", "pop"]
    assert tagger_module._sure(("rock", "pop", "jazz"), shares, 0.5) == []


def test_silence_says_nothing(tagger):
    heard = tagger.hear(np.zeros(RATE_HZ, np.float32))
    assert heard.tags == ()
    assert not any(heard.shares.values())


def test_a_prompt_has_what_is_sure_and_the_json_says_who_said_it(checkpoint, tmp_path, monkeypatch, capsys):
    """Read at the checkpoint's own rate, and before what was measured."""
    write_audio(tmp_path / "a.wav", np.stack([music(3)] * 2), 44_100)
    (plain,) = caption_songs(tmp_path, dry_run=True)
    assert plain.tagger is None
    monkeypatch.setattr(tagger_module, "SURE", {"genre": 0.0, "instrument": 2.0})
    with pytest.raises(SystemExit) as stopped:
        run(app, ["caption", str(tmp_path), "--tagger", str(checkpoint), "--json"])
    assert stopped.value.code == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["tagger"]["checkpoint"] == "small-clap"
    assert row["tagger"]["sha256"] == sha256_of_file(checkpoint / "model.safetensors")
    assert sorted(row["tagger"]["tags"]) == sorted(GENRES)
    assert row["tags"] == [*row["tagger"]["tags"], *plain.tags]
    assert (tmp_path / "a_prompt.txt").read_text() == ", ".join(row["tags"]) + "\n"


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path, checkpoint):
    with pytest.raises(UserError, match=r"config\.json: no such file\. --tagger takes the folder of a CLAP checkpoint"):
        Tagger(tmp_path)
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((checkpoint / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(UserError, match="a bert; --tagger takes a CLAP checkpoint"):
        Tagger(tmp_path)
    config["audio_config"]["depths"] = [1, 2]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="weights missing or of another shape"):
        Tagger(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"model\.safetensors: damaged \(.*\)\."):
        Tagger(tmp_path)


def test_every_tag_that_is_looked_for_stands_in_the_documents():
    document = (Path(__file__).parents[3] / "docs" / "captions.md").read_text(encoding="utf-8")
    assert f"Genres: {', '.join(GENRES)}." in " ".join(document.split())
    assert f"Instruments: {', '.join(INSTRUMENTS)}." in " ".join(document.split())
