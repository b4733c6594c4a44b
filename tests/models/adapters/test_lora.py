import json

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from common.errors import UserError
from models.adapters.lora import (
    LORA_FILE,
    TRAINED,
    attach_lora,
    load_lora,
    lora_scale,
    save_lora,
    set_lora_dropout,
    trained_parameters,
)

UPSTREAMS_FILE = "lora_pytorch_lora_weights.safetensors"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.fixture
def base(golden_transformer):
    """base() is a fresh small transformer; every call gives the same weights."""
    return lambda: golden_transformer("transformer")


@pytest.fixture
def answer(golden):
    """answer(transformer) is its output on the golden's inputs."""
    given = golden("transformer").inputs

    def run(transformer):
        dtype = next(transformer.parameters()).dtype
        with torch.no_grad():
            return transformer(
                given["hidden_states"].to(dtype),
                given["attention_mask"],
                given["text"].to(dtype),
                given["text_mask"],
                given["speaker"].to(dtype),
                given["lyric_ids"],
                given["lyric_mask"],
                given["timestep"],
            ).sample

    return run


@pytest.fixture
def trained(base, golden, goldens_folder):
    """trained() is the small transformer with the golden's adapter as it was in upstream's training."""

    def build():
        transformer, wanted = base(), golden("lora").notes["lora_config"]
        attach_lora(
            transformer,
            rank=wanted["r"],
            alpha=wanted["lora_alpha"],
            target_modules=wanted["target_modules"],
            use_rslora=wanted["use_rslora"],
        )
        fill(transformer, load_file(goldens_folder / UPSTREAMS_FILE))
        return transformer

    return build


def fill(transformer, weights):
    for name, parameter in trained_parameters(transformer).items():
        parameter.data.copy_(weights[name.replace(f".{TRAINED}.", ".")])


