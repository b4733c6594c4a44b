"""Networks that do not belong together are told apart: by content where it is there, by their sizes where it is not."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.bases import ACE_STEP_1, CONFIG_FILE, BaseOrigin
from common.canonical import sha256_of_file
from common.errors import UserError
from models.acestep1.sizes import PUBLISHED
from models.acestep1.sizes import TINY as TINY_SIZES
from models.acestep1.text.lyric_tokens import VOCABULARY_FILE
from models.loading.checkpoint import TINY, part_hash
from models.loading.family import (
    PUBLISHED_HASHES,
    check_alike,
    check_belongs,
    check_one_family,
    choose_checkpoint,
    describe_base,
    family_of,
    known_base,
)

TRANSFORMER, CODEC, TEXT = ACE_STEP_1.parts.transformer, ACE_STEP_1.parts.codec, ACE_STEP_1.parts.text_encoder

VOCODER: str = "music_vocoder"
PARTS: tuple[str, ...] = (TRANSFORMER, CODEC, VOCODER, TEXT)
TINY_BASE, REAL_BASE = BaseOrigin(family="tiny", checkpoint="tiny"), BaseOrigin(family="ace-step-1")
NETWORKS: dict[str, str] = {part: part_hash(TINY, part) for part in (CODEC, TEXT)}


@pytest.fixture
def write_configs(tmp_path) -> Callable[..., Path]:
    """write_configs(transformer={...}, codec={...}) is a checkpoint folder that holds config.json files alone."""
    rooms = {"transformer": TRANSFORMER, "codec": CODEC, "vocoder": VOCODER, "text_encoder": TEXT}

    def write(**configs: dict) -> Path:
        for name, config in configs.items():
            path = tmp_path / "base" / rooms[name] / CONFIG_FILE
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(config))
        return tmp_path / "base"

    return write


@pytest.fixture
def tiny_copy(tmp_path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "copy"))


def complaint(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        action()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def change_weights(folder: Path, part: str) -> None:
    (path,) = (folder / part).glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_every_part_tells_its_family(write_configs):
    assert {family_of(TINY, part) for part in PARTS} == {"tiny"}
    published = write_configs(**vars(PUBLISHED))
    assert {family_of(published, part) for part in PARTS} == {"ace-step-1"}


def test_other_sizes_are_of_no_family(write_configs):
    base = write_configs(transformer=TINY_SIZES.transformer | {"num_layers": 7})
    assert family_of(base, TRANSFORMER) is None
    assert family_of(base, CODEC) is None


def test_notes_and_what_families_share_do_not_matter(write_configs):
    config = PUBLISHED.transformer | {"_diffusers_version": "0.99", "max_position": 4096, "new_option": 1}
    assert family_of(write_configs(transformer=config), TRANSFORMER) == "ace-step-1"


@pytest.mark.parametrize("part", ["transformer", "codec", "vocoder", "text_encoder"])
def test_a_folder_mixed_of_two_families_is_refused(write_configs, part):
    base = write_configs(**vars(TINY_SIZES) | {part: getattr(PUBLISHED, part)})
    message = complaint(lambda: check_one_family("mixed", base, PARTS))
    assert message.startswith("mixed: its ")
    assert "is of tiny" in message or "of tiny." in message
    assert "ace-step-1" in message
    assert message.endswith("Take all parts from one checkpoint.")


def test_tiny_latents_and_a_published_transformer_alone_are_refused(write_configs):
    base = write_configs(transformer=PUBLISHED.transformer)
    assert complaint(lambda: check_belongs("shards", TINY_BASE, NETWORKS, "ACE-Step/x", base, parts=[TRANSFORMER])) == (
        "shards: is of tiny, the ace_step_transformer of ACE-Step/x is of ace-step-1. "
        "Use the checkpoint that made it (--checkpoint-dir tiny)."
    )


def test_published_latents_and_the_tiny_transformer_are_refused():
    message = complaint(lambda: check_belongs("shards", REAL_BASE, {}, "tiny", TINY, parts=[TRANSFORMER]))
    assert message.endswith("is of ace-step-1, the ace_step_transformer of tiny is of tiny. "
                            "Use the checkpoint that made it.")  # fmt: skip


@pytest.mark.parametrize("part", [CODEC, TEXT])
def test_other_weights_of_the_same_sizes_are_told_by_content(tiny_copy, part, capsys):
    check_belongs("shards", TINY_BASE, NETWORKS, "copy", tiny_copy, parts=[TRANSFORMER])
    change_weights(tiny_copy, part)
    message = complaint(lambda: check_belongs("shards", TINY_BASE, NETWORKS, "copy", tiny_copy, parts=[TRANSFORMER]))
    assert message.startswith(f"shards: made with {part} {NETWORKS[part][:8]}, that of copy is ")
    assert capsys.readouterr().err == ""


def test_another_lyric_vocabulary_is_told_by_content(tiny_copy):
    (tiny_copy / VOCABULARY_FILE).write_text("{}")
    networks = NETWORKS | {VOCABULARY_FILE: "a" * 64}
    message = complaint(lambda: check_belongs("shards", TINY_BASE, networks, "copy", tiny_copy, parts=[TRANSFORMER]))
    assert message.startswith(f"shards: made with {VOCABULARY_FILE} aaaaaaaa, that of copy is ")


@pytest.mark.parametrize("change", ["another transformer", "no codec", "decoder alone", "codec without weights"])
def test_what_belongs_together_is_not_refused(tiny_copy, change, capsys):
    """A transformer trained further, a merged one without the rest, a codec that cannot be compared by content."""
    if change == "another transformer":
        change_weights(tiny_copy, TRANSFORMER)
    elif change == "no codec":
        for part in (CODEC, TEXT, VOCODER):
            shutil.rmtree(tiny_copy / part)
    elif change == "codec without weights":
        (tiny_copy / CODEC / "diffusion_pytorch_model.safetensors").unlink()
    else:
        keep_decoder(tiny_copy)
    check_belongs("shards", TINY_BASE, NETWORKS, "copy", tiny_copy, parts=PARTS)
    assert capsys.readouterr().err == ""


def keep_decoder(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / CODEC / "diffusion_pytorch_model.safetensors"
    weights = {name: tensor for name, tensor in load_file(path).items() if name.startswith("decoder.")}
    save_file(weights, path)


def test_what_cannot_be_told_is_said(write_configs, capsys):
    base = write_configs(transformer=PUBLISHED.transformer)
    check_belongs("shards", BaseOrigin(), {}, "ACE-Step/x", base, parts=[TRANSFORMER])
    assert capsys.readouterr().err == "shards: cannot be told to belong to ACE-Step/x; taken as if it did.\n"


def test_what_recorded_nothing_is_known_by_its_networks():
    assert known_base(None, NETWORKS.values()) == TINY_BASE
    assert known_base(None, [part_hash(TINY, TRANSFORMER)]) == TINY_BASE
    assert known_base(None, ["a" * 64]) == BaseOrigin()
    assert known_base(REAL_BASE, ["a" * 64]) == REAL_BASE


def test_the_published_networks_are_known_by_what_their_files_are(goldens_folder):
    """Their hashes follow from the configs and from the weights' own hash, which the manifest of the files lists."""
    files = json.loads(gzip.decompress((goldens_folder / "published_manifest.json.gz").read_bytes()))
    found = set()
    for part in (TRANSFORMER, CODEC):
        config = sha256_of_file(goldens_folder / "published" / part / CONFIG_FILE)
        listed = f"{CONFIG_FILE}\0{config}\n{ACE_STEP_1.weights_file(part)}\0{files[part]['published_sha256']}\n"
        found.add(hashlib.sha256(listed.encode()).hexdigest())
    assert found == PUBLISHED_HASHES
    for digest in found:
        assert known_base(None, [digest]) == REAL_BASE


