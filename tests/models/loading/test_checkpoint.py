"""Checkpoint folders: found, opened part by part, and every weight accounted for."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.bases import ACE_STEP_1
from common.errors import UserError
from models.acestep1.codec.codec import decode_audio
from models.loading.acestep1 import open_codec, open_vocoder
from models.loading.checkpoint import (
    BUNDLES,
    TINY,
    open_text_encoder,
    open_transformer,
    part_hash,
    resolve_checkpoint,
)
from models.loading.weights import read_weights

DCAE = Path("music_dcae_f8c8") / ACE_STEP_1.weights_file("music_dcae_f8c8")
VOCODER = Path("music_vocoder") / ACE_STEP_1.weights_file("music_vocoder")
OPENERS: dict[str, Callable[[Path], torch.nn.Module]] = {
    "ace_step_transformer": open_transformer,
    "music_dcae_f8c8": lambda folder: open_codec(folder, encoder=True, decoder=True),
    "music_vocoder": open_vocoder,
    "umt5-base": open_text_encoder,
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the tiny bundle that a test may break."""
    return Path(shutil.copytree(TINY, tmp_path / "checkpoint"))


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def latents() -> Tensor:
    return torch.randn(8, 16, 3, generator=torch.Generator().manual_seed(1))


def complaint(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- where a checkpoint is ---


def test_a_bundle_is_in_the_package_and_says_once_what_it_is():
    program = """
from models.loading.checkpoint import resolve_checkpoint
for bundle in ("tiny", "tiny", "tiny15-turbo"):
    print(resolve_checkpoint(bundle, []))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=TINY.parents[1], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == [str(BUNDLES[bundle]) for bundle in ("tiny", "tiny", "tiny15-turbo")]
    assert result.stderr.splitlines() == [
        'checkpoint "tiny": a small bundle inside Backline, for trying and testing, not for music.',
        'checkpoint "tiny15-turbo": a small bundle inside Backline, for trying and testing, not for music.',
    ]


def test_a_folder_named_tiny_is_written_with_a_dot(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename("tiny")
    assert resolve_checkpoint("./tiny", ["music_vocoder"]).resolve() == folder.parent / "tiny"
    assert resolve_checkpoint("tiny", ["music_vocoder"]) == TINY


def test_a_folder_needs_only_the_parts_asked_for(folder):
    shutil.rmtree(folder / "umt5-base")
    assert resolve_checkpoint(folder, ["music_vocoder", "music_dcae_f8c8"]) == folder
    assert complaint(lambda: resolve_checkpoint(folder, ["music_vocoder", "umt5-base"])) == (
        f"{folder}: there is no umt5-base/ in it. Give a folder in the layout of ACE-Step-v1-3.5B."
    )


def test_what_is_neither_folder_nor_id_is_refused():
    assert complaint(lambda: resolve_checkpoint("./no such folder", ["umt5-base"])) == (
        "./no such folder: no such folder. Give a checkpoint folder, a Hugging Face id (owner/name), or tiny."
    )


# --- what is in it ---


@pytest.mark.parametrize("part", OPENERS)
def test_networks_come_ready_for_use(part):
    network = OPENERS[part](TINY)
    assert not network.training
    assert all(weight.dtype == torch.float32 for weight in network.parameters())
    assert all(weight.device.type == "cpu" for weight in [*network.parameters(), *network.buffers()])
    assert not any(weight.requires_grad for weight in network.parameters())


def test_weights_are_the_files(folder):
    weights = load_file(folder / "ace_step_transformer" / ACE_STEP_1.weights_file("ace_step_transformer"))
    for dtype in (torch.float32, torch.bfloat16):
        found = open_transformer(folder, dtype=dtype).state_dict()
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weight.to(dtype)) for name, weight in weights.items())


def test_an_opened_network_does_not_share_memory_with_its_file(folder):
    network = open_transformer(folder, dtype=torch.bfloat16)
    network.lyric_proj.weight.zero_()
    assert open_transformer(folder, dtype=torch.bfloat16).lyric_proj.weight.abs().sum() > 0


@pytest.mark.parametrize("part", OPENERS)
def test_a_missing_weight_is_named(folder, part):
    path = folder / part / ACE_STEP_1.weights_file(part)
    name = sorted(load_file(path))[-1]
    rewrite(path, lambda weights: weights.pop(name))
    assert complaint(lambda: OPENERS[part](folder)) == (
        f"{path}: weights do not fit config.json: 1 missing; the first is {name}."
    )


@pytest.mark.parametrize("part", OPENERS)
def test_an_unknown_weight_is_named(folder, part):
    path = folder / part / ACE_STEP_1.weights_file(part)
    rewrite(path, lambda weights: weights.update(extra=torch.zeros(1)))
    assert complaint(lambda: OPENERS[part](folder)) == (
        f"{path}: weights do not fit config.json: 1 unknown; the first is extra."
    )


def test_a_weight_of_another_shape_is_named(folder):
    rewrite(folder / VOCODER, lambda weights: weights.update({"head.to_bins.bias": torch.zeros(2)}))
    assert complaint(lambda: open_vocoder(folder)) == (
        f"{folder / VOCODER}: weights do not fit config.json: 1 of another shape; "
        "the first is head.to_bins.bias is [2], expected [1025]."
    )


def test_all_that_does_not_fit_is_counted(folder):
    def break_three(weights: dict[str, Tensor]) -> None:
        weights["head.to_bins.new"] = weights.pop("head.to_bins.bias")
        weights["backbone.norm.bias"] = torch.zeros(1)

    rewrite(folder / VOCODER, break_three)
    assert complaint(lambda: open_vocoder(folder)) == (
        f"{folder / VOCODER}: weights do not fit config.json: 1 missing, 1 unknown, 1 of another shape; "
        "the first is head.to_bins.bias."
    )


@pytest.mark.parametrize("part", OPENERS)
def test_a_missing_file_is_named(folder, part):
    (folder / part / ACE_STEP_1.weights_file(part)).unlink()
    assert complaint(lambda: OPENERS[part](folder)) == (
        f"{folder / part / ACE_STEP_1.weights_file(part)}: no such file. It holds the weights of {part}."
    )
    (folder / part / "config.json").unlink()
    assert complaint(lambda: OPENERS[part](folder)) == (
        f"{folder / part / 'config.json'}: no such file. A checkpoint folder holds {part}/config.json."
    )


@pytest.mark.parametrize("part", OPENERS)
@pytest.mark.parametrize("size", [0, 100, 5000])
def test_a_file_cut_short_is_one_line(folder, part, size):
    path = folder / part / ACE_STEP_1.weights_file(part)
    path.write_bytes(path.read_bytes()[:size])
    message = complaint(lambda: OPENERS[part](folder))
    assert message.startswith(f"{path}: damaged (")
    assert message.endswith("). Copy or download it again.")


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("music_dcae_f8c8", {"latent_channels": 4}, "latent_channels: Input should be 8, got 4"),
        ("music_vocoder", {"phases": "x"}, "unknown key phases; known: depths, "),
        ("ace_step_transformer", {"new_option": 1}, "got an unexpected keyword argument 'new_option'"),
        ("umt5-base", {"attn_implementation": "someone/attention"}, "names code on Hugging Face, which is never run"),
        ("umt5-base", {"_attn_implementation": "a/b"}, "names code on Hugging Face, which is never run"),
        ("umt5-base", {"d_model": "wide"}, "Field 'd_model' expected int, got str (value: 'wide')"),
    ],
)
def test_a_config_that_is_not_the_networks_is_one_line(folder, part, change, message):
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    found = complaint(lambda: OPENERS[part](folder))
    assert found.startswith(f"{path}: ")
    assert message in found


def test_a_config_that_is_no_object_is_one_line(folder):
    path = folder / "music_vocoder" / "config.json"
    path.write_text("[]")
    assert complaint(lambda: open_vocoder(folder)) == f"{path}: holds a list; it must be a JSON object."


def test_a_missing_or_damaged_tokenizer_is_one_line(folder):
    path = folder / "umt5-base" / "tokenizer.json"
    path.write_text("{}")
    assert complaint(lambda: open_text_encoder(folder)).startswith(f"{path}: damaged (")
    path.unlink()
    assert complaint(lambda: open_text_encoder(folder)) == (
        f"{path}: no such file. The text encoder needs its tokenizer."
    )


def test_weights_that_may_not_be_read_are_one_line(folder, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("models.loading.weights.safe_open", refused)
    monkeypatch.setattr("models.loading.checkpoint.sha256_of_file", refused)
    path = folder / VOCODER
    assert complaint(lambda: open_vocoder(folder)) == f"{path}: cannot be opened. Is this user allowed to read it?"
    assert complaint(lambda: part_hash(folder, "music_vocoder")) == (
        f"{path.with_name('config.json')}: cannot be read (Permission denied)."
    )


# --- halves of the codec ---


@pytest.mark.parametrize(("kept", "other"), [("decoder", "encoder"), ("encoder", "decoder")])
def test_a_half_opens_from_a_file_without_the_other(folder, kept, other):
    shutil.rmtree(folder / "umt5-base")
    rewrite(
        folder / DCAE,
        lambda weights: [weights.pop(name) for name in list(weights) if name.startswith(other)],
    )
    alone = open_codec(folder, encoder=kept == "encoder", decoder=kept == "decoder")
    assert getattr(alone, other) is None
    assert all(name.startswith(kept) for name in alone.state_dict())
    message = complaint(lambda: open_codec(folder, encoder=True, decoder=True))
    assert f"{len(getattr(open_codec(TINY, encoder=True, decoder=True), other).state_dict())} missing" in message


def test_stripped_folder_still_makes_sound(folder):
    shutil.rmtree(folder / "umt5-base")
    rewrite(folder / DCAE, lambda weights: [weights.pop(name) for name in list(weights) if name.startswith("encoder")])
    made = decode_audio(open_codec(folder, encoder=False, decoder=True), open_vocoder(folder), latents())
    whole = decode_audio(open_codec(TINY, encoder=True, decoder=True), open_vocoder(TINY), latents())
    assert torch.equal(made, whole)


def test_a_name_of_neither_half_is_unknown_to_each(folder):
    rewrite(folder / DCAE, lambda weights: weights.update({"quantiser.weight": torch.zeros(1)}))
    assert "1 unknown; the first is quantiser.weight" in complaint(
        lambda: open_codec(folder, encoder=False, decoder=True)
    )


def test_the_unwanted_half_is_not_read(folder):
    weights = load_file(folder / DCAE)
    names = {name: tuple(weight.shape) for name, weight in weights.items() if name.startswith("decoder.")}
    assert read_weights(folder / DCAE, names, unread=("encoder.",)).keys() == names.keys()


# --- identity ---


def test_part_hash_depends_on_content_only(folder):
    for part in (*ACE_STEP_1.files, "demucs"):
        assert part_hash(folder, part) == part_hash(TINY, part)
    assert len({part_hash(TINY, part) for part in ACE_STEP_1.files}) == len(ACE_STEP_1.files)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_part_hash_changes_with_every_file_that_matters(folder, file):
    before = part_hash(folder, "umt5-base")
    path = folder / "umt5-base" / file
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    stat = path.stat()
    path.write_bytes(bytes(content))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert part_hash(folder, "umt5-base") != before


def test_part_hash_tells_a_file_that_changed_in_size_or_time_alone(folder):
    path = folder / "music_vocoder" / "config.json"
    content, stat = path.read_bytes(), path.stat()
    hashes = [part_hash(folder, "music_vocoder")]
    path.write_bytes(content + b"\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    hashes.append(part_hash(folder, "music_vocoder"))
    path.write_bytes(content + b" ")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    hashes.append(part_hash(folder, "music_vocoder"))
    assert len(set(hashes)) == 3


def test_part_hash_of_a_bag_is_over_its_list_and_its_weights_under_their_names(folder):
    room = folder / "demucs"
    hashes = {part_hash(folder, "demucs")}
    for path in sorted([*room.glob("*.yaml"), *room.glob("*.safetensors")]):
        path.rename(path.with_stem("renamed"))
        hashes.add(part_hash(folder, "demucs"))
        path.with_stem("renamed").rename(path)
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        hashes.add(part_hash(folder, "demucs"))
        path.write_bytes(content)
    assert len(hashes) == 5


def test_part_hash_ignores_what_lies_beside(folder):
    before = part_hash(folder, "music_vocoder")
    (folder / "music_vocoder" / "README.md").write_text("a note")
    assert part_hash(folder, "music_vocoder") == before


def test_part_hash_of_an_incomplete_part_is_one_line(folder):
    (folder / VOCODER).unlink()
    assert complaint(lambda: part_hash(folder, "music_vocoder")) == (
        f"{folder / VOCODER}: no such file. A checkpoint folder holds music_vocoder/{VOCODER.name}."
    )
