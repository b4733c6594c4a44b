"""How an adapter's network sees vocal and lead sheet: what adapter.json says of it, and the modules that it makes.

C latent channels (8), H latent rows (16), T latent frames, B songs.
"""

from pydantic import Field
from torch import Tensor

from common.config import Config
from common.latents import LatentStatistics
from common.music.features import WIDTH
from models.flow.alternatives import SourceSlot, make_objective
from models.flow.conditioning import (
    TEXT2MUSIC,
    Objective,
    SourceProjection,
    VocalSource,
    normalise_vocal,
    smooth_activity,
)
from models.flow.control import ControlEncoder
from models.flow.lead_sheet import LeadSheetEncoder, VocalAndLeadSheet
from models.flow.options import A_MAX, BRIDGES, ControlInjection, Mode, ObjectiveName, OffsetWeight
from models.protocols import FlowNetwork

VocalConditioner = SourceProjection | ControlEncoder
AdapterConditioner = VocalConditioner | VocalAndLeadSheet
"""What an adapter adds to inputs of blocks: for a vocal, or for a vocal and a lead sheet."""


class ControlShape(Config):
    """Shape of the control encoder."""

    depth: int
    """Blocks."""
    dim: int
    """Width; one attention head for each 128."""
    injection_layers: tuple[int, ...]
    """Transformer blocks whose input it is added to."""
    control_injection: ControlInjection = "zero"
    controlnet_scale: float = 1.0
    """Factor on all it adds."""


class LeadSheetShape(Config):
    """Shape of the lead sheet encoder."""

    depth: int
    """Blocks."""
    dim: int
    """Width."""
    injection_layers: tuple[int, ...]
    """Transformer blocks whose input it is added to."""


class Conditioning(Config):
    """How the vocal conditions a model; training and inference build the same thing from it."""

    mode: Mode = "image2image"
    objective: ObjectiveName = "bridge_vp"
    """image2image: the path from noise to band; the other modes start from plain noise."""
    a_max: float = A_MAX
    """Share of the vocal in the starting noise at strength 1."""
    offset_weight: OffsetWeight = "1-s"
    activity_gate: bool = True
    """Frames where nobody sings start from pure noise."""
    source_projection: bool = True
    """image2image: the network also sees the vocal through a linear projection."""
    control: ControlShape | None = None
    """controlnet: the encoder that the vocal goes through."""
    lead_sheet: LeadSheetShape | None = Field(default=None, exclude_if=lambda shape: shape is None)
    """The encoder that a lead sheet goes through, in either mode; absent where it takes none."""

    def make_objective(self) -> Objective:
        """The objective that training and sampling share."""
        if self.mode == "controlnet":
            return TEXT2MUSIC
        if self.mode == "context":
            return SourceSlot()
        return make_objective(self.objective, a_max=self.a_max, offset_weight=self.offset_weight)

    @property
    def can_be_guided(self) -> bool:
        """Whether vocal or lead sheet also enter the network apart from its noise: a pass can leave that out."""
        if self.lead_sheet is not None:
            return True
        if self.mode == "controlnet":
            return self.control is not None
        if self.mode == "context":
            return True
        return self.source_projection or self.objective not in BRIDGES

    def make_conditioner(self, transformer: FlowNetwork, *, seed: int = 0) -> AdapterConditioner | None:
        """Fresh paths for the vocal and a lead sheet into this transformer, which change nothing yet; None for none."""
        vocal = self._vocal_conditioner(transformer, seed)
        if self.lead_sheet is None:
            return vocal
        lead_sheet = LeadSheetEncoder(
            depth=self.lead_sheet.depth,
            dim=self.lead_sheet.dim,
            features=WIDTH,
            out_dim=transformer.inner_width,
            blocks=len(transformer.transformer_blocks),
            block_frames=transformer.spec.block_frames,
            injection_layers=self.lead_sheet.injection_layers,
            seed=seed,
        )
        return VocalAndLeadSheet(vocal, lead_sheet)

    def _vocal_conditioner(self, transformer: FlowNetwork, seed: int) -> VocalConditioner | None:
        if self.control is not None:
            return ControlEncoder(
                depth=self.control.depth,
                dim=self.control.dim,
                frame_values=transformer.spec.latents.frame_values,
                out_dim=transformer.inner_width,
                blocks=len(transformer.transformer_blocks),
                block_frames=transformer.spec.block_frames,
                injection_layers=self.control.injection_layers,
                control_injection=self.control.control_injection,
                controlnet_scale=self.control.controlnet_scale,
                seed=seed,
            )
        if not self.source_projection:
            return None
        spec = transformer.spec
        return SourceProjection(spec.latents.frame_values, transformer.inner_width, block_frames=spec.block_frames)

    def vocal_source(
        self,
        latents: Tensor,
        activity: Tensor,
        strength: Tensor,
        statistics: LatentStatistics,
        *,
        lead_sheet: Tensor | None = None,
        lead_sheet_strength: Tensor | None = None,
    ) -> VocalSource:
        """The source that vocals make: scaled latents [B, C, H, T], activity [B, T] in [0, 1], strength [B].

        Beside them features of lead sheets [B, T, S], and a strength [B] of each.
        """
        vocal = normalise_vocal(latents, statistics)
        gate = smooth_activity(activity) if self.activity_gate else activity.new_ones(activity.shape)
        return VocalSource(
            vocal=vocal,
            conditioner_input=vocal,
            activity=gate,
            strength=strength,
            latents=latents if self.mode == "context" else None,
            lead_sheet=lead_sheet,
            lead_sheet_strength=lead_sheet_strength,
        )