def randomised(transformer, seed=0):
    """Give lora_B something to say."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in trained_parameters(transformer).items():
        if ".lora_B." in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_lora_of_weight_0_is_the_base_bit_for_bit_however_its_input_lies_in_memory(base, dtype):
    transformer = base().to(dtype)
    layer = transformer.transformer_blocks[0].attn.to_q
    rows = torch.randn(2, 40, layer.in_features, generator=torch.Generator().manual_seed(0)).to(dtype)
    columns = rows.transpose(1, 2).contiguous().transpose(1, 2)
    before = layer(rows), layer(columns)
    attach_lora(transformer, rank=4, alpha=4, target_modules=ATTENTION)
    randomised(transformer)
    adapted = transformer.transformer_blocks[0].attn.to_q
    adapted.set_scale(TRAINED, 0.0)
    assert torch.equal(adapted(rows), before[0])
    assert torch.equal(adapted(columns), before[1])


def test_fresh_lora_changes_nothing(base, answer):
    before = answer(base())
    transformer = base()
    report = attach_lora(transformer, rank=4, alpha=4, target_modules=ATTENTION)
    assert torch.equal(answer(transformer), before)
    assert len(report.modules) == 3 * 2 * 4
    assert report.parameters == 3 * 2 * 4 * 2 * 4 * 64
    trainable = {name for name, parameter in transformer.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in transformer.named_parameters() if ".lora_" in name}


def test_the_start_depends_on_the_seed_alone(base):
    def start(seed):
        transformer = base()
        state = torch.get_rng_state()
        attach_lora(transformer, rank=4, alpha=4, target_modules=ATTENTION, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        return trained_parameters(transformer)

    first, again, other = start(1), start(1), start(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if ".lora_A." in name)


def test_blocks_bind_transformer_blocks_only(base):
    report = attach_lora(base(), rank=2, alpha=2, target_modules=("to_q", "lyric_proj"), blocks=(0, 1))
    found = {"transformer_blocks.0.attn.to_q", "transformer_blocks.0.cross_attn.to_q"}
    found |= {name.replace("blocks.0", "blocks.1") for name in found}
    assert set(report.modules) == found | {"lyric_proj"}


def test_targets_match_whole_names(base):
    modules = attach_lora(base(), rank=2, alpha=2, target_modules=("timestep_embedder.linear_1",)).modules
    assert modules == ("timestep_embedder.linear_1",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_modules": ("to_q", "to_z")},
            "lora.target_modules: the transformer has no linear layer to_z. Leave it out.",
        ),
        (
            {"target_modules": ("to_q",), "blocks": (2, 3)},
            "lora.blocks [2, 3] goes past the transformer's last block, 2.",
        ),
    ],
)
def test_what_matches_nothing_is_an_error(base, options, message):
    with pytest.raises(UserError) as caught:
        attach_lora(base(), rank=2, alpha=2, **options)
    assert str(caught.value) == message


def test_upstreams_adapter_gives_upstreams_output(trained, answer, golden):
    assert lora_scale(rank=4, alpha=6, use_rslora=True) == golden("lora").notes["expected_training_scale"]
    expected = golden("lora").expected["sample_training_time_adapter"]
    difference = answer(trained()) - expected
    assert difference.norm() < 2e-5 * expected.norm()
    assert difference.abs().max() < 3e-4  # few numbers: where a denominator is small, processors differ by 1e-4


def test_the_file_has_upstreams_layout_at_scale_one(trained, tmp_path, goldens_folder):
    save_lora(trained(), tmp_path)
    ours, theirs = tmp_path / LORA_FILE, goldens_folder / UPSTREAMS_FILE
    assert list(tmp_path.iterdir()) == [ours]
    written, expected = load_file(ours), load_file(theirs)
    assert written.keys() == expected.keys()
    for name, tensor in written.items():
        torch.testing.assert_close(tensor, expected[name] * (3.0 if ".lora_B." in name else 1.0))

    def metadata(path):
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["lora_adapter_metadata"])

    was, now = metadata(theirs), metadata(ours)
    assert (now["r"], now["lora_alpha"], now["use_rslora"]) == (4, 4, False)
    assert now.keys() == was.keys()
    assert set(now["target_modules"]) == set(was["target_modules"])


def by_metadata(transformer, folder):
    transformer.load_lora_adapter(folder, prefix=None, weight_name=LORA_FILE)


def by_bare_file(transformer, folder):
    """A file that lost its metadata on the way."""
    save_file(load_file(folder / LORA_FILE), folder / "bare.safetensors", metadata={"format": "pt"})
    transformer.load_lora_adapter(folder, prefix=None, weight_name="bare.safetensors")


def ignoring_alpha(transformer, folder):
    """Upstream's way: the file's own path, no weight name, so that no metadata is read."""
    transformer.load_lora_adapter(str(folder / LORA_FILE), prefix=None, adapter_name="ace_step_lora")
    transformer.set_adapters(["ace_step_lora"], [1.0])


def by_load_lora(transformer, folder):
    load_lora(transformer, folder, name="band", weight=1.0)


@pytest.mark.parametrize("loader", [by_metadata, by_bare_file, ignoring_alpha, by_load_lora])
@pytest.mark.parametrize("use_dora", [False, True])
def test_every_loader_gives_the_trained_output(base, answer, tmp_path, loader, use_dora):
    transformer = base()
    attach_lora(transformer, rank=4, alpha=6, target_modules=(*ATTENTION, "lyric_proj"), use_dora=use_dora)
    randomised(transformer)
    expected = answer(transformer)
    save_lora(transformer, tmp_path)
    opened = base()
    loader(opened, tmp_path)
    assert (expected - answer(base())).abs().max() > 0.1
    assert (answer(opened) - expected).abs().max() < 1e-4


def test_half_weight_is_half_the_update(base, tmp_path):
    transformer = base()
    attach_lora(transformer, rank=2, alpha=2, target_modules=("lyric_proj",), use_rslora=False)
    randomised(transformer)
    save_lora(transformer, tmp_path)
    opened, plain = base(), base()
    load_lora(opened, tmp_path, name="band", weight=0.5)
    x = torch.randn(3, 32)
    whole = transformer.lyric_proj(x) - plain.lyric_proj(x)
    torch.testing.assert_close(opened.lyric_proj(x) - plain.lyric_proj(x), 0.5 * whole, atol=1e-6, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in opened.parameters())


def test_adapters_are_float32_on_a_bfloat16_base(base, answer):
    transformer = base().to(torch.bfloat16)
    attach_lora(transformer, rank=2, alpha=2, target_modules=ATTENTION)
    assert {parameter.dtype for parameter in trained_parameters(transformer).values()} == {torch.float32}
    assert answer(transformer).dtype == torch.bfloat16


def test_dropout_is_switched_apart_from_the_network(base, answer):
    transformer = base()
    attach_lora(transformer, rank=4, alpha=4, target_modules=ATTENTION, dropout=0.5)
    randomised(transformer)
    assert torch.equal(answer(transformer), answer(transformer))
    set_lora_dropout(transformer, active=True)
    assert not torch.equal(answer(transformer), answer(transformer))
    assert {module.training for module in transformer.modules() if isinstance(module, LoraLayer)} == {False}


def test_what_does_not_fit_is_named(base, tmp_path):
    def complaint():
        with pytest.raises(UserError) as caught:
            load_lora(base(), tmp_path, name="band", weight=1.0)
        return str(caught.value)

    path = tmp_path / LORA_FILE
    assert complaint() == f"{path}: no such file. An adapter folder holds {LORA_FILE}."
    path.write_bytes(b"nothing")
    assert complaint().startswith(f"{path}: cannot be read as safetensors (")
    save_file({}, path)
    assert complaint() == f"{path}: no weights inside. Use another adapter."
    for name, shape in [
        ("lyric_proj.lora_A.weight", (2, 31)),
        ("lyric_prod.lora_A.weight", (2, 32)),
        ("lyric_proj.lora_A.weight", (32,)),
        ("lyric_proj.lora_B.weight", ()),
    ]:
        save_file({name: torch.zeros(shape)}, path)
        assert complaint() == (
            f"{path}: {name} {list(shape)} fits no layer of this transformer. Use the base it was made for."
        )


@pytest.mark.parametrize("half", ["A", "B"])
def test_a_file_that_lost_half_of_a_pair_is_refused(base, tmp_path, half):
    transformer = base()
    attach_lora(transformer, rank=2, alpha=2, target_modules=("lyric_proj",))
    save_lora(transformer, tmp_path)
    path, name = tmp_path / LORA_FILE, f"lyric_proj.lora_{half}.weight"
    whole = load_file(path)
    out, into = whole["lyric_proj.lora_B.weight"].shape[0], whole["lyric_proj.lora_A.weight"].shape[1]
    other = torch.zeros((3, into) if half == "A" else (out, 3))
    shapes = {"A": [2, into], "B": [out, 2]}
    for damage, shape in ({}, []), ({name: other}, list(other.shape)):
        kept = {key: tensor for key, tensor in whole.items() if key != name}
        save_file(kept | damage, path)
        found = shapes | {half: shape}
        with pytest.raises(UserError) as caught:
            load_lora(base(), tmp_path, name="band", weight=1.0)
        assert str(caught.value) == (
            f"{path}: lora_A {found['A']} and lora_B {found['B']} of lyric_proj make no pair. Copy the file again."
        )