def test_a_vocal_of_another_codec_than_an_adapter_is_refused():
    check_alike("vocal", TINY_BASE, NETWORKS, "adapter", TINY_BASE, NETWORKS)
    check_alike("vocal", TINY_BASE, {}, "adapter", BaseOrigin(), NETWORKS)
    assert complaint(lambda: check_alike("vocal", TINY_BASE, {}, "adapter", REAL_BASE, {})) == (
        "vocal: is of tiny, adapter is of ace-step-1. Give one that goes with it."
    )
    other = NETWORKS | {CODEC: "b" * 64}
    message = complaint(lambda: check_alike("vocal", TINY_BASE, other, "adapter", TINY_BASE, NETWORKS))
    assert message == (
        f"vocal: made with {CODEC} bbbbbbbb, adapter with {NETWORKS[CODEC][:8]}. Encode it with prep encode --adapter."
    )


def test_there_is_no_default_but_what_made_it(capsys):
    assert choose_checkpoint("mine", TINY_BASE, "shards") == "mine"
    assert choose_checkpoint(None, TINY_BASE, "shards") == "tiny"
    assert capsys.readouterr().err == "shards: made with checkpoint tiny, which is used here too.\n"
    pinned = BaseOrigin(checkpoint="ACE-Step/x", revision="c" * 40)
    assert choose_checkpoint(None, pinned, "shards") == f"ACE-Step/x@{'c' * 40}"
    assert choose_checkpoint("ACE-Step/x", pinned, "shards") == f"ACE-Step/x@{'c' * 40}"
    assert choose_checkpoint("ACE-Step/x@main", pinned, "shards") == "ACE-Step/x@main"
    way_out = (
        "Give --checkpoint-dir ACE-Step/ACE-Step-v1-3.5B, or a folder of that layout; --checkpoint-dir tiny is for "
        "trying."
    )
    assert complaint(lambda: choose_checkpoint(None, None)) == f"which base model? {way_out}"
    unnamed = complaint(lambda: choose_checkpoint(None, REAL_BASE, "shards"))
    assert unnamed == f"shards: made with a checkpoint that it does not name. {way_out}"


def test_only_what_others_have_too_is_recorded(tmp_path):
    """A folder's path says nothing elsewhere; an id and its commit do."""
    assert describe_base("tiny", TINY, CODEC) == TINY_BASE
    assert describe_base(str(TINY), TINY, CODEC) == BaseOrigin(family="tiny")
    snapshot = Path(shutil.copytree(TINY / CODEC, tmp_path / "snapshots" / ("d" * 40) / CODEC)).parent
    recorded = BaseOrigin(family="tiny", checkpoint="someone/music", revision="d" * 40)
    assert describe_base("someone/music", snapshot, CODEC) == recorded
    assert describe_base(f"someone/music@{'d' * 40}", snapshot, CODEC) == recorded
    assert describe_base(str(snapshot), snapshot, CODEC) == BaseOrigin(family="tiny")
