"""What is compared, and with which effort."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from common.config import Config, check_config, load_config
from models.flow.sampler import SamplerSettings
from prep.made_up.folder import HELD_OUT_SEED

UNTRAINED = ("text2music", "sdedit")
Vocals = Literal["clean", "separated", "half_separated", "separated_bleed"]
"""What vocals of made-up songs are: as they were sung; taken from the mix by the bundle's own separator; that in every
other song; or that, and under each vocal the band of another song, at random softer."""
LeadSheets = Literal["true", "inferred"]
"""What lead sheets bands are drawn for, where an arm takes them: those of the songs, or those inferred from vocals."""
FIRST_SEED = 500_000
"""Songs to train on have seeds from here up: far from those of the bundle, and below those that judge."""


@dataclass(frozen=True)
class Arm:
    """One way to train, as one would ask `train run` for it."""

    config: str
    """A shipped config."""
    settings: tuple[str, ...] = ()
    """Its --set."""
    sampler: tuple[str, ...] = ()
    """What is changed in the sampler that all share."""
    vocals: Vocals = "clean"
    """What it is trained on."""
    lead_sheets: LeadSheets = "true"
    """What it is judged with."""


def _image2image(*settings: str) -> Arm:
    return Arm("tiny_image2image", tuple(f"accompaniment.{setting}" for setting in settings))


ARMS: Mapping[str, Arm] = {
    "bridge_vp": _image2image("a_max=0.3"),
    "controlnet": Arm("tiny_controlnet"),
    "context": Arm("tiny_context"),
    "bridge_vp-0": _image2image("a_max=0"),
    "bridge_vp-0.5": _image2image("a_max=0.5"),
    "bridge_vp-0.7": _image2image("a_max=0.7"),
    "bridge_vp-0.7-unseen": _image2image("a_max=0.7", "source_projection=false"),
    "offset": _image2image("objective=offset", 'offset_weight="1"', "source_projection=false"),
    "naive": _image2image("objective=naive", "source_projection=false"),
}
"""docs/formulation.md, sections 3 to 5. A number is a_max; `unseen` leaves the source projection out, and there a_max
is 0.7, so that much of the vocal remains in the noise; and offset has the weight by which most of it does."""
DEFAULT = "bridge_vp"
"""The arm that the others are compared with, unless the settings name another."""


@dataclass(frozen=True)
class Change:
    """What may be done otherwise in any arm."""

    settings: tuple[str, ...] = ()
    """In training."""
    sampler: tuple[str, ...] = ()
    vocals: Vocals | None = None
    """To train on, if not those of the arm."""
    lead_sheets: LeadSheets | None = None
    """To be judged with, if not those of the arm."""


_EARLY = ("vocal_guidance_scale=2.5", "vocal_guidance_interval=[0.7,1]")

_PRESSED = ("guidance=cfg", "guidance_scale=2", "guidance_interval=1")

INSIDE = (
    *_PRESSED,
    "vocal_guidance=cfg",
    "vocal_guidance_scale=1.75",
    "vocal_guidance_interval=[0.7,1]",
)
"""How the adapters inside Backline are sampled, chosen on songs from 600000:
docs/objectives.md#a-sampler-for-the-adapters-inside-backline."""

_LEAD_SHEET = ("accompaniment.lead_sheet.dim=128",)

CHANGES: Mapping[str, Change] = {
    "noise": Change(("high_noise_share=0.3",)),
    "noise_half": Change(("high_noise_share=0.5",)),
    "whole": Change(("accompaniment.strength_range=[1,1]",)),
    "joint": Change(("joint_dropout=0.08",)),
    "ema_cold": Change(("ema_decay=0.999",)),
    "ema": Change(("ema_decay=0.999", "ema_warmup=true")),
    "separated": Change(vocals="separated"),
    "half_separated": Change(vocals="half_separated"),
    "separated_bleed": Change(vocals="separated_bleed"),
    "latent_noise": Change(("accompaniment.latent_noise=0.4",)),
    "pressed": Change(sampler=(*_PRESSED, "vocal_guidance_scale=2.5")),
    "early": Change(sampler=(*_EARLY, "vocal_guidance=cfg")),
    "early_apg": Change(sampler=(*_EARLY, "vocal_guidance=apg_by_length")),
    "lead_sheet": Change(_LEAD_SHEET),
    "lead_sheet_alone": Change(
        (*_LEAD_SHEET, "accompaniment.strength_range=[0,0]", "accompaniment.reference_strength=0")
    ),
    "inferred": Change(lead_sheets="inferred"),
    "as_inside": Change(sampler=INSIDE),
    "turbo": Change(sampler=("steps=8", "shift=3", "guidance_scale=1")),
}
"""controlnet+noise+ema is the arm controlnet with two of them. `pressed` guides over the vocal in every step, `early`
ones near noise alone; `latent_noise` hides more of a vocal's detail, and with it of what a separator left in it;
`whole` trains with the whole vocal or none, `joint` drops all conditions at once; `ema_cold` is an average that begins
at the first weights and stays near them. `lead_sheet` is trained and judged with the true lead sheet beside the vocal,
`lead_sheet_alone` with it and without any vocal; what is exchanged is then vocal and lead sheet together. `inferred`
judges with what the harmoniser makes of each vocal, as `infer generate` does. `as_inside` draws as the adapters inside
Backline recommend, `turbo` as upstream samples that variant of ACE-Step 1.5."""


