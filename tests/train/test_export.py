from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_pipeline import AceStepLoraLoaderMixin
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file

from common.bases import BaseOrigin
from common.command import run
from common.errors import UserError
from common.latents import LatentStatistics
from models.adapters.adapter import CARD_FILE, PROJECTION_FILE, AdapterCard, LoraCard, open_adapter, save_adapter
from models.adapters.conditioning import Conditioning
from models.adapters.lora import LORA_FILE, apply_plainly, attach_lora
from models.loading.checkpoint import BUNDLES, TINY, open_transformer, part_hash
from models.protocols import FlowNetwork
from train.cli import app
from train.config import TARGET_MODULES
from train.export import export_comfyui, export_merged, export_peft, made_up_answer

PART = "ace_step_transformer"


PROJECTED = Conditioning()
BY_SOURCE = Conditioning(mode="context", a_max=0.0, source_projection=False)


def saved_adapter(folder, *, use_dora=False, base=TINY, conditioning=PROJECTED):
    """An adapter on every layer that may have one, whose every weight says something."""
    transformer = open_transformer(base)
    names = [name for name, _ in transformer.named_modules()]
    target_modules = tuple(target for target in TARGET_MODULES if any(name.endswith(target) for name in names))
    channels, rows = transformer.spec.latents.channels, transformer.spec.latents.rows
    attach_lora(transformer, rank=4, alpha=6, target_modules=target_modules, use_dora=use_dora)
    conditioner = conditioning.make_conditioner(transformer)
    conditioned = () if conditioner is None else conditioner.parameters()
    generator = torch.Generator().manual_seed(3)
    for parameter in [*transformer.parameters(), *conditioned]:
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    card = AdapterCard(
        conditioning=conditioning,
        output_type="accompaniment",
        strength_range=(0.3, 1.0),
        lora=LoraCard(
            r=4, lora_alpha=6, use_rslora=True, use_dora=use_dora, target_modules=target_modules, blocks=None
        ),
        lora_weight=1.0,
        statistics=LatentStatistics(silence=((0.5,) * rows,) * channels, mean=(0.0,) * channels, std=(2.0,) * channels),
        vocal_lufs=-20.0,
        base=BaseOrigin(model=transformer.spec.name),
        base_fingerprint=part_hash(base, transformer.spec.parts.transformer),
        shards_fingerprint="b" * 64,
        epoch=0,
        step=1,
    )
    save_adapter(folder, transformer, conditioner, card)
    return folder


def opened(folder, base):
    transformer = open_transformer(base)
    part = transformer.spec.parts.transformer
    adapter = open_adapter(folder, transformer, weight=1.0, base_fingerprint=part_hash(base, part))
    return transformer, adapter


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_merged_folder_is_a_checkpoint_and_an_adapter_for_it(tmp_path, use_dora):
    folder = saved_adapter(tmp_path / "adapter", use_dora=use_dora)
    merged = tmp_path / "merged"
    export_merged(folder, merged, "tiny")
    assert {path.relative_to(merged).as_posix() for path in merged.rglob("*") if path.is_file()} == {
        f"{PART}/config.json",
        f"{PART}/diffusion_pytorch_model.safetensors",
        PROJECTION_FILE,
        CARD_FILE,
    }
    (theirs, adapter), (ours, again) = opened(folder, TINY), opened(merged, merged)
    expected, plain = made_up_answer(theirs), made_up_answer(open_transformer(TINY))
    assert (expected - plain).abs().max() > 0.1
    assert (made_up_answer(ours) - expected).abs().max() < 1e-4
    assert again.card.lora is None
    assert again.objective == adapter.objective
    for name, tensor in again.conditioner.state_dict().items():
        assert torch.equal(tensor, adapter.conditioner.state_dict()[name])


