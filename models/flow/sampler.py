"""From noise to latents: the sampling loop, and the network under guidance.

B songs, C latent channels (8), H latent rows (16), T latent frames. docs/upstream.md, sections 9 and 10.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from common.bases import ACE_STEP_1, BaseSpec, Sampling
from common.config import Config
from models.acestep1.transformer.erg import diffusion_queries, weakened
from models.flow.conditioning import TEXT2MUSIC, Conditioner, Objective, VocalSource
from models.flow.guidance import (
    Apg,
    Leg,
    add_leg,
    apg_double,
    cfg,
    cfg_double,
    cfg_zero_star,
    decayed_scale,
    guidance_interval,
    keep_all,
    noise_interval,
)
from models.flow.kept import KeptLatents
from models.flow.schedule import TIMESTEPS, OmegaMean, euler_step, heun_step, inference_sigmas, pingpong_step
from models.flow.windows import LatentWindow, cross_fade, plan_windows
from models.protocols import Conditions, FlowNetwork, Injections

Predict = Callable[[Tensor, Tensor, int], Tensor]
"""State [B, C, H, T], its sigma [] and the index of the step -> velocity [B, C, H, T]."""

OnStep = Callable[[int, Tensor], None]
"""Called after each step with the number of steps done and the state [B, C, H, T]."""

OnWindow = Callable[[int, int], None]
"""Called, where a song takes several windows, after each with its number, from 1, and how many there are."""


LIMIT_SECONDS = 10
"""apg_by_length has the limit of apg for a song of this length."""

GUIDING_VOCALS = ("apg", "cfg")
"""The kinds of guidance beside which there can be one over the vocal."""

NoiseLevel = Annotated[float, Field(ge=0, le=1)]


class SamplerSettings(Config):
    """How latents are drawn from the network."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 60
    """Sampling steps."""
    scheduler: Literal["euler", "heun", "pingpong"] = "euler"
    """What a step does: euler, heun (two network passes a step) or pingpong (fresh noise after each step)."""
    shift: Annotated[float, Field(gt=0)] = ACE_STEP_1.shift
    """How far the grid of sigmas is bent towards noise; the value the network was trained with."""
    omega_scale: float = 10.0
    """How much a step is enlarged about its mean, 10 by 4.6 %; 0 for plain steps."""
    omega_mean: OmegaMean = "item"
    """What that mean is over: each song, or the whole batch as upstream has it."""
    guidance: Literal["apg", "cfg", "cfg_zero_star", "none"] = "apg"
    """How the conditional and the unconditional prediction become one."""
    guidance_scale: Annotated[float, Field(ge=1)] = 15.0
    """Strength of the guidance; 1 is none."""
    guidance_interval: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the steps, in the middle, that are guided."""
    guidance_interval_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far the scale falls within that interval: 1 is down to min_guidance_scale."""
    min_guidance_scale: Annotated[float, Field(ge=1)] = 3.0
    """What guidance_scale decays to."""
    vocal_guidance_scale: Annotated[float, Field(ge=0)] | None = None
    """Strength of a guidance over the vocal's own path, for a third network pass in each guided step; null for none.
    Above 1 the vocal counts more, below 1 less."""
    vocal_guidance: Literal["apg", "apg_by_length", "cfg"] | None = None
    """How the difference that the vocal makes counts; null is as `guidance`. The limit of apg is the same for any
    length, so that it counts less in a long song; that of apg_by_length grows with the length, cfg has none."""
    vocal_guidance_interval: tuple[NoiseLevel, NoiseLevel] | None = None
    """Lowest and highest noise level, such as [0.7, 1], of the steps that are guided over the vocal; elsewhere its pass
    is left out. null: the steps of guidance_interval."""
    erg: bool = False
    """Weaken the queries of blocks 15 to 19 in the unconditional pass, as upstream does by default."""

    @classmethod
    def of(cls, sampling: Sampling) -> Self:
        """As upstream samples a checkpoint."""
        return cls(**asdict(sampling))

    @model_validator(mode="after")
    def _check_vocal_guidance(self) -> Self:
        if self.vocal_guidance_scale is not None and self.guidance not in GUIDING_VOCALS:
            raise ValueError(f"vocal_guidance_scale goes with guidance apg or cfg, not {self.guidance}. Leave it out.")
        if self.vocal_guidance not in (None, self.guidance) and self.guidance != "apg":
            raise ValueError(
                f"vocal_guidance {self.vocal_guidance} goes with guidance apg, not {self.guidance}. Leave it out."
            )
        low, high = self.vocal_guidance_interval or (0.0, 1.0)
        if low > high:
            raise ValueError(
                f"vocal_guidance_interval [{low:g}, {high:g}] is upside down; write the lower noise level first"
            )
        return self


