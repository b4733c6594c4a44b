"""LoRAs of other programs: in every layout, the outputs are those that the program which wrote it would give."""

import json
import re
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from common.errors import UserError
from models.adapters.lora import LORA_FILE, attach_lora, bare_weights, save_lora
from models.adapters.style import find_style, load_style

TARGETS = ("to_q", "to_v", "to_out.0", "linear_q", "speaker_embedder", "lyric_proj")
RANK, ALPHA = 4, 6
PREFIX = "base_model.model."


@pytest.fixture
def base(golden_transformer):
    """base() is a fresh small transformer; every call gives the same weights."""
    return lambda: golden_transformer("transformer")


@pytest.fixture
def answer(golden):
    """answer(transformer) is its output on the golden's inputs."""
    given = golden("transformer").inputs
    names = ("hidden_states", "attention_mask", "text", "text_mask", "speaker", "lyric_ids", "lyric_mask", "timestep")

    def run(transformer):
        with torch.no_grad():
            return transformer(*(given[name] for name in names)).sample

    return run


@pytest.fixture
def trained(base):
    """trained(**options) is PEFT's own model around the small transformer, with an adapter that says something."""

    def make(**options):
        options: dict[str, Any] = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(TARGETS)} | options
        model = get_peft_model(base(), LoraConfig(**options)).eval()
        generator = torch.Generator().manual_seed(0)
        for name, parameter in sorted(model.named_parameters()):
            if "lora_A" in name or "lora_B" in name:
                parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
        return model

    return make


@pytest.fixture
def opened(base):
    """opened(path) is the small transformer with the LoRA in `path` at weight 1."""

    def open_it(path, weight=1.0):
        transformer = base()
        load_style(transformer, find_style(path, weight), name="style")
        transformer.set_adapters(["style"], [weight])
        return transformer

    return open_it


@pytest.fixture
def assert_alike(answer, base):
    def check(ours, theirs):
        expected = answer(theirs)
        assert (expected - answer(base())).abs().max() > 0.1
        # In the norm: single numbers move with the processor's order of summation.
        assert (answer(ours) - expected).norm() < 1e-4 * expected.norm()

    return check


PEFT_OPTIONS = [
    {},
    {"use_rslora": True},
    {"use_rslora": True, "rank_pattern": {"to_q": 2}, "alpha_pattern": {"transformer_blocks.1.attn.to_v": 16}},
    {"use_dora": True},
]


@pytest.mark.parametrize("options", PEFT_OPTIONS, ids=["plain", "rslora", "patterns", "dora"])
@pytest.mark.parametrize("named", ["", "adapter_model.safetensors"], ids=["folder", "file"])
def test_a_peft_folder(tmp_path, trained, opened, assert_alike, options, named):
    model = trained(**options)
    model.save_pretrained(tmp_path)
    assert_alike(opened(tmp_path / named), model.base_model.model)


@pytest.mark.parametrize("options", PEFT_OPTIONS[:3], ids=["plain", "rslora", "patterns"])
def test_what_diffusers_saves_says_its_scale_in_its_header(tmp_path, trained, opened, base, assert_alike, options):
    model, transformer = trained(**options), base()
    transformer.add_adapter(model.peft_config["default"])
    transformer.load_state_dict(model.base_model.model.state_dict())
    transformer.save_lora_adapter(tmp_path)
    assert_alike(opened(tmp_path), model.base_model.model)
    assert_alike(opened(tmp_path / LORA_FILE), model.base_model.model)


def test_what_a_diffusers_pipeline_saves_has_its_header_under_a_prefix(tmp_path, trained, opened, assert_alike):
    model = trained(use_rslora=True)
    weights = {f"transformer.{layer}": tensor for layer, tensor in pairs(model, tmp_path).items()}
    config = {f"transformer.{name}": value for name, value in model.peft_config["default"].to_dict().items()}
    header = {"format": "pt", "lora_adapter_metadata": json.dumps(config, default=sorted)}
    save_file(weights, tmp_path / "file.safetensors", metadata=header)
    assert_alike(opened(tmp_path / "file.safetensors"), model.base_model.model)


