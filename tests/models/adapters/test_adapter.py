import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common.errors import UserError
from common.latents import LatentStatistics
from models.adapters.adapter import (
    CARD_FILE,
    CONTROL_FILE,
    LEAD_SHEET_FILE,
    PROJECTION_FILE,
    AdapterCard,
    LoraCard,
    open_adapter,
    read_card,
    save_adapter,
    whole_folder,
)
from models.adapters.conditioning import Conditioning, ControlShape, LeadSheetShape
from models.adapters.lora import LORA_FILE, attach_lora
from models.flow.alternatives import make_objective
from models.flow.conditioning import TEXT2MUSIC, VocalSource
from models.flow.sampler import SamplerSettings

BASE = "a" * 64
IMAGE2IMAGE = Conditioning(objective="bridge_lerp", a_max=0.5)
CONTROLNET = Conditioning(
    mode="controlnet",
    a_max=0.0,
    source_projection=False,
    control=ControlShape(depth=2, dim=128, injection_layers=(0, 2), controlnet_scale=0.5),
)

SHEET = LeadSheetShape(depth=1, dim=32, injection_layers=(0, 1))


def card_of(conditioning):
    return AdapterCard(
        conditioning=conditioning,
        output_type="mix",
        reference_strength=0.5,
        strength_range=(0.3, 1.0),
        lora=LoraCard(r=2, lora_alpha=3, use_rslora=True, use_dora=False, target_modules=("to_q",), blocks=(0, 1)),
        sampler=SamplerSettings(shift=2.0),
        statistics=LatentStatistics(silence=((0.5,) * 16,) * 8, mean=(0.0,) * 8, std=(2.0,) * 8),
        vocal_lufs=None,
        base_fingerprint=BASE,
        shards_fingerprint="b" * 64,
        epoch=1,
        step=20,
        validation={"val/x0_gain": 0.25},
    )


@pytest.fixture
def built(golden_transformer):
    """built(conditioning) is a small transformer with a LoRA and a conditioner whose every weight says something."""

    def build(conditioning):
        transformer = golden_transformer("transformer")
        attach_lora(transformer, rank=2, alpha=3, target_modules=("to_q",), blocks=(0, 1))
        conditioner = conditioning.make_conditioner(transformer)
        generator = torch.Generator().manual_seed(5)
        trained = [p for p in transformer.parameters() if p.requires_grad]
        for parameter in [*trained, *(conditioner.parameters() if conditioner else [])]:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
        return transformer, conditioner

    return build


def played(transformer, conditioner, golden):
    """Output under a vocal."""
    given = golden("transformer").inputs
    vocal = torch.linspace(-1, 1, 2 * 8 * 16 * 37).reshape(2, 8, 16, 37)
    source = VocalSource(
        vocal=vocal,
        conditioner_input=vocal,
        activity=torch.ones(2, 37),
        strength=torch.tensor([0.5, 1.0]),
        lead_sheet=torch.linspace(0, 1, 2 * 37 * 49).reshape(2, 37, 49),
        lead_sheet_strength=torch.tensor([1.0, 0.5]),
    )
    with torch.no_grad():
        conditions = transformer.encode(
            given["text"], given["text_mask"], given["speaker"], given["lyric_ids"], given["lyric_mask"]
        )
        injections = conditioner.injections(source, given["timestep"]) if conditioner else None
        return transformer.decode(given["hidden_states"], given["timestep"], conditions, injections=injections).sample


@pytest.mark.parametrize(
    ("conditioning", "file"),
    [
        (IMAGE2IMAGE, PROJECTION_FILE),
        (CONTROLNET, CONTROL_FILE),
        (Conditioning(source_projection=False), None),
        (IMAGE2IMAGE.model_copy(update={"lead_sheet": SHEET}), PROJECTION_FILE),
        (CONTROLNET.model_copy(update={"lead_sheet": SHEET}), CONTROL_FILE),
        (Conditioning(source_projection=False, lead_sheet=SHEET), None),
    ],
)
def test_an_opened_adapter_plays_what_was_saved(built, golden, golden_transformer, tmp_path, conditioning, file):
    transformer, conditioner = built(conditioning)
    save_adapter(tmp_path / "adapter", transformer, conditioner, card_of(conditioning))
    files = {LORA_FILE, CARD_FILE, file, LEAD_SHEET_FILE if conditioning.lead_sheet else None} - {None}
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == files
    assert ("lead_sheet" in json.loads((tmp_path / "adapter" / CARD_FILE).read_text())["conditioning"]) == bool(
        conditioning.lead_sheet
    )
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]

    opened = golden_transformer("transformer")
    adapter = open_adapter(tmp_path / "adapter", opened, weight=1.0, base_fingerprint=BASE)
    assert adapter.card == card_of(conditioning)
    expected = played(transformer, conditioner, golden)
    torch.testing.assert_close(played(opened, adapter.conditioner, golden), expected, atol=1e-4, rtol=0)
    assert not any(parameter.requires_grad for parameter in opened.parameters())