@torch.no_grad()
def sample(
    transformer: FlowNetwork,
    conditions: Conditions,
    null: Conditions,
    noise: Tensor,
    settings: SamplerSettings,
    *,
    objective: Objective = TEXT2MUSIC,
    source: VocalSource | None = None,
    conditioner: Conditioner | None = None,
    generators: Sequence[torch.Generator] | None = None,
    windows: Sequence[LatentWindow] | None = None,
    kept: KeptLatents | None = None,
    on_step: OnStep | None = None,
    on_window: OnWindow | None = None,
) -> Tensor:
    """Latents [B, C, H, T] in float32, scaled as the codec takes them, from plain noise [B, C, H, T].

    `noise` is what text2music would start from (draw_noise); the objective mixes the vocal in. pingpong alone draws
    more, from `generators`, one per song. Put the transformer and the conditioner in eval mode.

    What is longer than the network takes at once goes through it in `windows`, at every step: their velocities are
    cross-faded, so that they walk from one noise to one song together (by default those of plan_windows). Frames that
    are `kept` end as they are given, and stand in the slot for a source where the base has one.
    """
    spec = transformer.spec
    windows = windows or plan_windows(noise.shape[-1], longest=spec.longest_frames)
    conditional, unconditional = transformer.prepare(conditions), transformer.prepare(null)
    predicts = [
        GuidedVelocity(
            transformer,
            conditional.cut(window.frames),
            unconditional.cut(window.frames),
            settings,
            eps=noise[..., window.frames],
            objective=objective,
            source=source and source.cut(window.frames),
            conditioner=conditioner,
            kept=kept and kept.cut(window.frames),
        )
        for window in windows
    ]
    predict = predicts[0] if len(predicts) == 1 else in_windows(predicts, windows, on_window)
    if not objective.takes_omega:
        settings = settings.model_copy(update={"omega_scale": 0.0})
    return integrate(
        predict,
        objective.make_x1(noise, source),
        inference_sigmas(settings.steps, shift=settings.shift, shifts_ends=spec.shifts_ends),
        settings,
        renoise=lambda: objective.make_x1(draw_noise(generators, noise.shape[1:]).to(noise), source),
        kept=kept,
        on_step=on_step,
    )


def draw_noise(generators: Sequence[torch.Generator] | None, shape: Sequence[int]) -> Tensor:
    """Plain noise [B, *shape] float32, each song's from its own generator, so that a batch changes nothing."""
    if generators is None:
        raise ValueError("this scheduler draws fresh noise: pass one generator per song")
    return torch.stack([torch.randn(tuple(shape), generator=g, device=g.device) for g in generators])


