"""Latents, adapters and checkpoints that do not belong together are refused in one line by every command that would
mix them, and no command takes the tiny bundle unasked.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import infer.cli
import prep.cli
import train.cli
from common.bases import ACE_STEP_1, BaseOrigin
from common.command import run
from models.acestep1.sizes import PUBLISHED
from models.adapters.adapter import CARD_FILE, read_card
from models.loading.checkpoint import TINY, part_hash
from shards.manifest import MANIFEST_FILE
from shards.reader import read_manifest

TRANSFORMER, CODEC, TEXT = ACE_STEP_1.parts.transformer, ACE_STEP_1.parts.codec, ACE_STEP_1.parts.text_encoder

APPS: dict[str, typer.Typer] = {"prep": prep.cli.app, "train": train.cli.app, "infer": infer.cli.app}
SEARCH = ("--optuna-config", "tiny_search", "--study-name", "s")
UNNAMED = (
    "Give --checkpoint-dir ACE-Step/ACE-Step-v1-3.5B, or a folder of that layout; --checkpoint-dir tiny is for trying."
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """raw/ songs, shards/ of the tiny codec, an adapter/ that learned from them, outputs/."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        for words in (
            "prep demo-songs raw --songs 3 --seconds 3 --seed 5",
            "prep build-shards raw shards --workers 1 --checkpoint-dir tiny",
            "train run --config tiny_image2image --shards shards --set max_steps=1 --set val_fraction=0",
        ):
            assert code_of(words.split()) == 0
        (adapter,) = folder.glob("exps/**/*_lora")
        shutil.copytree(adapter, folder / "adapter")
        generated = "infer generate --vocal raw/song-000005_vocal.flac --adapter adapter --infer-steps 1"
        assert code_of(generated.split()) == 0
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch) -> Path:
    """A copy of what was made, as the current folder."""
    folder = Path(shutil.copytree(made, tmp_path / "project"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def complaint(project, capsys) -> Callable[..., str]:
    """complaint("train", "run", ...) is the one line in which a command refuses."""

    def call(*words: str) -> str:
        capsys.readouterr()
        assert code_of(words) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "Traceback" not in printed.err
        return printed.err.splitlines()[-1]

    return call


def code_of(words) -> int:
    program, *arguments = words
    with pytest.raises(SystemExit) as stopped:
        run(APPS[program], list(arguments))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def published_transformer(folder: Path) -> Path:
    """A checkpoint of which only the transformer was fetched; its weights need not be read to be refused."""
    (folder / TRANSFORMER).mkdir(parents=True)
    (folder / TRANSFORMER / "config.json").write_text(json.dumps(PUBLISHED.transformer))
    return folder


def other_codec(folder: Path) -> Path:
    """The tiny bundle with other weights in its codec."""
    shutil.copytree(TINY, folder)
    path = folder / CODEC / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return folder


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


TRAINING = (("run",), ("search", *SEARCH))


@pytest.mark.parametrize("verb", TRAINING, ids=lambda verb: verb[0])
def test_shards_of_the_toy_do_not_train_the_real_one(complaint, project, verb):
    published_transformer(project / "real")
    flags = ("--config", "tiny_image2image", "--shards", "shards", "--checkpoint-dir", "real")
    assert complaint("train", *verb, *flags) == (
        f"error: shards: is of tiny, the {TRANSFORMER} of real is of ace-step-1. "
        "Use the checkpoint that made it (--checkpoint-dir tiny)."
    )


@pytest.mark.parametrize("verb", TRAINING, ids=lambda verb: verb[0])
def test_shards_of_another_codec_of_the_same_sizes_do_not_train(complaint, project, verb):
    other_codec(project / "other")
    flags = ("--config", "tiny_image2image", "--shards", "shards", "--checkpoint-dir", "other")
    assert complaint("train", *verb, *flags) == (
        f"error: shards: made with {CODEC} {part_hash(TINY, CODEC)[:8]}, that of other is "
        f"{part_hash(project / 'other', CODEC)[:8]}. Use the checkpoint that made it (--checkpoint-dir tiny)."
    )


@pytest.mark.parametrize(
    "command",
    [
        "prep encode raw/song-000005_vocal.flac vocal --adapter adapter",
        "infer generate --vocal raw/song-000005_vocal.flac --adapter adapter --infer-steps 1",
        "infer generate --shards shards --key song-000005 --adapter adapter --infer-steps 1",
        "infer compare --test-set test_set.json --adapters adapter --infer-steps 1",
    ],
)
def test_an_adapter_reads_and_writes_through_the_codec_it_learned_from(complaint, project, command):
    other_codec(project / "other")
    test_set = [{"key": "a", "vocal_path": "raw/song-000005_vocal.flac", "prompt": "piano"}]
    (project / "test_set.json").write_text(json.dumps(test_set))
    assert complaint(*command.split(), "--checkpoint-dir", "other").startswith(
        f"error: adapter: made with {CODEC} {part_hash(TINY, CODEC)[:8]}, that of other is "
    )


def test_results_are_measured_against_the_codec_that_made_them(complaint, project):
    other_codec(project / "other")
    flags = ("--items", "outputs", "--truth", "raw", "--checkpoint-dir", "other")
    assert complaint("infer", "evaluate", *flags).startswith(
        f"error: outputs/song-000005.json: made with {CODEC} {part_hash(TINY, CODEC)[:8]}, that of other is "
    )


def test_a_vocal_of_another_codec_is_refused(complaint, project):
    networks = {CODEC: "a" * 64, TEXT: part_hash(TINY, TEXT)}
    manifest = json.loads((project / "shards" / MANIFEST_FILE).read_text())
    rewrite(project / "shards" / MANIFEST_FILE, fingerprint=manifest["fingerprint"] | {"networks": networks})
    flags = ("--shards", "shards", "--key", "song-000005", "--adapter", "adapter")
    assert complaint("infer", "generate", *flags) == (
        f"error: shards: made with {CODEC} aaaaaaaa, adapter with {part_hash(TINY, CODEC)[:8]}. "
        "Encode it with prep encode --adapter."
    )


def test_a_checkpoint_folder_put_together_from_two_is_refused(complaint, project):
    shutil.copytree(TINY, project / "mixed")
    (project / "mixed" / CODEC / "config.json").write_text(json.dumps(PUBLISHED.codec))
    said = f"error: mixed: its {CODEC} is of ace-step-1, its {TEXT} of tiny. Take all parts from one checkpoint."
    assert complaint("prep", "build-shards", "raw", "new", "--checkpoint-dir", "mixed") == said
    vocal = "raw/song-000005_vocal.flac"
    assert complaint("infer", "generate", "--vocal", vocal, "--adapter", "adapter", "--checkpoint-dir", "mixed") == (
        f"error: mixed: its {TRANSFORMER} is of tiny, its {CODEC} of ace-step-1. Take all parts from one checkpoint."
    )


@pytest.mark.parametrize(
    "command",
    [
        "prep build-shards raw new",
        "prep plan raw new",
        "prep encode raw/song-000005_vocal.flac vocal --vocal-lufs -20",
    ],
)
def test_the_tiny_bundle_is_never_taken_unasked(complaint, command):
    assert complaint(*command.split()) == f"error: which base model? {UNNAMED}"


@pytest.mark.parametrize(
    ("command", "unsaid"),
    [
        ("prep status shards raw", "shards"),
        ("train run --shards shards", "shards"),
        ("train search --shards shards", "shards"),
        ("train export adapter merged --format merged", "adapter"),
        ("infer generate --vocal raw/song-000005_vocal.flac --adapter adapter", "adapter"),
    ],
)
def test_what_a_folder_made_asks_for_it(complaint, project, command, unsaid):
    manifest = json.loads((project / "shards" / MANIFEST_FILE).read_text())
    fingerprint = manifest["fingerprint"] | {"networks": {CODEC: "a" * 64}}
    rewrite(project / "shards" / MANIFEST_FILE, base={"family": "ace-step-1"}, fingerprint=fingerprint)
    rewrite(project / "adapter" / CARD_FILE, base={"family": "ace-step-1"}, base_fingerprint="a" * 64)
    assert complaint(*command.split()) == (f"error: {unsaid}: made with a checkpoint that it does not name. {UNNAMED}")


def test_what_was_made_names_what_made_it(project):
    tiny = BaseOrigin(family="tiny", checkpoint="tiny")
    assert read_manifest(project / "shards").base == tiny
    card = read_card(project / "adapter")
    assert card.base == tiny
    assert card.networks == {part: part_hash(TINY, part) for part in (CODEC, TEXT)}


def test_older_shards_and_adapters_still_open(project, capsys):
    """Of before they named their base: it is known by its networks."""
    for path, names in (
        (project / "shards" / MANIFEST_FILE, ("base",)),
        (project / "adapter" / CARD_FILE, ("base", "networks")),
    ):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({key: value for key, value in content.items() if key not in names}))
    assert code_of(["prep", "status", "shards", "raw"]) == 0
    settings = ("--set", "max_steps=1", "--set", "val_fraction=0")
    assert code_of(["train", "run", "--config", "tiny_image2image", "--shards", "shards", *settings]) == 0
    source = ("--shards", "shards", "--key", "song-000005")
    assert code_of(["infer", "generate", *source, "--adapter", "adapter", "--infer-steps", "1"]) == 0
    assert "adapter: made with checkpoint tiny, which is used here too.\n" in capsys.readouterr().err


def test_a_merged_adapter_opens_with_the_other_parts_beside_it(project):
    assert code_of(["train", "export", "adapter", "merged", "--format", "merged"]) == 0
    assert read_card(project / "merged").base == BaseOrigin(family="tiny")
    for part in (CODEC, TEXT, "music_vocoder"):
        shutil.copytree(TINY / part, project / "merged" / part)
    source = ("--shards", "shards", "--key", "song-000005", "--infer-steps", "1")
    assert code_of(["infer", "generate", *source, "--adapter", "merged", "--checkpoint-dir", "merged"]) == 0
