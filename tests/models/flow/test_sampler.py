"""The sampling loop: upstream's trajectories, and what must hold for a vocal whatever the weights."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from common.bases import ACE_STEP_1
from common.config import check_config
from common.errors import UserError
from models.acestep1.transformer.erg import lyric_queries, weakened
from models.acestep1.transformer.transformer import ACEStepTransformer2DModel, Conditions, Velocity
from models.flow.alternatives import make_objective
from models.flow.conditioning import TEXT2MUSIC, Conditioner, SourceProjection, VocalSource
from models.flow.control import ControlEncoder
from models.flow.guidance import Apg, apg_double, cfg, cfg_double
from models.flow.kept import KeptLatents
from models.flow.lead_sheet import LeadSheetEncoder, VocalAndLeadSheet
from models.flow.options import BRIDGES
from models.flow.sampler import GuidedVelocity, SamplerSettings, draw_noise, in_windows, integrate, sample
from models.flow.schedule import add_noise, euler_step, inference_sigmas, pingpong_step, shift_sigma
from models.flow.sdedit import sdedit
from models.flow.windows import plan_windows

STEPS, SHIFT = 8, 3.0
PLAIN = SamplerSettings(steps=3, guidance_scale=5.0, guidance_interval=1.0)


def near(actual: Tensor, expected: Tensor) -> None:
    limit = 1e-5 * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=limit)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@dataclass(frozen=True)
class Upstream:
    """The pipeline golden: network, conditions, noise [B, C, H, T], tensors and settings by case."""

    transformer: ACEStepTransformer2DModel
    full: Conditions
    text_only: Conditions
    null: Conditions
    noise: Tensor
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    notes: dict

    def settings(self, case: str, *, steps: int = STEPS) -> SamplerSettings:
        given = self.notes["cases"][case]
        guidance = {"cfg": "cfg", "cfg_star": "cfg_zero_star"}.get(given.get("cfg_type", "apg"), "apg")
        known = {key: value for key, value in given.items() if key in SamplerSettings.model_fields}
        return SamplerSettings.model_validate(
            {**known, "guidance": guidance, "steps": steps, "omega_mean": "batch"}, strict=True
        )


@pytest.fixture
def upstream(golden, golden_transformer) -> Upstream:
    transformer, numbers = golden_transformer("transformer"), golden("pipeline")
    given = numbers.inputs
    text, ids, masks = given["text"], given["lyric_ids"], (given["text_mask"], given["lyric_mask"])

    def encode(text: Tensor, ids: Tensor) -> Conditions:
        return transformer.encode(text, masks[0], given["speaker"], ids, masks[1])

    return Upstream(
        transformer,
        full=encode(text, ids),
        text_only=encode(text, torch.zeros_like(ids)),
        null=encode(torch.zeros_like(text), torch.zeros_like(ids)),
        noise=given["noise"],
        inputs=given,
        expected=numbers.expected,
        notes=numbers.notes,
    )


def test_conditions_of_the_golden_are_upstreams(upstream):
    near(upstream.full.states, upstream.expected["encoder_cond"])
    near(upstream.null.states, upstream.expected["encoder_null"])
    assert torch.equal(upstream.full.mask.float(), upstream.expected["encoder_mask"])


def test_noise_of_the_golden_comes_from_one_generator_per_song(upstream):
    assert torch.equal(draw_noise(generators(42, 43), (8, 16, upstream.notes["frame_length"])), upstream.noise)


@pytest.mark.parametrize("case", ["apg_interval05", "apg_interval1_decay1", "cfg_interval1", "cfg_star", "no_guidance"])
def test_text2music_is_upstreams(upstream, case):
    latents = sample(upstream.transformer, upstream.full, upstream.null, upstream.noise, upstream.settings(case))
    near(latents, upstream.expected[case])


def no_noise() -> Tensor:
    raise AssertionError("euler draws no noise")


@torch.no_grad()
def test_double_condition_is_upstreams(upstream):
    def predict(state: Tensor, sigma: Tensor, step: int) -> Tensor:
        timestep = (1000 * sigma).expand(2)
        full, text, null = (
            upstream.transformer.decode(state, timestep, conditions).sample
            for conditions in (upstream.full, upstream.text_only, upstream.null)
        )
        return cfg_double(full, text, null, partial_scale=5.0, full_scale=1.5)

    sigmas = inference_sigmas(STEPS, shift=SHIFT)
    latents = integrate(predict, upstream.noise, sigmas, upstream.settings("double_condition"), renoise=no_noise)
    near(latents, upstream.expected["double_condition"])


@torch.no_grad()
def test_chosen_steps_are_upstreams(upstream):
    """oss_steps picks from a finer grid and shifts what it picked once more."""
    chosen = upstream.notes["cases"]["oss_steps"]["oss_steps"]
    finer = inference_sigmas(max(chosen), shift=SHIFT)
    picked = shift_sigma(finer[[step - 1 for step in chosen]], SHIFT)
    settings = upstream.settings("oss_steps", steps=len(chosen))
    predict = GuidedVelocity(upstream.transformer, upstream.full, upstream.null, settings, eps=upstream.noise)
    sigmas = torch.cat([picked, torch.zeros(1)])
    near(integrate(predict, upstream.noise, sigmas, settings, renoise=no_noise), upstream.expected["oss_steps"])


@torch.no_grad()
def test_audio2audio_is_upstreams(upstream):
    """With both of its faults: the start has less noise than the first timestep says, and 4.8 steps become 4."""
    reference = upstream.inputs["ref_latents"]
    share = 1 - upstream.notes["cases"]["audio2audio"]["ref_audio_strength"]
    settings = upstream.settings("audio2audio", steps=int(share * STEPS))
    noise = draw_noise(generators(42, 43), reference.shape[1:])
    start = add_noise(reference, noise, torch.tensor(shift_sigma(share, SHIFT)))
    sigmas = inference_sigmas(settings.steps, shift=SHIFT, sigma_max=share)
    predict = GuidedVelocity(upstream.transformer, upstream.full, upstream.null, settings, eps=noise)
    near(integrate(predict, start, sigmas, settings, renoise=no_noise), upstream.expected["audio2audio"])


def retake_noise(upstream: Upstream, case: str) -> Tensor:
    angle = upstream.notes["cases"][case]["retake_variance"] * math.pi / 2
    second = draw_noise(generators(*upstream.notes["retake_generator_seeds"]), upstream.noise.shape[1:])
    return math.cos(angle) * upstream.noise + math.sin(angle) * second


def test_retake_is_upstreams(upstream):
    noise = retake_noise(upstream, "retake")
    settings = upstream.settings("retake")
    near(sample(upstream.transformer, upstream.full, upstream.null, noise, settings), upstream.expected["retake"])


@torch.no_grad()
def test_repaint_is_upstreams(upstream):
    """Half the steps are skipped, omega is off, and after each step the frames to keep are put back."""
    source, settings = upstream.inputs["src_latents"], upstream.settings("repaint")
    first, last = (int(seconds * 44_100 / 4096) for seconds in upstream.notes["repaint_seconds"])
    noise, kept = upstream.noise.clone(), KeptLatents(source, slice(first, last))
    noise[..., kept.anew] = retake_noise(upstream, "repaint")[..., kept.anew]
    sigmas = inference_sigmas(STEPS, shift=SHIFT)
    predict = GuidedVelocity(upstream.transformer, upstream.full, upstream.null, settings, eps=noise)
    state = add_noise(source, noise, sigmas[STEPS // 2])
    for step in range(STEPS // 2, STEPS):
        sigma, sigma_next = sigmas[step], sigmas[step + 1]
        stepped = euler_step(state, predict(state, sigma, step), sigma, sigma_next)
        state = kept.put_back(stepped, noise, sigma_next)
    near(state, upstream.expected["repaint"])


@pytest.mark.parametrize(
    ("case", "lyric", "diffusion"),
    [("erg_all", True, True), ("erg_lyric_only", True, False), ("erg_diffusion_only", False, True)],
)
@torch.no_grad()
def test_weakened_queries_are_upstreams(golden, golden_transformer, case, lyric, diffusion):
    transformer, numbers = golden_transformer("pipeline_erg"), golden("pipeline_erg")
    given, notes = numbers.inputs, numbers.notes["settings"]
    masks = {"text_mask": given["text_mask"], "lyric_mask": given["lyric_mask"], "speaker": given["speaker"]}
    full = transformer.encode(given["text"], lyric_ids=given["lyric_ids"], **masks)
    if lyric:
        with weakened(lyric_queries(transformer)):
            null = transformer.encode(given["text_null"], lyric_ids=given["lyric_ids"], **masks)
    else:
        null = transformer.encode(
            torch.zeros_like(given["text"]), lyric_ids=torch.zeros_like(given["lyric_ids"]), **masks
        )
    settings = SamplerSettings(
        steps=notes["infer_steps"], guidance_scale=notes["guidance_scale"], omega_mean="batch", erg=diffusion
    )
    made, expected = sample(transformer, full, null, given["noise"], settings), numbers.expected[case]
    difference = made - expected  # half a unit in the last place of the noise alone moves single numbers by 3e-5
    assert difference.norm() < 2e-5 * expected.norm()
    assert difference.abs().max() < 3e-4


def test_weakening_ends_with_the_block(golden_transformer):
    transformer = golden_transformer("pipeline_erg")
    query = lyric_queries(transformer)[0]
    states = torch.ones(1, 16)
    before = query(states)
    with weakened([query]):
        near(query(states), 0.01 * before)
    assert torch.equal(query(states), before)


def test_weakening_a_network_without_those_blocks_says_so(upstream):
    settings = PLAIN.model_copy(update={"erg": True})
    with pytest.raises(UserError) as refused:
        sample(upstream.transformer, upstream.full, upstream.null, upstream.noise, settings)
    assert str(refused.value) == (
        "erg: this network has no transformer_blocks.15.attn.to_q; it is made for the full network. Set erg to false."
    )


# Vocals


@pytest.fixture
def source(upstream) -> VocalSource:
    vocal = torch.randn(upstream.noise.shape, generator=torch.Generator().manual_seed(3))
    activity = torch.rand(2, vocal.shape[-1], generator=torch.Generator().manual_seed(4))
    sheet = torch.rand(2, vocal.shape[-1], 49, generator=torch.Generator().manual_seed(6))
    return VocalSource(
        vocal=vocal,
        conditioner_input=vocal,
        activity=activity,
        strength=torch.ones(2),
        lead_sheet=sheet,
        lead_sheet_strength=torch.ones(2),
    )


def with_strength(source: VocalSource, *strength: float) -> VocalSource:
    """Of the vocals and of their lead sheets."""
    return replace(source, strength=torch.tensor(strength), lead_sheet_strength=torch.tensor(strength))


def projection(upstream: Upstream) -> SourceProjection:
    return SourceProjection(128, upstream.transformer.inner_width)


def encoder(upstream: Upstream, control_injection) -> ControlEncoder:
    return ControlEncoder(
        frame_values=128,
        depth=1,
        dim=32,
        head_dim=16,
        out_dim=upstream.transformer.inner_width,
        blocks=len(upstream.transformer.transformer_blocks),
        injection_layers=(0, 2),
        control_injection=control_injection,
    )


def sheet_encoder(upstream: Upstream) -> LeadSheetEncoder:
    return LeadSheetEncoder(
        depth=1,
        dim=32,
        features=49,
        out_dim=upstream.transformer.inner_width,
        blocks=len(upstream.transformer.transformer_blocks),
        injection_layers=(0, 2),
    )


CONDITIONERS = {
    "none": lambda upstream: None,
    "projection": projection,
    "control": lambda upstream: encoder(upstream, "zero"),
    "cross_norm": lambda upstream: encoder(upstream, "cross_norm"),
    "lead sheet": lambda upstream: VocalAndLeadSheet(None, sheet_encoder(upstream)),
    "projection and lead sheet": lambda upstream: VocalAndLeadSheet(projection(upstream), sheet_encoder(upstream)),
    "control and lead sheet": lambda upstream: VocalAndLeadSheet(encoder(upstream, "zero"), sheet_encoder(upstream)),
}
OBJECTIVES = [
    TEXT2MUSIC,
    make_objective("bridge_vp", a_max=0.7),
    make_objective("bridge_lerp", a_max=0.7),
    make_objective("offset"),
    make_objective("offset", offset_weight="s"),
    make_objective("offset", offset_weight="1"),
]


def trained(conditioner: Conditioner | None) -> Conditioner | None:
    """The conditioner with all its weights away from zero."""
    generator = torch.Generator().manual_seed(5)
    if isinstance(conditioner, torch.nn.Module):
        for parameter in conditioner.parameters():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return conditioner


def trajectory(upstream: Upstream, settings: SamplerSettings, **vocal) -> list[Tensor]:
    """Every state of a run."""
    states: list[Tensor] = []
    sample(
        upstream.transformer,
        upstream.full,
        upstream.null,
        upstream.noise,
        settings,
        generators=generators(1, 2),
        on_step=lambda step, state: states.append(state),
        **vocal,
    )
    assert len(states) == settings.steps
    return states


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def turns(count: int) -> pytest.MarkDecorator:
    """In turn 0 each conditioner and each objective meets each of `count` choices; all turns hold all triples."""
    return pytest.mark.parametrize(
        "turn", [0, *(pytest.param(turn, marks=pytest.mark.slow) for turn in range(1, count))]
    )


def in_turn(kind: str, choices: Sequence[Any], turn: int) -> Iterator[tuple[Any, Any]]:
    """Each objective with the choice that is its in this turn, for this kind of conditioner."""
    first = list(CONDITIONERS).index(kind) + turn
    return ((objective, choices[(first + at) % len(choices)]) for at, objective in enumerate(OBJECTIVES))


@pytest.fixture(scope="module")
def text2music() -> Callable[[Upstream, SamplerSettings], list[Tensor]]:
    """text2music(upstream, settings) is its trajectory without any vocal, run once for all tests."""
    made: dict[SamplerSettings, list[Tensor]] = {}

    def run(upstream: Upstream, settings: SamplerSettings) -> list[Tensor]:
        if settings not in made:
            made[settings] = trajectory(upstream, settings)
        return made[settings]

    return run


@turns(3)
@pytest.mark.parametrize("kind", CONDITIONERS)
def test_strength_zero_is_text2music_all_the_way(upstream, text2music, source, kind, turn):
    conditioner = trained(CONDITIONERS[kind](upstream))
    for objective, scheduler in in_turn(kind, ("euler", "heun", "pingpong"), turn):
        settings = PLAIN.model_copy(update={"scheduler": scheduler})
        vocal = {"objective": objective, "source": with_strength(source, 0, 0), "conditioner": conditioner}
        assert same(trajectory(upstream, settings, **vocal), text2music(upstream, settings)), objective
        if objective in OBJECTIVES[1:4]:  # of these each scheduler has one
            full = trajectory(upstream, settings, **vocal | {"source": source})
            assert not same(full, text2music(upstream, settings)), objective


@pytest.mark.parametrize("kind", sorted(CONDITIONERS.keys() - {"none"}))
def test_a_fresh_conditioner_changes_nothing(upstream, source, kind):
    bridge = make_objective("bridge_vp")
    with_it = trajectory(upstream, PLAIN, objective=bridge, source=source, conditioner=CONDITIONERS[kind](upstream))
    assert same(with_it, trajectory(upstream, PLAIN, objective=bridge, source=source))


@pytest.mark.parametrize("kind", ["projection and lead sheet", "control and lead sheet"])
def test_vocal_and_lead_sheet_count_apart_and_a_pass_without_the_vocal_has_neither(upstream, source, kind):
    conditioner = trained(CONDITIONERS[kind](upstream))

    def made(of: VocalSource | None, **changes) -> list[Tensor]:
        return trajectory(upstream, PLAIN.model_copy(update=changes), source=of, conditioner=conditioner)

    none = torch.zeros(2)
    no_sheet, no_vocal = source.without_lead_sheet(), replace(source, strength=none)
    assert no_sheet.strength is source.strength
    assert same(made(no_sheet), made(replace(source, lead_sheet=None, lead_sheet_strength=None)))
    plain, runs = made(None), [made(source), made(no_sheet), made(no_vocal)]
    assert same(made(source.muted()), plain)
    assert not any(same(one, other) for at, one in enumerate(runs) for other in [plain, *runs[:at]])
    near(made(source, guidance="cfg", vocal_guidance_scale=0.0)[-1], made(None, guidance="cfg")[-1])


@pytest.mark.parametrize("objective", [*OBJECTIVES, make_objective("naive")])
@pytest.mark.parametrize("scheduler", ["euler", "pingpong"])
def test_a_song_in_a_batch_comes_out_as_it_does_alone(upstream, source, objective, scheduler):
    conditioner = trained(projection(upstream))
    settings = PLAIN.model_copy(update={"scheduler": scheduler})
    source = with_strength(source, 0.4, 1.0)
    together = trajectory(upstream, settings, objective=objective, source=source, conditioner=conditioner)[-1]
    alone = sample(
        upstream.transformer,
        Conditions(upstream.full.states[1:], upstream.full.mask[1:]),
        Conditions(upstream.null.states[1:], upstream.null.mask[1:]),
        upstream.noise[1:],
        settings,
        objective=objective,
        source=VocalSource(source.vocal[1:], source.conditioner_input[1:], source.activity[1:], source.strength[1:]),
        conditioner=conditioner,
        generators=generators(2),
    )
    near(together[1:], alone)


@torch.no_grad()
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pingpong_returns_to_noise_of_the_kind_it_came_from(upstream, source, objective):
    settings = PLAIN.model_copy(update={"scheduler": "pingpong"})
    states = trajectory(upstream, settings, objective=objective, source=source)
    predict = GuidedVelocity(
        upstream.transformer,
        upstream.full,
        upstream.null,
        settings,
        eps=upstream.noise,
        objective=objective,
        source=source,
    )
    sigmas, fresh = inference_sigmas(settings.steps, shift=SHIFT), generators(1, 2)
    state = objective.make_x1(upstream.noise, source)
    for step in range(settings.steps):
        noise = objective.make_x1(draw_noise(fresh, state.shape[1:]), source)
        velocity = predict(state, sigmas[step], step)
        state = pingpong_step(state, velocity, sigmas[step], sigmas[step + 1], noise=noise)
        assert torch.equal(states[step], state)


def test_pingpong_without_generators_is_refused(upstream):
    settings = PLAIN.model_copy(update={"scheduler": "pingpong"})
    with pytest.raises(ValueError, match="one generator per song"):
        sample(upstream.transformer, upstream.full, upstream.null, upstream.noise, settings)


class Watched(ACEStepTransformer2DModel):
    """Keeps what it was shown, (latents [B, C, H, T], sigma), in `shown`."""

    shown: list[tuple[Tensor, Tensor]]

    def decode(self, latents: Tensor, timestep: Tensor, conditions: Conditions, **options) -> Velocity:
        self.shown.append((latents, timestep / 1000))
        return super().decode(latents, timestep, conditions, **options)


@pytest.fixture
def watched(upstream) -> Upstream:
    upstream.transformer.__class__ = Watched
    upstream.transformer.shown = []
    return upstream


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, 20 + 10),
        ({"guidance_interval": 1.0}, 40),
        ({"guidance_interval": 0.0}, 20),
        ({"guidance": "none"}, 20),
        ({"guidance_scale": 1.0}, 20),
        ({"scheduler": "heun"}, 2 * 20 - 1 + 2 * 10),
        ({"vocal_guidance_scale": 2.0}, 20 + 2 * 10),
        ({"vocal_guidance_scale": 2.0, "guidance_scale": 1.0}, 20 + 2 * 10),
        ({"vocal_guidance_scale": 2.0, "vocal_guidance_interval": (0.7, 1.0)}, 20 + 10 + 11),
        ({"vocal_guidance_scale": 2.0, "vocal_guidance_interval": (1.0, 1.0)}, 20 + 10 + 1),
    ],
)
def test_the_network_runs_no_more_often_than_needed(watched, changes, passes):
    noise = watched.noise[..., :1]
    sample(watched.transformer, watched.full, watched.null, noise, SamplerSettings(steps=20, **changes))
    assert len(watched.transformer.shown) == passes


def test_naive_ends_on_its_last_estimate_and_never_sees_its_state(watched, source):
    objective, settings = make_objective("naive"), SamplerSettings(steps=3, guidance="none")
    latents = sample(
        watched.transformer, watched.full, watched.null, watched.noise, settings, objective=objective, source=source
    )
    for shown, sigma in watched.transformer.shown:
        share = sigma.reshape(-1, 1, 1, 1)
        near(shown, source.vocal * (1 - share) + watched.noise * share)
    last, sigma = watched.transformer.shown[-1]
    near(latents, watched.transformer.decode(last, 1000 * sigma, watched.full).sample)


@pytest.mark.parametrize("strength", [0.1, 0.5, 0.8, 0.95])
def test_sdedit_starts_as_noisy_as_it_says(watched, source, strength):
    settings = SamplerSettings(steps=20)
    sdedit(
        watched.transformer,
        watched.full,
        watched.null,
        watched.noise,
        settings,
        vocal=source.vocal,
        strength=strength,
    )
    shown, sigma = watched.transformer.shown[0]
    assert torch.equal(shown, add_noise(source.vocal, watched.noise, sigma))
    sigmas = [float(at[0]) for _, at in watched.transformer.shown]
    assert len(set(sigmas)) == round((1 - strength) * 20)


def test_sdedit_of_strength_zero_is_text2music(upstream, source):
    arguments = (upstream.transformer, upstream.full, upstream.null, upstream.noise, PLAIN)
    assert torch.equal(sdedit(*arguments, vocal=source.vocal, strength=0.0), sample(*arguments))


def test_sdedit_refuses_to_start_without_noise(upstream, source):
    with pytest.raises(UserError) as refused:
        sdedit(
            upstream.transformer,
            upstream.full,
            upstream.null,
            upstream.noise,
            PLAIN,
            vocal=source.vocal,
            strength=1.0,
        )
    assert str(refused.value) == "ref_strength: 1 is outside 0 to 0.95, the range of sdedit."


# Guidance over the vocal


BOTH = PLAIN.model_copy(update={"guidance": "cfg", "vocal_guidance_scale": 2.0})


@torch.no_grad()
@pytest.mark.parametrize("objective", [OBJECTIVES[1], OBJECTIVES[3], make_objective("naive")])
@pytest.mark.parametrize("guidance", ["cfg", "apg"])
def test_both_are_guided_as_the_formula_says(upstream, source, objective, guidance):
    """F(0,0) + w_t*(F(t,0) - F(0,0)) + w_c*(F(t,c) - F(t,0));
    docs/formulation.md, section 5. A first APG is limited CFG.
    """
    settings = BOTH.model_copy(update={"guidance": guidance})
    conditioner, sigma = projection(upstream), torch.tensor(0.6)
    trained(conditioner)
    state = objective.make_x1(upstream.noise, source)
    predict = guided(upstream, settings, objective, source, conditioner)

    def passed(conditions: Conditions, given: VocalSource) -> Tensor:
        timestep = (1000 * sigma).expand(2)
        shown = objective.network_input(state, sigma, given, upstream.noise)
        injections = conditioner.injections(given, timestep)
        output = upstream.transformer.decode(shown, timestep, conditions, injections=injections).sample
        return objective.velocity(state, output, sigma)

    deaf = with_strength(source, 0, 0)
    full, text, none = passed(upstream.full, source), passed(upstream.full, deaf), passed(upstream.null, deaf)
    scales = {"partial_scale": 5.0, "full_scale": 2.0}
    expected = cfg_double(full, text, none, **scales)
    if guidance == "apg":
        expected = apg_double(full, text, none, (Apg().direction, Apg().direction), **scales)
    near(predict(state, sigma, 0), expected)


def guided(
    upstream: Upstream, settings: SamplerSettings, objective, source, conditioner, *, frames: slice = slice(None)
) -> GuidedVelocity:
    return GuidedVelocity(
        upstream.transformer,
        upstream.full,
        upstream.null,
        settings,
        eps=upstream.noise[..., frames],
        objective=objective,
        source=source,
        conditioner=conditioner,
    )


@turns(2)
@pytest.mark.parametrize("kind", CONDITIONERS)
def test_guidance_over_a_vocal_of_strength_zero_is_text2music(upstream, text2music, source, kind, turn):
    conditioner = trained(CONDITIONERS[kind](upstream))
    for objective, guidance in in_turn(kind, ("cfg", "apg"), turn):
        plain = PLAIN.model_copy(update={"guidance": guidance})
        both = plain.model_copy(update={"vocal_guidance_scale": 3.0})
        vocal = {"objective": objective, "source": with_strength(source, 0, 0), "conditioner": conditioner}
        assert same(trajectory(upstream, both, **vocal), text2music(upstream, plain)), objective


EARLY = {"vocal_guidance_scale": 3.0, "vocal_guidance_interval": (0.7, 1.0)}


RULES = [("cfg", None), ("apg", "cfg"), ("apg", "apg_by_length")]


@turns(len(RULES))
@pytest.mark.parametrize("kind", CONDITIONERS)
def test_that_holds_with_an_interval_and_a_rule_for_the_vocal_alone(upstream, text2music, source, kind, turn):
    conditioner = trained(CONDITIONERS[kind](upstream))
    for objective, (guidance, vocal_guidance) in in_turn(kind, RULES, turn):
        plain = PLAIN.model_copy(update={"guidance": guidance, "guidance_interval": 0.5})
        both = plain.model_copy(update={**EARLY, "vocal_guidance": vocal_guidance})
        vocal = {"objective": objective, "source": with_strength(source, 0, 0), "conditioner": conditioner}
        assert same(trajectory(upstream, both, **vocal), text2music(upstream, plain)), objective
        loud = vocal | {"source": with_strength(source, 1, 1)}
        guided_alike = same(trajectory(upstream, both, **loud), trajectory(upstream, plain, **loud))
        assert guided_alike == (kind == "none" and objective.name in BRIDGES), objective


@torch.no_grad()
def test_a_step_is_guided_over_what_its_intervals_say(upstream, source):
    """Step 0 over the vocal alone, a middle one over both, one below 0.7 over the text, the last over neither."""
    settings = PLAIN.model_copy(
        update={"steps": 20, "guidance": "cfg", "guidance_interval": 0.5, "guidance_scale": 5.0, **EARLY}
    )
    conditioner, sigma = projection(upstream), torch.tensor(0.6)
    trained(conditioner)
    state = TEXT2MUSIC.make_x1(upstream.noise, source)
    predict = guided(upstream, settings, TEXT2MUSIC, source, conditioner)
    timestep = (1000 * sigma).expand(2)

    def passed(conditions: Conditions, *, vocal: bool) -> Tensor:
        injections = conditioner.injections(source, timestep) if vocal else {}
        return upstream.transformer.decode(state, timestep, conditions, injections=injections).sample

    full, text = passed(upstream.full, vocal=True), passed(upstream.full, vocal=False)
    near(predict(state, sigma, 0), full + 2.0 * (full - text))
    none = passed(upstream.null, vocal=False)
    near(predict(state, sigma, 7), cfg_double(full, text, none, partial_scale=5.0, full_scale=3.0))
    near(predict(state, sigma, 14), cfg(full, passed(upstream.null, vocal=True), 5.0))
    near(predict(state, sigma, 19), full)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"vocal_guidance_interval": [1.0, 0.7]},
            "sampler: vocal_guidance_interval [1, 0.7] is upside down; write the lower noise level first",
        ),
        (
            {"guidance": "cfg", "vocal_guidance": "apg_by_length"},
            "sampler: vocal_guidance apg_by_length goes with guidance apg, not cfg. Leave it out.",
        ),
    ],
)
def test_settings_of_the_vocals_guidance_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(UserError) as refused:
        check_config(SamplerSettings, wrong, "sampler")
    assert str(refused.value) == message


@pytest.mark.parametrize("guidance", ["cfg_zero_star", "none"])
def test_guidance_over_the_vocal_needs_a_rule_that_has_it(guidance):
    with pytest.raises(UserError) as refused:
        check_config(SamplerSettings, {"guidance": guidance, "vocal_guidance_scale": 2.0}, "sampler")
    assert str(refused.value) == (
        f"sampler: vocal_guidance_scale goes with guidance apg or cfg, not {guidance}. Leave it out."
    )


# Windows


def frame_by_frame(upstream: Upstream) -> Upstream:
    """A network that sees each frame alone: what it answers depends on nothing around it."""
    upstream.transformer.__class__ = FrameByFrame
    return upstream


class FrameByFrame(ACEStepTransformer2DModel):
    def decode(self, latents: Tensor, timestep: Tensor, conditions: Conditions, **options) -> Velocity:
        frames = [
            super(FrameByFrame, self).decode(latents[..., t : t + 1], timestep, conditions)
            for t in range(latents.shape[-1])
        ]
        return Velocity(torch.cat([frame.sample for frame in frames], dim=-1), ())


@pytest.mark.parametrize("scheduler", ["euler", "heun", "pingpong"])
def test_windows_change_nothing_for_a_network_that_sees_each_frame_alone(upstream, source, scheduler):
    alone = frame_by_frame(upstream)
    settings = SamplerSettings(steps=2, scheduler=scheduler, guidance="cfg", guidance_scale=3.0, guidance_interval=1.0)
    alone, source = replace(alone, noise=alone.noise[..., :12]), source.cut(slice(0, 12))
    windows = plan_windows(12, longest=6, overlap=2)
    assert len(windows) > 2
    vocal = {"objective": OBJECTIVES[1], "source": source}
    whole = trajectory(alone, settings, **vocal)
    assert same(trajectory(alone, settings, windows=windows, **vocal), whole)


@torch.no_grad()
@pytest.mark.parametrize("settings", [PLAIN, BOTH])
def test_off_the_seams_a_window_answers_as_it_does_alone(upstream, source, settings):
    """At any state, over several steps: each window has its own memory of guidance."""
    windows = plan_windows(upstream.noise.shape[-1], longest=18, overlap=4)
    assert [(window.start, window.end) for window in windows] == [(0, 14), (10, 24)]
    objective, conditioner = OBJECTIVES[1], trained(projection(upstream))
    alone, parts = (
        [
            guided(upstream, settings, objective, source.cut(window.frames), conditioner, frames=window.frames)
            for window in windows
        ]
        for _ in range(2)
    )
    together = in_windows(parts, windows)
    state = objective.make_x1(upstream.noise, source)
    for step, sigma in enumerate(torch.tensor([1.0, 0.8, 0.5])):
        whole = together(state, sigma, step)
        for window, predict in zip(windows, alone, strict=True):
            piece = predict(state[..., window.frames], sigma, step)
            core = slice(0, 10) if window is windows[0] else slice(4, None)
            assert torch.equal(whole[..., window.frames][..., core], piece[..., core])


def test_windows_are_reported_one_by_one(upstream):
    reported, windows = [], plan_windows(upstream.noise.shape[-1], longest=18, overlap=4)
    trajectory(upstream, PLAIN, windows=windows, on_window=lambda number, count: reported.append((number, count)))
    assert reported == [(1, 2), (2, 2)] * PLAIN.steps


def test_settings_refuse_a_scale_below_one():
    with pytest.raises(UserError) as refused:
        check_config(SamplerSettings, {"guidance_scale": 0.5}, "sampler")
    assert str(refused.value) == ("sampler: guidance_scale: Input should be greater than or equal to 1, got 0.5")


def test_the_defaults_are_how_upstream_samples_v1():
    assert SamplerSettings.of(ACE_STEP_1.samplings["base"]) == SamplerSettings(shift=ACE_STEP_1.shift)