def integrate(
    predict: Predict,
    start: Tensor,
    sigmas: Tensor,
    settings: SamplerSettings,
    *,
    renoise: Callable[[], Tensor],
    kept: KeptLatents | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Follow `predict` from `start` [B, C, H, T] at sigmas[0] through sigmas [steps + 1] to the last.

    `renoise` makes fresh noise [B, C, H, T] of the kind that `start` was, for pingpong. Frames that are `kept` are put
    back after every step, with the noise that the path has there; for them `start` is the noise end of the path.
    """
    omega: dict[str, Any] = {"omega": settings.omega_scale, "omega_mean": settings.omega_mean}
    state, x1, sigmas = start, start, sigmas.to(start.device)
    steps = len(sigmas) - 1

    def settled(state: Tensor, sigma: Tensor) -> Tensor:
        return state if kept is None else kept.put_back(state, x1, sigma)

    for step in range(steps):
        sigma, sigma_next = sigmas[step], sigmas[step + 1]
        velocity = predict(state, sigma, step)
        if settings.scheduler == "pingpong":
            x1 = renoise()
            state = pingpong_step(state, velocity, sigma, sigma_next, noise=x1)
        elif settings.scheduler == "heun" and step + 1 < steps:
            ahead = settled(euler_step(state, velocity, sigma, sigma_next, **omega), sigma_next)
            second = predict(ahead, sigma_next, step)
            state = heun_step(state, velocity, second, sigma, sigma_next, **omega)
        else:
            state = euler_step(state, velocity, sigma, sigma_next, **omega)
        state = settled(state, sigma_next)
        if on_step is not None:
            on_step(step + 1, state)
    return state


def in_windows(
    predicts: Sequence[Predict], windows: Sequence[LatentWindow], on_window: OnWindow | None = None
) -> Predict:
    """One velocity for the whole song from one `predict` for each of its windows."""

    def predict(state: Tensor, sigma: Tensor, step: int) -> Tensor:
        pieces = []
        for number, (of_window, window) in enumerate(zip(predicts, windows, strict=True), start=1):
            pieces.append(of_window(state[..., window.frames], sigma, step))
            if on_window is not None:
                on_window(number, len(windows))
        return cross_fade(pieces, windows)

    return predict


class GuidedVelocity:
    """The network as `integrate` sees it: the vocal put in, guidance applied, one object per sampling run and window.

    All passes of a guided step share the state. With guidance over the text alone they also share what the vocal's own
    path injects; with one over the vocal, too, the passes are (text, vocal), (text) and neither
    (docs/formulation.md, section 5).
    Which of the two a step has may differ from step to step.
    """

    def __init__(
        self,
        transformer: FlowNetwork,
        conditions: Conditions,
        null: Conditions,
        settings: SamplerSettings,
        *,
        eps: Tensor,
        objective: Objective = TEXT2MUSIC,
        source: VocalSource | None = None,
        conditioner: Conditioner | None = None,
        kept: KeptLatents | None = None,
    ) -> None:
        self._transformer = transformer
        self._kept = kept if transformer.spec.has_source_slot else None
        self._conditions, self._null = transformer.prepare(conditions), transformer.prepare(null)
        self._settings, self._eps = settings, eps
        self._objective, self._source, self._conditioner = objective, source, conditioner
        self._text_apg, self._vocal_leg = Apg(), _vocal_leg(settings, transformer.spec)
        guides = settings.guidance_scale != 1 or settings.vocal_guidance_scale is not None
        guides = guides and settings.guidance != "none"
        self._interval = guidance_interval(settings.steps, settings.guidance_interval) if guides else range(0)
        self._vocal_steps = _vocal_steps(settings, self._interval, transformer.spec)
        self._null_queries = diffusion_queries(transformer) if settings.erg else []

    def __call__(self, state: Tensor, sigma: Tensor, step: int) -> Tensor:
        injections = self._injections(state, sigma)

        def velocity(conditions: Conditions, *, vocal: bool = True) -> Tensor:
            return self._velocity(state, sigma, conditions, injections if vocal else {}, vocal=vocal)

        full = velocity(self._conditions)
        vocal_scale = self._settings.vocal_guidance_scale if step in self._vocal_steps else None
        text = full if vocal_scale is None else velocity(self._conditions, vocal=False)
        if step not in self._interval:
            return full if vocal_scale is None else add_leg(full, full, text, self._vocal_leg, vocal_scale)
        with weakened(self._null_queries):
            none = velocity(self._null, vocal=vocal_scale is None)
        if vocal_scale is None:
            return self._guide(full, none, step)
        return self._guide_both(full, text, none, step, vocal_scale)

    def _injections(self, state: Tensor, sigma: Tensor) -> Injections:
        if self._conditioner is None or self._source is None:
            return {}
        return self._conditioner.injections(self._source, _timestep(state, sigma))

    def _velocity(
        self, state: Tensor, sigma: Tensor, conditions: Conditions, injections: Injections, *, vocal: bool
    ) -> Tensor:
        source = self._source if vocal or self._source is None else self._source.muted()
        conditions = self._objective.conditioned(conditions, source, self._transformer)
        if self._kept is not None:
            conditions = self._kept.in_slot(conditions, self._transformer)
        shown = self._objective.network_input(state, sigma, source, self._eps)
        output = self._transformer.decode(shown, _timestep(state, sigma), conditions, injections=injections).sample
        return self._objective.velocity(state, output.to(state.dtype), sigma)

    def _guide(self, full: Tensor, none: Tensor, step: int) -> Tensor:
        scale = self._scale(step)
        if self._settings.guidance == "apg":
            return self._text_apg(full, none, scale)
        if self._settings.guidance == "cfg_zero_star":
            return cfg_zero_star(full, none, scale, step=step)
        return cfg(full, none, scale)

    def _guide_both(self, full: Tensor, text: Tensor, none: Tensor, step: int, vocal_scale: float) -> Tensor:
        scales = {"partial_scale": self._scale(step), "full_scale": vocal_scale}
        if self._settings.guidance == "apg":
            return apg_double(full, text, none, (self._text_apg.direction, self._vocal_leg), **scales)
        return cfg_double(full, text, none, **scales)

    def _scale(self, step: int) -> float:
        """That of the guidance over the text."""
        settings = self._settings
        return decayed_scale(
            step,
            self._interval,
            scale=settings.guidance_scale,
            minimum=settings.min_guidance_scale,
            decay=settings.guidance_interval_decay,
        )


def _vocal_leg(settings: SamplerSettings, spec: BaseSpec) -> Leg:
    rule = settings.vocal_guidance or settings.guidance
    if rule == "cfg":
        return keep_all
    frames = round(LIMIT_SECONDS * spec.latents.frames_per_second)
    return Apg(frames=frames if rule == "apg_by_length" else None).direction


def _vocal_steps(settings: SamplerSettings, guided: range, spec: BaseSpec) -> frozenset[int]:
    """The steps that are guided over the vocal, if any are."""
    if settings.vocal_guidance_interval is None:
        return frozenset(guided)
    sigmas = inference_sigmas(settings.steps, shift=settings.shift, shifts_ends=spec.shifts_ends)
    return noise_interval(sigmas, settings.vocal_guidance_interval)


def _timestep(state: Tensor, sigma: Tensor) -> Tensor:
    """[B]"""
    return (TIMESTEPS * sigma).expand(len(state))
