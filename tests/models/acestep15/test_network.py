"""Our network, from either layout, computes what diffusers' pipeline computes with the same weights."""

import json
import shutil
from collections.abc import Callable

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution

from common.bases import ACE_STEP_15
from common.errors import UserError
from models.flow.alternatives import SourceSlot
from models.flow.conditioning import TEXT2MUSIC, VocalSource
from models.flow.kept import KeptLatents
from models.flow.sampler import SamplerSettings, sample
from models.flow.windows import LatentWindow
from models.loading.checkpoint import is_whole, open_transformer, part_files, part_hash, spec_of

EACH_VARIANT = pytest.mark.parametrize("pipeline", ["base", "turbo"], indirect=True, scope="module")
FRAMES, STEPS = 11, 4  # an odd number of frames is padded to the patch


@pytest.fixture(scope="module")
def networks(diffusers_folder, original_folder):
    return [open_transformer(diffusers_folder), open_transformer(original_folder)]


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item()))


def complaint(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        action()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@EACH_VARIANT
def test_both_layouts_hold_the_same_weights(pipeline, networks):
    one, other = (network.state_dict() for network in networks)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(one["transformer.proj_in_conv.weight"], pipeline.transformer.proj_in_conv.weight)
    assert [network.variant.kind for network in networks] == (["turbo"] * 2 if pipeline.is_turbo else ["base"] * 2)


def latents_of(network, pipeline, noise, source, instruction, *, steps=STEPS, **options) -> torch.Tensor:
    """By our sampler, as upstream samples the variant. [1, T, C]"""
    words = pipeline.encode_prompt(
        ["the band plays"], [""], torch.device("cpu"), audio_duration=FRAMES / 25, instruction=instruction
    )
    settings = SamplerSettings.of(network.variant.sampling).model_copy(update={"steps": steps})
    start = noise.transpose(1, 2).unsqueeze(2)
    made = sample(
        network, network.condition(*words), network.null_condition(*words), start, settings, objective=SourceSlot(),
        source=source, **options,
    )  # fmt: skip
    return made.squeeze(2).transpose(1, 2)


def vocal_of(latents: torch.Tensor, strength: float) -> VocalSource:
    return VocalSource(
        vocal=latents, conditioner_input=latents, activity=torch.ones(1, latents.shape[-1]),
        strength=torch.tensor([strength]), latents=latents,
    )  # fmt: skip


@EACH_VARIANT
@pytest.mark.parametrize("task", ["text2music", "complete"])
def test_latents_are_those_of_the_pipeline(pipeline, networks, task, monkeypatch):
    monkeypatch.setattr(OobleckDiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    sampling = networks[0].variant.sampling
    noise = torch.randn(1, FRAMES, 64, generator=torch.Generator().manual_seed(3))
    wave = torch.randn(2, FRAMES * 1920, generator=torch.Generator().manual_seed(4)) * 0.1
    asked = {"complete_track_classes": ["drums"], "src_audio": wave} if task == "complete" else {}
    expected = pipeline(
        "the band plays", audio_duration=FRAMES / 25, num_inference_steps=STEPS, shift=sampling.shift, latents=noise,
        guidance_scale=sampling.guidance_scale, output_type="latent", task_type=task, **asked,
    ).audios  # fmt: skip
    source, instruction = None, None
    if task == "complete":
        with torch.no_grad():
            source = vocal_of(pipeline.vae.encode(wave[None]).latent_dist.mode().unsqueeze(2), strength=1.0)
        instruction = "Complete the input track with DRUMS:"
    for network in networks:
        made = latents_of(network, pipeline, noise, source, instruction)
        assert close(made, expected)
    if source is not None:
        without = latents_of(networks[0], pipeline, noise, None, instruction)
        assert not close(without, expected)
        muted = latents_of(networks[0], pipeline, noise, source.muted(), instruction)
        assert torch.equal(muted, without)
        assert_windows_see_their_frames(networks[0], pipeline, noise, source, instruction)


def assert_windows_see_their_frames(network, pipeline, noise, source, instruction) -> None:
    """A single step in windows is, but where they meet, that of each window by itself."""
    early, late = LatentWindow(0, 6), LatentWindow(5, FRAMES)

    def step(frames: slice, **options) -> torch.Tensor:
        return latents_of(network, pipeline, noise[:, frames], source.cut(frames), instruction, steps=1, **options)

    both = step(slice(None), windows=(early, late))
    assert close(both[:, :5], step(early.frames)[:, :5])
    assert close(both[:, 6:], step(late.frames)[:, 1:])


def test_silence_in_the_source_slot_is_text2music_and_a_kept_frame_is_told(networks):
    network = networks[0]
    generator = torch.Generator().manual_seed(5)
    text, rows, ones = (
        torch.randn(1, 3, 24, generator=generator),
        torch.randn(1, 2, 24, generator=generator),
        torch.ones,
    )
    plain = network.condition(text, ones(1, 3), rows, ones(1, 2))
    latents, timestep = torch.randn(1, 64, 1, FRAMES, generator=generator), torch.tensor([300.0])
    silent = network.with_source(plain, network.silence(FRAMES))
    kept = network.with_source(plain, network.silence(FRAMES), (torch.arange(FRAMES) > 2)[None].float())
    by_context = [network.decode(latents, timestep, one).sample for one in (plain, silent, kept)]
    assert torch.equal(by_context[0], by_context[1])
    assert not torch.allclose(by_context[0], by_context[2])


@EACH_VARIANT
@pytest.mark.parametrize("sung", [False, True])
def test_kept_frames_are_in_the_slot_as_the_pipeline_repaints(pipeline, networks, sung, monkeypatch):
    """Its slot is compared, not its latents: the pipeline puts nothing back between steps."""
    monkeypatch.setattr(OobleckDiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    network, anew = networks[0], slice(4, 9)
    wave = torch.randn(2, FRAMES * 1920, generator=torch.Generator().manual_seed(4)) * 0.1
    noise = torch.randn(1, FRAMES, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        take = pipeline.vae.encode(wave[None]).latent_dist.mode().unsqueeze(2)
    kept, source = KeptLatents(take, anew), vocal_of(take.flip(3), strength=1.0) if sung else None
    shown = []
    monkeypatch.setattr(
        pipeline.transformer,
        "forward",
        lambda *args, forward=pipeline.transformer.forward, **named: (
            shown.append(named["context_latents"]) or forward(*args, **named)
        ),
    )
    pipeline(
        "the band plays", audio_duration=FRAMES / 25, num_inference_steps=STEPS, latents=noise, output_type="latent",
        task_type="repaint", src_audio=wave, repainting_start=anew.start / 25, repainting_end=anew.stop / 25,
    )  # fmt: skip
    words = network.condition(torch.ones(1, 2, 24), torch.ones(1, 2), torch.ones(1, 2, 24), torch.ones(1, 2))
    expected, objective = shown[0][:1].transpose(1, 2).unsqueeze(2), SourceSlot() if sung else TEXT2MUSIC
    context = kept.in_slot(objective.conditioned(words, source, network), network).context
    if source is not None and source.latents is not None:
        expected = expected.clone()
        expected[:, :64, :, anew] = source.latents[..., anew]
    torch.testing.assert_close(context, expected)
    made = latents_of(network, pipeline, noise, source, None, kept=kept)
    untold = latents_of(network, pipeline, noise, source, None)
    assert torch.equal(made[:, : anew.start], take.squeeze(2).transpose(1, 2)[:, : anew.start])
    assert not close(made[:, anew], untold[:, anew])


def test_an_injection_changes_its_block_alone_and_only_once(networks):
    network = networks[0]
    conditions = network.condition(torch.ones(1, 2, 24), torch.ones(1, 2), torch.ones(1, 2, 24), torch.ones(1, 2))
    latents, timestep = torch.ones(1, 64, 1, FRAMES), torch.tensor([300.0])
    before = network.decode(latents, timestep, conditions).sample
    seen = []
    changed = network.decode(
        latents, timestep, conditions, injections={1: lambda h: seen.append(h.shape) or h + 1}
    ).sample
    assert seen == [(1, 6, network.inner_width)]
    assert not torch.allclose(before, changed)
    assert torch.equal(before, network.decode(latents, timestep, conditions).sample)
    message = complaint(lambda: network.decode(latents, timestep, conditions, injections={2: lambda h: h}))
    assert message.startswith("injection at block 2: this transformer has 2 blocks, 0 to 1.")


def test_a_weight_too_many_or_too_few_is_told(original_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "copy"
    shutil.copytree(original_folder, folder)
    room = folder / "acestep-v15-any"
    path = room / "model-00001-of-00002.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    save_file(weights | {"decoder.extra": torch.ones(1)}, path)
    assert "1 unknown; the first is transformer.extra." in complaint(lambda: open_transformer(folder))
    save_file({held: weight for held, weight in weights.items() if held != name}, path)
    assert "weights do not fit config.json: 1 missing; the first is " in complaint(lambda: open_transformer(folder))
    path.unlink()
    assert complaint(lambda: open_transformer(folder)).startswith(f"{path}: no such file.")
    index = room / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../elsewhere.safetensors"}}))
    assert complaint(lambda: open_transformer(folder)).startswith(f"{index}: is no index of weights beside it.")


def test_silence_of_another_shape_and_several_variants_are_told(original_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(original_folder, folder)
    silence = folder / "acestep-v15-any" / "silence_latent.pt"
    torch.save(torch.zeros(1, 64, 3), silence)
    assert complaint(lambda: open_transformer(folder)) == (
        f"{silence}: holds [1, 64, 3], expected a tensor [1, 64, 15000]."
    )
    shutil.copytree(folder / "acestep-v15-any", folder / "acestep-v15-other")
    assert complaint(lambda: open_transformer(folder)) == (
        f"{folder}: holds 2 variants (acestep-v15-any, acestep-v15-other). "
        "Give the folder of one variant of ace-step-1.5."
    )


def test_folders_and_ids_are_told(original_folder, diffusers_folder):
    places = (
        original_folder,
        original_folder / "acestep-v15-any",
        diffusers_folder,
        "ACE-Step/acestep-v15-xl-base@main",
    )
    for place in places:
        assert spec_of(place).name == "ace-step-1.5"
    assert open_transformer(original_folder / "acestep-v15-any").spec.name == "ace-step-1.5"


def test_a_part_is_told_by_its_content_in_either_layout(pipeline, original_folder, diffusers_folder, tmp_path):
    pipeline.vae.save_pretrained(tmp_path / "vae")
    parts = ACE_STEP_15.parts
    for folder, count in ((original_folder, 5), (diffusers_folder, None)):
        copy = tmp_path / folder.name
        shutil.copytree(folder, copy)
        shutil.copytree(tmp_path / "vae", copy / "vae")
        files = {part: part_files(copy, part) for part in ACE_STEP_15.files}
        assert count in (None, len(files[parts.transformer]))  # config, index, two files of weights, silence
        assert all(path.is_file() for paths in files.values() for path in paths)
        assert all(is_whole(copy, part) for part in files)
        before = {part: part_hash(copy, part) for part in files}
        for part, paths in files.items():
            changed = paths[-1]
            changed.write_bytes(changed.read_bytes() + b" ")
            after = {part: part_hash(copy, part) for part in files}
            assert [other for other in files if after[other] != before[other]] == [part]
            before = after
        weights = files[parts.transformer][-2]
        weights.unlink()
        assert not is_whole(copy, parts.transformer)
        assert complaint(lambda copy=copy: part_hash(copy, parts.transformer)).startswith(f"{weights}: no such file.")
    variant = tmp_path / original_folder.name / "acestep-v15-any"
    assert part_files(variant, parts.codec)[0] == variant.parent / "vae" / "config.json"