def arm_of(name: str) -> Arm:
    """One of ARMS, with any of CHANGES after a plus sign each. Raises ValueError for another name."""
    first, *changes = name.split("+")
    if first not in ARMS:
        raise ValueError(f"there is no arm {first!r}; choose from {', '.join(map(repr, ARMS))}")
    arm = ARMS[first]
    for change in changes:
        if change not in CHANGES:
            raise ValueError(f"{name}: there is no change {change!r}; choose from {', '.join(map(repr, CHANGES))}")
        more = CHANGES[change]
        arm = replace(
            arm,
            settings=arm.settings + more.settings,
            sampler=arm.sampler + more.sampler,
            vocals=more.vocals or arm.vocals,
            lead_sheets=more.lead_sheets or arm.lead_sheets,
        )
    return arm


class SongSettings(Config):
    """The made-up songs."""

    training: Annotated[int, Field(ge=2, le=HELD_OUT_SEED - FIRST_SEED)] = 400
    """Songs to train on, of seeds FIRST_SEED and up."""
    judged: Annotated[int, Field(ge=2)] = 48
    """Songs to judge with, of seeds first_judged and up."""
    first_judged: Annotated[int, Field(ge=FIRST_SEED)] = HELD_OUT_SEED
    """Settings are chosen on songs of seeds below HELD_OUT_SEED, so that those from there up judge the choice."""
    seconds: float = 10.0
    """Length of each."""
    judged_seconds: float | None = None
    """Length of those that judge, if not `seconds`: the longer a song, the more of its scale is sung."""

    @property
    def lengths(self) -> dict[str, float]:
        """Seconds of a song, by what it is for."""
        return {"training": self.seconds, "judged": self.judged_seconds or self.seconds}

    @property
    def training_seeds(self) -> range:
        return range(FIRST_SEED, FIRST_SEED + self.training)

    @property
    def judged_seeds(self) -> range:
        return range(self.first_judged, self.first_judged + self.judged)

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.first_judged < FIRST_SEED + self.training:
            raise ValueError(
                f"first_judged {self.first_judged} is among the songs to train on, which go up to "
                f"{FIRST_SEED + self.training - 1}; raise it"
            )
        return self


class BandSampler(SamplerSettings):
    """As upstream samples the base in 30 steps, but for what is set here."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 30


AnySampler = TypeVar("AnySampler", bound=SamplerSettings)


def changed_sampler(sampler: AnySampler, changes: Sequence[str]) -> AnySampler:
    """A sampler with some settings otherwise, such as "guidance=cfg". Raises UserError for what cannot be."""
    names = {change.partition("=")[0] for change in changes}
    changed = load_config(SamplerSettings, None, changes).model_dump(mode="json", include=names)
    return check_config(type(sampler), sampler.model_dump(mode="json") | changed, "sampler")


class ObjectivesSettings(Config):
    """Everything that the comparison depends on, but the bundle."""

    songs: SongSettings = SongSettings()
    arms: tuple[str, ...] = tuple(arm for arm in ARMS if arm != "context")
    """Which of ARMS are trained, as they are or with some of CHANGES; `context` is for a base with a source slot."""
    compared_with: str = DEFAULT
    """The arm that the others are compared with, song by song."""
    untrained: tuple[Literal["text2music", "sdedit"], ...] = UNTRAINED
    """What is judged beside the arms."""
    judged_vocals: Literal["clean", "separated"] = "clean"
    """What the vocals are that bands are drawn for; a work folder has room for both."""
    exchange: bool = True
    """Whether bands are drawn for exchanged vocals, too: the null, for as much again."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2)
    """Each arm is trained with each; the noise that bands are drawn from follows from them too."""
    training_seconds: Annotated[float, Field(gt=0)] = 420.0
    """Processor seconds that a training may take, turned into steps by the measured cost of a step."""
    training_steps: Annotated[int, Field(ge=1)] | None = None
    """So many steps for every arm instead, where all cost the same."""
    training: tuple[str, ...] = (
        "lora.r=16",
        "lora.lora_alpha=16",
        "batch_size=8",
        "learning_rate=2e-3",
        "warmup_steps=50",
        "accompaniment.reference_strength=1",
        "high_noise_share=0",
        "checkpoint_every_n_steps=100",
    )
    """Settings of `train run` that all arms share."""
    timed_steps: Annotated[int, Field(ge=2)] = 12
    """Steps, in either of two rounds, by which the cost of a step is measured."""
    sampler: BandSampler = BandSampler()
    sdedit_strength: Annotated[float, Field(ge=0, le=0.95)] = 0.5
    """How much of the vocal sdedit keeps; at 0.5 it starts at sigma 0.75."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Bands that are drawn at once."""

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            arm_of(name)
        return names