def test_the_control_encoder_adds_as_much_as_the_card_says(built):
    half = CONTROLNET.control
    assert half is not None
    whole = half.model_copy(update={"controlnet_scale": 1.0})
    vocal, h = torch.linspace(-1, 1, 8 * 16 * 12).reshape(1, 8, 16, 12), torch.zeros(1, 12, 64)
    source = VocalSource(vocal=vocal, conditioner_input=vocal, activity=torch.ones(1, 12), strength=torch.ones(1))
    added = []
    for control in (half, whole):
        _, conditioner = built(CONTROLNET.model_copy(update={"control": control}))
        with torch.no_grad():
            injections = conditioner.injections(source, torch.tensor([500.0]))
            added.append(torch.stack([injections[block](h) for block in (0, 2)]))
    assert added[1].abs().max() > 0.01
    torch.testing.assert_close(added[0], 0.5 * added[1])


def test_the_objective_follows_the_card():
    assert IMAGE2IMAGE.make_objective() == make_objective("bridge_lerp", a_max=0.5)
    assert CONTROLNET.make_objective() == TEXT2MUSIC


def test_a_vocal_is_normalised_and_gated():
    statistics = card_of(IMAGE2IMAGE).statistics
    latents, activity = torch.full((1, 8, 16, 4), 2.5), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    source = IMAGE2IMAGE.vocal_source(latents, activity, torch.tensor([0.5]), statistics)
    assert torch.equal(source.vocal, torch.ones(1, 8, 16, 4))
    assert source.conditioner_input is source.vocal
    assert source.activity.tolist() == [[0.0, 0.25, 0.75, 1.0]]
    ungated = IMAGE2IMAGE.model_copy(update={"activity_gate": False})
    assert ungated.vocal_source(latents, activity, torch.tensor([0.5]), statistics).activity.tolist() == [[1.0] * 4]


def test_a_failed_save_leaves_nothing_and_an_older_folder_as_it_was(tmp_path):
    folder = tmp_path / "adapter"
    with whole_folder(folder) as partial:
        (partial / "old").write_text("1")

    def fail():
        with whole_folder(folder) as partial:
            (partial / "new").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["adapter", "adapter/old"]
    with whole_folder(folder) as partial:
        (partial / "new").write_text("2")
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == ["adapter", "adapter/new"]


def files_in(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def put(folder, text):
    with whole_folder(folder) as partial:
        (partial / "sub").mkdir()
        for name in ("a", "sub/b"):
            (partial / name).write_text(text)


def test_whatever_the_disk_refuses_the_folder_is_the_old_or_the_new_one(tmp_path, each_refusal):
    folder, left = tmp_path / "adapter", []
    old, new = ({"adapter/a": text, "adapter/sub/b": text} for text in ("old", "new"))
    for message in each_refusal(lambda: put(folder, "new"), before=lambda: put(folder, "old")):
        assert message == f"{folder}: cannot be written (No space left on device)."
        left.append(files_in(tmp_path))
    # two folders and two files made, all four flushed, two renames; then the folder above alone refuses to be flushed
    assert left == [old] * 10 + [new]
    assert files_in(tmp_path) == new


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path):
    folder = tmp_path / "adapter"
    for text in ("old", "new"):
        for stale in (f".adapter.{os.getpid()}.part", f".adapter.{os.getpid()}.old"):
            (tmp_path / stale).mkdir()
            (tmp_path / stale / "half").touch()
        put(folder, text)
        assert files_in(tmp_path) == {"adapter/a": text, "adapter/sub/b": text}


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_an_adapter_saved_to_a_full_disk_keeps_the_older_one(built, tmp_path, full_disk, kept):
    transformer, conditioner = built(IMAGE2IMAGE)
    folder = tmp_path / "adapter"
    save_adapter(folder, transformer, conditioner, card_of(IMAGE2IMAGE))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    smallest = min(map(len, before.values()))
    newer = card_of(IMAGE2IMAGE).model_copy(update={"step": 21})
    with full_disk(int(smallest * kept)), pytest.raises(UserError) as caught:
        save_adapter(folder, transformer, conditioner, newer)
    assert str(caught.value).startswith(f"{folder}: cannot be written (")
    assert "File too large" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("name", [CARD_FILE, PROJECTION_FILE, LORA_FILE])
def test_a_file_cut_short_anywhere_is_one_line(built, golden_transformer, tmp_path, name):
    transformer, conditioner = built(IMAGE2IMAGE)
    save_adapter(tmp_path, transformer, conditioner, card_of(IMAGE2IMAGE))
    whole = (tmp_path / name).read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 2):
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(UserError) as caught:
            open_adapter(tmp_path, golden_transformer("transformer"), weight=1.0, base_fingerprint=BASE)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)