def pairs(model, folder):
    """The adapter's weights by the transformer's own names."""
    model.save_pretrained(folder / "peft")
    return {
        name.removeprefix(PREFIX): t for name, t in load_file(folder / "peft" / "adapter_model.safetensors").items()
    }


def same(name):
    return name


def kohya(name):
    layer, half = name.split(".lora_")
    return f"lora_unet_{layer.replace('.', '_')}.lora_{'down' if half.startswith('A') else 'up'}.weight"


NAMES = {
    "bare": same,
    "transformer": lambda name: f"transformer.{name}",
    "comfyui": lambda name: f"diffusion_model.{name}",
    "comfyui-up-down": lambda name: (
        "diffusion_model." + name.replace("lora_A", "lora_down").replace("lora_B", "lora_up")
    ),
    "old-diffusers": lambda name: "transformer." + name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"),
    "with-adapter-name": lambda name: PREFIX + name.replace(".weight", ".default.weight"),
    "kohya": kohya,
}


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [*((layout, torch.float32) for layout in NAMES), ("bare", torch.float64), ("kohya", torch.float64)],
)
def test_a_file_without_alpha_is_taken_as_it_stands(tmp_path, trained, opened, assert_alike, layout, dtype, capsys):
    model = trained(lora_alpha=RANK)
    weights = {NAMES[layout](name): tensor.to(dtype) for name, tensor in pairs(model, tmp_path).items()}
    path = tmp_path / "file.safetensors"
    save_file(weights, path)
    assert_alike(opened(path), model.base_model.model)
    said = f"{path}: says no alpha; its update is taken as it stands, as ACE-Step and ComfyUI do.\n"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("layout", NAMES)
def test_a_file_with_alpha_keys_is_scaled_layer_by_layer(tmp_path, trained, opened, assert_alike, layout):
    model = trained(alpha_pattern={"transformer_blocks.1.attn.to_v": 16})
    weights, rename = {}, NAMES[layout]
    for name, tensor in pairs(model, tmp_path).items():
        weights[rename(name)] = tensor
        layer = name.split(".lora_")[0]
        stem = re.split(r"\.lora[._]", rename(f"{layer}.lora_A.weight"))[0]
        weights[f"{stem}.alpha"] = torch.tensor(16.0 if layer == "transformer_blocks.1.attn.to_v" else ALPHA)
    save_file(weights, tmp_path / "file.safetensors")
    assert_alike(opened(tmp_path / "file.safetensors"), model.base_model.model)


@pytest.mark.parametrize("use_dora", [False, True])
def test_what_train_export_writes(tmp_path, base, opened, assert_alike, use_dora):
    transformer = base()
    attach_lora(transformer, rank=RANK, alpha=ALPHA, target_modules=TARGETS, use_dora=use_dora)
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    save_lora(transformer, tmp_path)
    save_file(bare_weights(tmp_path, base()), tmp_path / "band.safetensors")
    assert_alike(opened(tmp_path / "band.safetensors"), transformer)


def test_the_weight_is_the_updates(tmp_path, trained, opened, base):
    path, x = tmp_path / "file.safetensors", torch.randn(3, 32)
    save_file(pairs(trained(), tmp_path), path)
    plain, once, thrice = base(), opened(path), opened(path, weight=3.0)
    update = once.lyric_proj(x) - plain.lyric_proj(x)
    torch.testing.assert_close(thrice.lyric_proj(x) - plain.lyric_proj(x), 3 * update, atol=1e-5, rtol=1e-5)


def complaint(act):
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


