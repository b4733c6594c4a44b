"""Does the model listen to the vocal, and is it better than the base without a vocal (x0_gain)?

N clips of the validation songs, U noise levels. All is fixed: clips, noise, levels, which vocals are exchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from models.adapters.conditioning import Conditioning
from models.adapters.lora import set_lora_dropout
from models.flow.conditioning import TEXT2MUSIC, VocalSource
from models.flow.options import BRIDGES
from models.flow.schedule import TIMESTEPS
from shards.schema import Sample
from train.data.clips import Batch, Choice, ClipMaker, Cut
from train.data.other_vocals import derangement, fitted, in_time_with, shifted, vocal_under
from train.data.plan import clip_frames, seeded
from train.loop.losses import denoising_loss
from train.loop.module import AccompanimentModule, encode, estimate

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
"""Effective noise: noise over noise plus data in the state, whatever the vocal's share in x1."""
FEWEST_CLIPS = 8
"""Of fewer songs several cuts, each with noise of its own, are validated on: two clips would both gain by chance once
in four times."""
FEWEST_OF_A_KIND = 2
"""Clips with clean vocals, with separated ones, or with a copy at another pitch, for which gains are told: an interval
needs two."""
SEPARATED, GIVEN = "separated", "clean"
"""The kinds of vocals: taken out of a mix, and given as stems."""
FEWEST_DECIDING_SONGS = 8
"""With given vocals, beside others with separated ones, for the given ones alone to decide which adapter is best."""
GAINS = ("x0_gain", "gain_over_muted", "gain_over_shifted", "conditioning_gain")
TRANSPOSED = "gain_over_transposed"
"""Of the clips whose song the shards hold at other pitches, too."""
LEAD_SHEET_GAINS = ("gain_over_no_lead_sheet", "lead_sheet_gain")
"""Of a model that takes a lead sheet, with the vocal as it is: over the sheet left out, and over another song's."""
LISTENING = ("val/gain_over_muted", "val/conditioning_gain")
"""Whose intervals lie above 0 where a model listens: the vocal is of use, and it is this vocal. That some vocal is
there, whichever, is enough to learn a gain over a muted one."""
CONFIDENCE = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class GainInterval:
    """1 - loss / other loss, with its 95 % interval over clips."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClipLosses:
    """Losses of M of the N clips at each level."""

    losses: Tensor  # [M, U] float64
    clips: Tensor  # bool [N], those M

    def of(self, chosen: Tensor) -> Tensor:
        """Those of some of the M clips, chosen of all: bool [N]."""
        return self.losses[chosen[self.clips]]


@dataclass(frozen=True)
class Figures:
    """One validation."""

    loss: float
    loss_at: tuple[float, ...]  # by level
    gains: dict[
        str, GainInterval
    ]  # by name: over the base, the vocal (and its sheet) muted, later, transposed, exchanged
    gains_at: dict[str, tuple[float, ...]]  # the same by level
    gains_of: dict[str, dict[str, GainInterval]]  # the same of clean and of separated vocals; empty without both

    def named(self) -> dict[str, float]:
        """Figures under the names that TensorBoard and adapter.json show."""
        named = {"val/loss": self.loss}
        named |= {f"val/loss_at_{level:g}": loss for level, loss in zip(LEVELS, self.loss_at, strict=True)}
        for name, found in self.gains.items():
            named |= _interval(name, found)
            by_level = zip(LEVELS, self.gains_at[name], strict=True)
            named |= {f"val/{name}_at_{level:g}": value for level, value in by_level}
        for kind, gains in self.gains_of.items():
            for name, found in gains.items():
                named |= _interval(of_kind(name, kind), found)
        return named


def _interval(name: str, found: GainInterval) -> dict[str, float]:
    return {f"val/{name}": found.value, f"val/{name}_low": found.low, f"val/{name}_high": found.high}


def listens(figures: Mapping[str, float], kind: str | None = None) -> bool:
    """Whether a validation, by the names of its figures, leaves no doubt that the model listens to the vocal, or to
    the vocals of one kind."""
    return all(figures.get(f"{of_kind(name, kind)}_low", 0.0) > 0 for name in LISTENING)


def of_kind(name: str, kind: str | None) -> str:
    """Name of a figure, such as val/x0_gain, of the vocals of one kind; of all vocals for None."""
    return f"{name}_{kind}" if kind else name


class Validation:
    """Validation of a model on fixed clips, noise, levels and exchanges of vocals."""

    def __init__(
        self,
        samples: Mapping[str, Sample],
        maker: ClipMaker,
        *,
        transposed: Mapping[str, Sequence[Sample]] | None = None,
        reuse_base_of: "Validation | None" = None,
    ) -> None:
        """`samples`: one per song, by a name; at least two. `transposed`: by the same names, they at other pitches.

        `reuse_base_of` was of the same base and clips.
        """
        seed = maker.config.seed
        self._draws = draws = -(-FEWEST_CLIPS // len(samples))
        songs = [sample for _, sample in sorted(samples.items())]
        chosen = [(song, draw, _choose(song, maker, draw, draws)) for draw in range(draws) for song in songs]
        self.clips = [_clip(song, maker, draw, choice) for song, draw, choice in chosen]
        copies = [
            in_time_with(song, (transposed or {}).get(name, ())) for name, song in sorted(samples.items())
        ] * draws
        self.transposed = [
            vocal_under(choice, of_song[number % len(of_song)], maker) if of_song else None
            for number, ((_, _, choice), of_song) in enumerate(zip(chosen, copies, strict=True))
        ]
        partners = derangement(len(songs), seeded(seed, "derangement"))
        self.partners = [draw * len(songs) + partner for draw in range(draws) for partner in partners]
        separated = torch.tensor([song.meta.is_separated for song in songs] * draws)
        kinds = {GIVEN: ~separated, SEPARATED: separated}
        self.kinds = kinds if all(chosen.sum() >= FEWEST_OF_A_KIND for chosen in kinds.values()) else {}
        self._given_songs = sum(not song.meta.is_separated for song in songs)
        self.levels = noise_levels(maker.conditioning, maker.config.accompaniment.default_strength)
        self._base: ClipLosses | None = reuse_base_of._base if reuse_base_of else None

    @property
    def deciding(self) -> str | None:
        """The kind of vocals by whose figures the best adapter is chosen; None is all."""
        return GIVEN if self.kinds and self._given_songs >= FEWEST_DECIDING_SONGS else None

    def described_choice(self) -> str | None:
        """One line on what decides where songs of both kinds are validated on."""
        if not self.kinds:
            return None
        given, songs = self._given_songs, len(self.clips) // self._draws
        line = f"validation: {given} songs have given vocals, {songs - given} separated ones; "
        if self.deciding:
            return f"{line}{of_kind('val/x0_gain', GIVEN)}, of the given ones, decides which adapter is best"
        return (
            f"{line}all decide which adapter is best, though separated ones say little about a voice recorded alone: "
            f"{FEWEST_DECIDING_SONGS} given ones would decide"
        )

    @torch.no_grad()
    def __call__(self, module: AccompanimentModule) -> Figures:
        """Evaluate a model; its training state and every global random state stay as they were."""
        set_lora_dropout(module.transformer, active=False)
        try:
            if self._base is None:
                self._base = self._base_losses(module)
            sources = [clip.source for clip in self.clips]
            own = self._losses(module, sources)
            others = {
                "x0_gain": self._base,
                "gain_over_muted": self._losses(module, [source.muted() for source in sources], torch.tensor(LEVELS)),
                "gain_over_shifted": self._losses(module, [shifted(source) for source in sources]),
                TRANSPOSED: self._losses(module, self.transposed),
                "conditioning_gain": self._losses(module, self._exchanged()),
            }
            if module.conditioning.lead_sheet is not None:
                pairs = list(zip(sources, self._exchanged(), strict=True))
                muted = [source.without_lead_sheet() for source in sources]
                exchanged = [source.with_lead_sheet_of(other) for source, other in pairs]
                others |= {
                    name: self._losses(module, changed)
                    for name, changed in zip(LEAD_SHEET_GAINS, (muted, exchanged), strict=True)
                }
        finally:
            set_lora_dropout(module.transformer, active=True)
        gains = _gains(own, others, own.clips)
        return Figures(
            loss=own.losses.mean().item(),
            loss_at=tuple(own.losses.mean(dim=0).tolist()),
            gains=gains,
            gains_at={name: _by_level(own.of(others[name].clips), others[name].losses) for name in gains},
            gains_of={kind: _gains(own, others, chosen) for kind, chosen in self.kinds.items()},
        )

    def _exchanged(self) -> list[VocalSource]:
        """For each clip the vocal of another song."""
        lengths = [clip.target.shape[-1] for clip in self.clips]
        return [fitted(self.clips[other].source, frames) for frames, other in zip(lengths, self.partners, strict=True)]

    def _losses(
        self, module: AccompanimentModule, sources: Sequence[VocalSource | None], levels: Tensor | None = None
    ) -> ClipLosses:
        """Loss at each level of each clip that has one of `sources`, conditioned on it; `levels` if not the usual."""
        levels, losses = self.levels if levels is None else levels, []
        for clip, source in zip(self.clips, sources, strict=True):
            if source is None:
                continue
            noised = at_levels(replace(clip, source=source), levels).to(module.device)
            conditions = encode(module.transformer, noised)
            made = estimate(
                module.transformer, noised, conditions, objective=module.objective, conditioner=module.conditioner
            )
            losses.append(_loss(made.clean, noised))
        clips = torch.tensor([source is not None for source in sources])
        return ClipLosses(torch.stack(losses) if losses else torch.zeros(0, len(LEVELS)), clips)

    def _base_losses(self, module: AccompanimentModule) -> ClipLosses:
        """The same of the frozen base: no adapter, no vocal, plain noise."""
        module.transformer.disable_adapters()
        try:
            losses = []
            for clip in self.clips:
                noised = at_levels(clip, torch.tensor(LEVELS)).to(module.device)
                conditions = encode(module.transformer, noised)
                made = estimate(module.transformer, noised, conditions, objective=TEXT2MUSIC, conditioner=None)
                losses.append(_loss(made.clean, noised))
            return ClipLosses(torch.stack(losses), torch.ones(len(losses), dtype=torch.bool))
        finally:
            module.transformer.enable_adapters()


def noise_levels(conditioning: Conditioning, strength: float) -> Tensor:
    """The sigmas at which a model's state holds LEVELS of noise, [U].

    s*b of noise against (1-s) of data is u against 1-u for s = u / (u + b*(1-u)), where b is the share of noise in x1.
    """
    share = strength * conditioning.a_max if conditioning.objective in BRIDGES else 0.0
    b = 1 - share if conditioning.objective == "bridge_lerp" else (1 - share**2) ** 0.5
    u = torch.tensor(LEVELS)
    return u / (u + b * (1 - u))


def at_levels(clip: Batch, sigmas: Tensor) -> Batch:
    """One clip as a batch with an item per sigma."""

    def repeated(value: Tensor) -> Tensor:
        return value.expand(len(sigmas), *value.shape[1:])

    def tensors(of: Batch | VocalSource) -> dict[str, Any]:
        named = ((field.name, getattr(of, field.name)) for field in fields(of))
        return {name: repeated(value) for name, value in named if isinstance(value, Tensor)}

    each_level = replace(clip.source, **tensors(clip.source))
    return replace(clip, **tensors(clip) | {"source": each_level, "timestep": sigmas * TIMESTEPS})


def gain(losses: Tensor, others: Tensor) -> GainInterval:
    """1 - mean loss / mean other loss of [N, U] losses, with Student's interval over clips.

    The ratio's error is that of its linear part. A bootstrap of eight clips would call chance a gain three times as
    often as it says.
    """
    mine, theirs = losses.mean(dim=1), others.mean(dim=1)
    value = (1 - mine.mean() / theirs.mean()).item()
    errors = (mine - (1 - value) * theirs) / theirs.mean()
    student = float(stdtrit(len(mine) - 1, (1 + CONFIDENCE) / 2))
    half = student * errors.std().item() / len(mine) ** 0.5
    return GainInterval(value, value - half, value + half)


def _gains(own: ClipLosses, others: Mapping[str, ClipLosses], chosen: Tensor) -> dict[str, GainInterval]:
    """Gains over all others that have enough of the chosen clips, bool [N]."""
    both = {name: other.clips & chosen for name, other in others.items()}
    return {
        name: gain(own.of(clips), others[name].of(clips))
        for name, clips in both.items()
        if clips.sum() >= FEWEST_OF_A_KIND
    }


def _choose(sample: Sample, maker: ClipMaker, draw: int, draws: int) -> Choice:
    """One of `draws` clips of a song, spread over it, with all its conditions; a single one is its middle."""
    frames = clip_frames(sample.meta.frames, maker.crop_frames)
    start = (sample.meta.frames - frames) * (2 * draw + 1) // (2 * draws)
    return Choice(Cut(start, frames, tag_order=0), maker.config.accompaniment.default_strength)


def _clip(sample: Sample, maker: ClipMaker, draw: int, choice: Choice) -> Batch:
    """A clip of a song with noise of its own. Validation needs no features."""
    clip = maker.without_noise(maker.assemble([sample], [choice]))
    of_draw = [draw] if draw else []
    generator = seeded(maker.config.seed, "validation", sample.meta.key, *of_draw)
    return replace(clip, noise=torch.randn(clip.target.shape, generator=generator), features=())


def _loss(clean: Tensor, batch: Batch) -> Tensor:
    return denoising_loss(clean, batch.target, torch.ones_like(batch.source.activity)).cpu().double()


def _by_level(losses: Tensor, others: Tensor) -> tuple[float, ...]:
    return tuple((1 - losses.mean(dim=0) / others.mean(dim=0)).tolist())