@torch.no_grad()
@pytest.mark.parametrize("conditioning", [PROJECTED, BY_SOURCE], ids=["image2image", "context"])
def test_an_adapter_of_ace_step_15_goes_out_in_the_layouts_of_its_tools(tmp_path, capsys, conditioning):
    base = BUNDLES["tiny15"]
    folder = saved_adapter(tmp_path / "adapter", base=base, conditioning=conditioning)
    theirs, _ = opened(folder, base)
    expected = made_up_answer(theirs)
    export_comfyui(folder, tmp_path / "band.safetensors", "tiny15")
    comfyui = load_file(tmp_path / "band.safetensors")
    assert "diffusion_model.layers.3.cross_attn.o_proj.lora_B.weight" in comfyui
    export_peft(folder, tmp_path / "peft", "tiny15")
    network = open_transformer(base)
    assert (made_up_answer(network) - expected).abs().max() > 0.1
    weights = AceStepLoraLoaderMixin.lora_state_dict(tmp_path / "peft", weight_name="adapter_model.safetensors")
    AceStepLoraLoaderMixin.load_lora_into_transformer(weights, network.transformer)
    assert (made_up_answer(network) - expected).abs().max() < 1e-4
    assert PeftConfig.from_pretrained(tmp_path / "peft").peft_type == "LORA"
    warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    told = "hear a vocal with this only as the source of their task complete"
    assert [told in line for line in warned] == 2 * [conditioning is BY_SOURCE]
    export_merged(folder, tmp_path / "merged", "tiny15")
    assert (made_up_answer(open_transformer(tmp_path / "merged")) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_peft_folder_is_the_adapters_update(tmp_path, use_dora):
    folder, out = saved_adapter(tmp_path / "adapter", use_dora=use_dora), tmp_path / "peft"
    export_peft(folder, out, "tiny")
    theirs, _ = opened(folder, TINY)
    read = PeftModel.from_pretrained(open_transformer(TINY), out).get_base_model()
    assert isinstance(read, FlowNetwork)
    assert (made_up_answer(read) - made_up_answer(theirs)).abs().max() < 1e-4


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_comfyui_file_is_the_update_whoever_applies_it(tmp_path, capsys, use_dora):
    folder, out = saved_adapter(tmp_path / "adapter", use_dora=use_dora), tmp_path / "band.safetensors"
    export_comfyui(folder, out, "tiny")
    weights, ours = load_file(out), load_file(folder / LORA_FILE)
    assert {name for name in weights if ".lora_" in name} == {name for name in ours if "magnitude" not in name}
    transformer = open_transformer(TINY)
    for name, matrix in transformer.named_parameters():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A.weight" in weights:
            made = matrix + weights[f"{layer}.lora_B.weight"] @ weights[f"{layer}.lora_A.weight"]
            if use_dora:  # ComfyUI divides by the length of the base's rows, not of the updated ones
                made = weights[f"{layer}.dora_scale"] * made / matrix.norm(dim=1, keepdim=True)
            matrix.data.copy_(made)
    theirs, _ = opened(folder, TINY)
    assert (made_up_answer(transformer) - made_up_answer(theirs)).abs().max() < 1e-4
    said = capsys.readouterr().err
    assert "read back, its outputs differ from the adapter's by " in said
    assert "warning: this file carries no vocal conditioning" in said
    assert ("warning: this LoRA is DoRA, written for ComfyUI's formula" in said) == use_dora


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_formula_is_comfyuis(golden, kind):
    given, layer = golden("comfyui_lora"), torch.nn.Linear(5, 6, bias=False).requires_grad_(False)
    layer.weight.copy_(given.inputs["weight"])
    lora = {name: tensor for name, tensor in given.inputs.items() if name.startswith("proj.")}
    if kind == "lora":
        del lora["proj.dora_scale"]
    apply_plainly(torch.nn.ModuleDict({"proj": layer}), lora)
    torch.testing.assert_close(layer.weight, given.expected[kind], atol=1e-6, rtol=1e-6)


def test_what_is_read_back_otherwise_is_not_kept(tmp_path, monkeypatch):
    folder = saved_adapter(tmp_path / "adapter")
    monkeypatch.setattr("train.export.merge_lora", lambda transformer: transformer.unload_lora())
    with pytest.raises(UserError, match=r"merged: read back, its outputs differ from the adapter's by .* \(limit "):
        export_merged(folder, tmp_path / "merged", "tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize(("export", "name"), [(export_comfyui, "band.safetensors"), (export_merged, "merged")])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, full_disk, export, name):
    folder = saved_adapter(tmp_path / "adapter")
    with full_disk(5000), pytest.raises(UserError) as caught:
        export(folder, tmp_path / name, "tiny")
    assert str(caught.value).startswith(f"{tmp_path / name}: cannot be written (")
    assert "File too large" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_the_command_names_what_it_wrote_and_what_it_will_not_do(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved_adapter(Path("adapter"))

    def export(*arguments):
        with pytest.raises(SystemExit) as stopped:
            run(app, ["export", *arguments])
        printed = capsys.readouterr()
        return stopped.value.code, printed.out + printed.err.splitlines()[-1]

    assert export("adapter", "merged", "--format", "merged")[0] == 0
    for arguments, message in [
        (("adapter", "merged", "--format", "merged"), "merged: exists already. Choose another name, or remove it."),
        (("adapter", "band", "--format", "comfyui"), "band: the file is written as .safetensors. Give it that ending."),
        (
            ("merged", "band.safetensors", "--format", "comfyui", "--checkpoint-dir", "merged"),
            "merged: its LoRA is merged into a transformer already. Give the folder that train run wrote.",
        ),
    ]:
        assert export(*arguments) == (2, f"error: {message}")
    assert export("image2image", "inside.safetensors", "--format", "comfyui")[0] == 0
    transformer = open_transformer(Path("merged"))
    with pytest.raises(UserError) as caught:
        open_adapter(Path("merged"), transformer, weight=0.5, base_fingerprint=part_hash(Path("merged"), PART))
    assert str(caught.value) == "merged: its LoRA is merged into the base, so that its weight is 1, not 0.5."