A, B = "lyric_proj.lora_A.weight", "lyric_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        (
            ["lyric_proj.lokr_w1", "lyric_proj.lokr_w2", "to_q.lokr_w1"],
            "lyric_proj.lokr_w1, lyric_proj.lokr_w2 and 1 more",
        ),
        ([A, B, "lyric_proj.lora_B.bias"], "lyric_proj.lora_B.bias"),
        (["lyric_proj.weight"], "lyric_proj.weight"),
        ([A, B, "lyric_proj.diff_b"], "lyric_proj.diff_b"),
        ([], "no weights inside"),
    ],
)
def test_an_unknown_layout_is_told_by_its_keys(tmp_path, keys, shown):
    path = tmp_path / "file.safetensors"
    save_file({key: torch.zeros(2, 2) for key in keys}, path)
    assert complaint(lambda: find_style(path, 1.0)) == (
        f"{path}: {shown}: not the keys of a LoRA that is known here (lora_A and lora_B, or lora_down and lora_up). "
        "Convert it, or use another."
    )


def test_a_lora_of_another_model_or_half_of_one_is_named(tmp_path, base, trained):
    path = tmp_path / "file.safetensors"

    def told(weights):
        save_file(weights, path)
        return complaint(lambda: load_style(base(), find_style(path, 1.0), name="style"))

    other = {f"{PREFIX}layers.0.self_attn.q_proj.lora_{half}.weight": torch.zeros(2, 2) for half in "AB"}
    assert told(other) == (
        f"{path}: layers.0.self_attn.q_proj.lora_A.weight [2, 2] fits no layer of this transformer. "
        "Use the base it was made for."
    )
    whole = pairs(trained(), tmp_path)
    assert told({name: tensor for name, tensor in whole.items() if name != B}) == (
        f"{path}: lora_A [4, 32] and lora_B [] of lyric_proj make no pair. Copy the file again."
    )
    twice = {f"transformer.{A}": whole[A], f"diffusion_model.{A}": whole[A].clone(), B: whole[B]}
    assert f"{path}: A of lyric_proj is there twice, also as " in told(twice)
    astray = {A: whole[A], B: whole[B], "lyric_prod.alpha": torch.tensor(2.0)}
    several = {A: whole[A], B: whole[B], "lyric_proj.alpha": torch.tensor([2.0, 2.0])}
    assert told(several) == f"{path}: alpha of lyric_proj holds 2 numbers, not one. Copy the file again."
    assert told(astray) == f"{path}: alpha of lyric_prod, which has no lora_A and lora_B there. Copy the file again."


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt"])
@pytest.mark.parametrize("inside", [False, True])
def test_no_pickle_is_read(tmp_path, suffix, inside):
    path = tmp_path / f"adapter_model{suffix}"
    torch.save({A: torch.zeros(2, 32)}, path)
    assert complaint(lambda: find_style(tmp_path if inside else path, 1.0)) == (
        f"{path}: a pickle may run anything as it is read, so none is. Save it as .safetensors."
    )


def test_names_that_mean_nothing_are_one_line(tmp_path, trained):
    gone = tmp_path / "gone.safetensors"
    assert complaint(lambda: find_style(gone, 1.0)) == f"{gone}: no such file."
    for name in ("a", "b"):
        save_file(pairs(trained(), tmp_path), tmp_path / f"{name}.safetensors")
    assert complaint(lambda: find_style(tmp_path, 1.0)) == (
        f"{tmp_path}: holds 2 .safetensors files. Name the one that is meant."
    )
    gone.write_bytes(b"nothing")
    assert complaint(lambda: find_style(gone, 1.0)).startswith(f"{gone}: cannot be read as safetensors (")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type is LOHA; only LORA can be used."),
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights is pissa, which changes the base as well. Convert it to a plain LoRA with PEFT, or use "
            "another.",
        ),
    ],
)
def test_what_is_no_plain_lora_is_refused(tmp_path, trained, change, message):
    trained().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert complaint(lambda: find_style(tmp_path, 1.0)) == f"{path}: {message}"


@pytest.mark.parametrize("said", ["[]", '"lora"', "3"])
def test_a_header_that_says_no_settings_is_one_line(tmp_path, trained, said):
    path = tmp_path / "file.safetensors"
    save_file(pairs(trained(), tmp_path), path, metadata={"lora_adapter_metadata": said})
    kind = type(json.loads(said)).__name__
    assert complaint(lambda: find_style(path, 1.0)) == (
        f"{path}: its header's lora_adapter_metadata is a {kind}; it must be a JSON object. Copy the file again."
    )