def test_a_weight_too_many_or_too_few_is_named(built, golden_transformer, tmp_path):
    transformer, conditioner = built(CONTROLNET)
    save_adapter(tmp_path, transformer, conditioner, card_of(CONTROLNET))
    path = tmp_path / CONTROL_FILE
    whole = load_file(path)
    first, second, *_ = sorted(whole)
    for weights, named in [
        (whole | {"extra": torch.zeros(1)}, "extra is"),
        ({name: tensor for name, tensor in whole.items() if name != first}, f"{first} is"),
        ({name: tensor for name, tensor in whole.items() if name not in (first, second)}, f"{first} and 1 more are"),
    ]:
        save_file(weights, path)
        with pytest.raises(UserError) as caught:
            open_adapter(tmp_path, golden_transformer("transformer"), weight=1.0, base_fingerprint=BASE)
        assert str(caught.value) == f"{path}: {named} not as this transformer needs. Use the base it was made for."


def test_a_lora_file_that_lost_a_layer_is_refused_beside_other_adapters_too(built, golden_transformer, tmp_path):
    for name in ("whole", "damaged"):
        save_adapter(tmp_path / name, *built(IMAGE2IMAGE), card_of(IMAGE2IMAGE))
    path, lost = tmp_path / "damaged" / LORA_FILE, "transformer_blocks.1.cross_attn.to_q"
    weights = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({name: tensor for name, tensor in weights.items() if not name.startswith(lost)}, path, metadata)
    opened = golden_transformer("transformer")
    for name in ("first", "second"):
        open_adapter(tmp_path / "whole", opened, weight=1.0, base_fingerprint=BASE, name=name)
    with pytest.raises(UserError) as caught:
        open_adapter(tmp_path / "damaged", opened, weight=1.0, base_fingerprint=BASE, name="third")
    assert str(caught.value) == f"{path}: no weights for {lost}, though its card names it. Copy the whole folder."


def test_what_a_card_leaves_out_has_its_default():
    card = AdapterCard(**card_of(IMAGE2IMAGE).model_dump(exclude={"reference_strength", "lora_weight", "sampler"}))
    assert (card.reference_strength, card.lora_weight, card.sampler) == (0.5, 0.8, SamplerSettings())
    usual = Conditioning()
    assert (usual.mode, usual.objective, usual.a_max) == ("image2image", "bridge_vp", 0.3)
    assert (usual.offset_weight, usual.activity_gate, usual.source_projection) == ("1-s", True, True)


@pytest.mark.parametrize(
    ("conditioning", "guided"),
    [
        (IMAGE2IMAGE, True),
        (CONTROLNET, True),
        (Conditioning(mode="controlnet"), False),
        (Conditioning(source_projection=False), False),
        (Conditioning(objective="offset", source_projection=False), True),
        (Conditioning(objective="naive", source_projection=False), True),
    ],
)
def test_only_a_vocal_that_the_network_sees_apart_from_its_noise_can_be_left_out(conditioning, guided):
    assert conditioning.can_be_guided == guided


def test_an_unwritable_place_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught, whole_folder(tmp_path / "file" / "adapter"):
        pass
    assert str(caught.value) == f"{tmp_path}/file/adapter: cannot be written (Not a directory)."


def test_what_is_wrong_with_a_folder_is_said(built, golden_transformer, tmp_path):
    transformer, conditioner = built(IMAGE2IMAGE)
    folder = tmp_path / "adapter"

    def complaint(fingerprint=BASE):
        with pytest.raises(UserError) as caught:
            open_adapter(folder, golden_transformer("transformer"), weight=1.0, base_fingerprint=fingerprint)
        return str(caught.value)

    assert complaint() == (
        f"{folder}: no adapter.json inside. Give a folder that `train run` wrote (checkpoints/..._lora)."
    )
    save_adapter(folder, transformer, conditioner, card_of(IMAGE2IMAGE))
    assert complaint("c" * 64) == (
        f"{folder}: made for the base aaaaaaaa, this one is cccccccc. "
        "Give the --checkpoint-dir that it was trained with."
    )
    path = folder / PROJECTION_FILE
    weights = load_file(path)
    save_file({"projection.weight": weights["projection.weight"][:, :5].contiguous()}, path)
    assert complaint() == (f"{path}: projection.weight is not as this transformer needs. Use the base it was made for.")
    path.unlink()
    assert complaint() == f"{path}: no such file; the adapter is not complete. Copy the whole folder."
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps(card | {"stepp": 3}))
    with pytest.raises(UserError, match=r"unknown key stepp; did you mean step\?"):
        read_card(folder)
