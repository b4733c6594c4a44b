"""ACE-Step 1.5's transformer with its condition encoder, both diffusers', behind `FlowNetwork`.

B items, C latent channels (64), H latent rows (1), T latent frames, S text tokens, D width of a text state, L lyric
tokens, E condition tokens, I inner width of the transformer, J that of the condition encoder.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.transformers.ace_step_transformer import AceStepTransformer1DModel
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder
from torch import Tensor, nn

from common.bases import ACE_STEP_15
from common.errors import UserError
from models.acestep15.names import original_name
from models.acestep15.sizes import NetworkSettings, Variant
from models.protocols import Conditions, FlowNetwork, Injections, SslFeatures, Velocity

REFERENCE_FRAMES = int(30 * ACE_STEP_15.latents.frames_per_second)
"""Frames of silence that the timbre encoder gets where there is no reference; zeros are nothing that it has seen."""
TIMESTEPS = 1000
"""What sigma 1 is called as a timestep; diffusers' transformer takes sigma itself."""


class AceStep15Network(FlowNetwork):
    """Weights stand under the names of diffusers' two networks, after `transformer.` and `condition_encoder.`.

    What the transformer decodes together is of one length: it sees no mask of frames. Padded condition tokens are
    masked, which diffusers' transformer does not do, so that no item depends on the others.
    """

    spec = ACE_STEP_15
    blocks_name = "transformer.layers"
    adapted_prefix = "transformer."
    comfyui_prefix = "diffusion_model."
    _supports_gradient_checkpointing = True

    def __init__(self, settings: NetworkSettings, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        self.transformer = AceStepTransformer1DModel(**settings.transformer)
        self.condition_encoder = AceStepConditionEncoder(**settings.condition_encoder)

    @property
    def transformer_blocks(self) -> nn.ModuleList:  # ty: ignore[incompatible-property-override]
        """The transformer's layers."""
        return self.transformer.layers

    @property
    def inner_width(self) -> int:
        """I."""
        return self.transformer.proj_in_conv.out_channels

    @property
    def variant_name(self) -> str:  # ty: ignore[incompatible-property-override]
        """A name of ACE_STEP_15.samplings."""
        return self.variant.kind

    @property
    def rounded_parts(self) -> tuple[nn.Module, ...]:
        """The layers, and what reads lyrics and timbre."""
        encoder = self.condition_encoder
        return self.transformer_blocks, encoder.lyric_encoder, encoder.timbre_encoder

    @property
    def weight_dtype(self) -> torch.dtype:
        """The network's own dtype."""
        return self.transformer.scale_shift_table.dtype

    def exported_layer(self, name: str) -> str:
        """As the original layout has it, without its prefix."""
        return original_name(f"{name}.").removeprefix("decoder.").removesuffix(".")

    def condition(self, text: Tensor, text_mask: Tensor, lyric_ids: Tensor, lyric_mask: Tensor) -> Conditions:
        """Conditions of text2music. `lyric_ids` are not ids here, but the text encoder's embedding rows [B, L, D].

        An item whose text is zero has its words left out: it gets the learned null condition in every position.
        """
        dtype, count = self.weight_dtype, len(text)
        reference = self.condition_encoder.silence_latent[:, :REFERENCE_FRAMES].to(dtype)
        states, mask = self.condition_encoder(
            text_hidden_states=text.to(dtype),
            text_attention_mask=text_mask.bool(),
            lyric_hidden_states=lyric_ids.to(dtype),
            lyric_attention_mask=lyric_mask.bool(),
            refer_audio_acoustic_hidden_states_packed=reference.expand(count, -1, -1),
            refer_audio_order_mask=torch.arange(count, device=text.device),
        )
        left_out = (text == 0).all(dim=2).all(dim=1)
        null = self.condition_encoder.null_condition_emb.to(states.dtype)
        return Conditions(torch.where(left_out[:, None, None], null, states), mask)

    def null_condition(self, text: Tensor, text_mask: Tensor, lyric_ids: Tensor, lyric_mask: Tensor) -> Conditions:
        """The learned null condition in as many positions as `condition` fills with these words."""
        count, length = len(text), text.shape[1] + lyric_ids.shape[1] + 1  # 1: what stands for the timbre
        real = text_mask.bool().sum(1) + lyric_mask.bool().sum(1) + 1
        mask = torch.arange(length, device=text.device) < real[:, None]
        null = self.condition_encoder.null_condition_emb.to(self.weight_dtype)
        return Conditions(null.expand(count, length, -1), mask)

    def silence(self, frames: int) -> Tensor:
        """Latents of silence [1, C, 1, frames], repeated where they are longer than what the checkpoint holds."""
        held = self.condition_encoder.silence_latent
        repeated = held.repeat(1, -(-frames // held.shape[1]), 1)[:, :frames]
        return repeated.transpose(1, 2).unsqueeze(2)

    def with_source(self, conditions: Conditions, source: Tensor, made: Tensor | None = None) -> Conditions:
        """The conditions with the latents [B, C, 1, T] of a source track, such as a vocal to complete.

        `made` [B, T] is 1 where frames are to be made and 0 where the source stays; None makes all.
        """
        frames = source.new_ones(len(source), source.shape[-1]) if made is None else made.to(source.dtype)
        return replace(conditions, context=torch.cat((source, frames[:, None, None].expand_as(source)), dim=1))

    def example(self, generator: torch.Generator) -> tuple[Tensor, Conditions]:
        """Made-up latents [1, C, 1, T] and conditions, with a source."""
        width, channels = self.condition_encoder.text_projector.in_features, self.spec.latents.channels
        text, rows = (torch.randn(1, length, width, generator=generator) for length in (8, 6))
        source, latents = (torch.randn(1, channels, 1, 32, generator=generator) for _ in range(2))
        conditions = self.condition(text, torch.ones(1, 8), rows, torch.ones(1, 6))
        return latents, self.with_source(conditions, source)

    def prepare(self, conditions: Conditions) -> Conditions:
        """The conditions as they are: diffusers' blocks keep nothing between steps."""
        return conditions

    def decode(
        self,
        latents: Tensor,
        timestep: Tensor,
        conditions: Conditions,
        *,
        mask: Tensor | None = None,
        injections: Injections | None = None,
        ssl_features: SslFeatures | None = None,
    ) -> Velocity:
        """latents [B, C, 1, T] of whole clips; without a source in the conditions it is text2music.

        Blocks see [B, ceil(T / 2), I]. Raises UserError for an injection past the last block.
        """
        if ssl_features or (mask is not None and not bool(mask.all())):
            raise ValueError("ACE-Step 1.5 has no projection losses and takes no padded frames.")
        if conditions.context is None:
            silence = self.silence(latents.shape[-1]).expand(len(latents), -1, -1, -1)
            conditions = self.with_source(conditions, silence)
        assert conditions.context is not None
        sigma = (timestep / TIMESTEPS).to(self.weight_dtype)
        with self._injecting(injections or {}, conditions.mask):
            sample = self.transformer(
                hidden_states=_frames_last_but_one(latents).to(self.weight_dtype),
                timestep=sigma,
                timestep_r=sigma,
                encoder_hidden_states=conditions.states.to(self.weight_dtype),
                context_latents=_frames_last_but_one(conditions.context).to(self.weight_dtype),
                return_dict=False,
            )[0]
        return Velocity(sample.transpose(1, 2).unsqueeze(2), ())

    @contextmanager
    def _injecting(self, injections: Injections, mask: Tensor) -> Generator[None]:
        """Each injection on its block's input while the transformer runs, and no block sees padded condition tokens."""
        last = len(self.transformer_blocks) - 1
        for index in injections:
            if not 0 <= index <= last:
                raise UserError(
                    f"injection at block {index}: this transformer has {last + 1} blocks, 0 to {last}. "
                    "Name only those in injection_layers."
                )
        seen = None if bool(mask.all()) else mask[:, None, None, :].bool()
        all_blocks = {} if seen is None else dict.fromkeys(range(last + 1), _unchanged)
        changes = {self.transformer_blocks[index]: change for index, change in {**all_blocks, **injections}.items()}
        if self.transformer.gradient_checkpointing and torch.is_grad_enabled():
            with self._checkpointing(changes, seen):
                yield
            return
        handles = [
            block.register_forward_pre_hook(_changing_input(change, seen), with_kwargs=True)
            for block, change in changes.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _checkpointing(
        self, changes: Mapping[nn.Module, Callable[[Tensor], Tensor]], seen: Tensor | None
    ) -> Generator[None]:
        """Changes that a block sees again when the backward pass repeats it, where hooks would be gone."""
        checkpoint = self.transformer._gradient_checkpointing_func
        assert checkpoint is not None, "enable_gradient_checkpointing sets it"

        def changed(block: nn.Module, hidden: Tensor, *rest: Any) -> Any:
            change = changes.get(block)
            repeated = block if change is None else lambda hidden, *rest: block(change(hidden), *rest)
            return checkpoint(repeated, hidden, *rest[:-1], seen)

        self.transformer._gradient_checkpointing_func = changed
        try:
            yield
        finally:
            self.transformer._gradient_checkpointing_func = checkpoint


def _frames_last_but_one(latents: Tensor) -> Tensor:
    """[B, C, 1, T] -> [B, T, C]."""
    return latents.squeeze(2).transpose(1, 2)


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


def _changing_input(change: Callable[[Tensor], Tensor], seen: Tensor | None) -> Callable[..., Any]:
    def hook(block: nn.Module, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, options | {"hidden_states": change(options["hidden_states"]), "encoder_attention_mask": seen}

    return hook
