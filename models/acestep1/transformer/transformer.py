"""ACE-Step's transformer, with exactly the published weight names. docs/upstream.md, sections 2 to 4.

B items, C latent channels (8), H latent rows (16), T latent frames, S text tokens, L lyric tokens,
E = 1 + S + L condition tokens (speaker, text, lyrics), I = heads * head width, the inner width (2560).

Latents and states may come in any floating dtype: they are cast to the network's on entry, the result has the
network's. Timesteps, position tables and the core of the linear attention are float32 whatever the network's dtype.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from common.bases import ACE_STEP_1
from common.errors import UserError
from models.acestep1.transformer.attention import RotaryTable, rotary_table
from models.acestep1.transformer.block import BlockContext, TransformerBlock
from models.acestep1.transformer.lyric_encoder import LyricEncoder
from models.acestep1.transformer.patches import FinalLayer, PatchEmbedding
from models.acestep1.transformer.projection_loss import Projector, projection_loss
from models.acestep1.transformer.timestep import TimestepEmbedder, timestep_sinusoid
from models.protocols import Conditions, FlowNetwork, Injections, SslFeatures, Velocity


class ACEStepTransformer2DModel(FlowNetwork, ConfigMixin):
    """Predicts the velocity of noisy latents. Class and argument names are the checkpoint's, defaults its config.

    `inner_dim`, `max_position` and `max_width` stand in every config.json and have no effect: the width is heads *
    head width, and position tables are as long as the input. `lyric_encoder_heads`, `_ff` and `_layers` are ours;
    a published config.json lacks them and gets the published shape.
    """

    spec = ACE_STEP_1
    _supports_gradient_checkpointing = True
    _gradient_checkpointing_func: Callable[..., Tensor]  # enable_gradient_checkpointing sets it

    @register_to_config
    def __init__(
        self,
        in_channels: int = 8,
        num_layers: int = 24,
        inner_dim: int = 2560,
        attention_head_dim: int = 128,
        num_attention_heads: int = 20,
        mlp_ratio: float = 2.5,
        out_channels: int = 8,
        max_position: int = 32768,
        rope_theta: float = 1_000_000.0,
        speaker_embedding_dim: int = 512,
        text_embedding_dim: int = 768,
        ssl_encoder_depths: Sequence[int] = (8, 8),
        ssl_names: Sequence[str] = ("mert", "m-hubert"),
        ssl_latent_dims: Sequence[int] = (1024, 768),
        lyric_encoder_vocab_size: int = 6693,
        lyric_hidden_size: int = 1024,
        patch_size: Sequence[int] = (16, 1),
        max_height: int = 16,
        max_width: int = 32768,
        lyric_encoder_heads: int = 16,
        lyric_encoder_ff: int = 4096,
        lyric_encoder_layers: int = 6,
    ) -> None:
        super().__init__()
        if tuple(patch_size) != (max_height, 1):
            raise ValueError(f"patch_size {tuple(patch_size)}: only ({max_height}, 1), all rows of one frame, exists.")
        if any(depth >= num_layers for depth in ssl_encoder_depths):
            raise ValueError(f"ssl_encoder_depths {tuple(ssl_encoder_depths)} pass the last of {num_layers} blocks.")
        width = num_attention_heads * attention_head_dim
        self.gradient_checkpointing = False
        self.table_rounded_to = torch.float32
        """torch.bfloat16 rounds the position tables as an upstream run has them, to compare with one bit by bit."""
        self._latent_shape = (in_channels, max_height)
        self._head_width = attention_head_dim
        self._rope_theta = rope_theta
        self._projected_blocks = tuple(zip(ssl_names, ssl_encoder_depths, strict=True))

        self.timestep_embedder = TimestepEmbedder(width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.speaker_embedder = nn.Linear(speaker_embedding_dim, width)
        self.genre_embedder = nn.Linear(text_embedding_dim, width)
        self.lyric_embs = nn.Embedding(lyric_encoder_vocab_size, lyric_hidden_size)
        self.lyric_encoder = LyricEncoder(
            lyric_hidden_size,
            lyric_hidden_size,
            heads=lyric_encoder_heads,
            feed_forward=lyric_encoder_ff,
            layers=lyric_encoder_layers,
        )
        self.lyric_proj = nn.Linear(lyric_hidden_size, width)
        self.projectors = nn.ModuleList(Projector(width, dim) for dim in ssl_latent_dims)
        self.proj_in = PatchEmbedding(in_channels, max_height, width)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(width, num_attention_heads, mlp_ratio) for _ in range(num_layers)
        )
        self.final_layer = FinalLayer(width, max_height, out_channels)

    @property
    def inner_width(self) -> int:
        """I."""
        return self.final_layer.linear.in_features

    def encode(
        self, text: Tensor, text_mask: Tensor, speaker: Tensor, lyric_ids: Tensor, lyric_mask: Tensor
    ) -> Conditions:
        """text [B, S, D]; speaker [B, D']; lyric_ids [B, L] int; masks [B, S], [B, L], nonzero where a token is real.

        Padding keeps its place in the sequence, so that padded text moves the positions of the lyrics.
        """
        batch, dtype = len(text), self.weight_dtype
        require_shape("text", text, (*text_mask.shape, self.genre_embedder.in_features))
        require_shape("speaker", speaker, (batch, self.speaker_embedder.in_features))
        require_shape("lyric_ids", lyric_ids, (batch, lyric_ids.shape[-1]))
        require_shape("lyric_mask", lyric_mask, tuple(lyric_ids.shape))
        text_mask, lyric_mask = text_mask.bool(), lyric_mask.bool()

        speaker_token = self.speaker_embedder(speaker.to(dtype)).unsqueeze(1)
        lyrics = self.lyric_encoder(self.lyric_embs(lyric_ids), lyric_mask, table_rounded_to=self.table_rounded_to)
        states = torch.cat((speaker_token, self.genre_embedder(text.to(dtype)), self.lyric_proj(lyrics)), dim=1)
        return Conditions(states, torch.cat((text_mask.new_ones(batch, 1), text_mask, lyric_mask), dim=1))

    def condition(self, text: Tensor, text_mask: Tensor, lyric_ids: Tensor, lyric_mask: Tensor) -> Conditions:
        """`encode` without a speaker, which no song has."""
        speaker = text.new_zeros(len(text), self.speaker_embedder.in_features)
        return self.encode(text, text_mask, speaker, lyric_ids, lyric_mask)

    def example(self, generator: torch.Generator) -> tuple[Tensor, Conditions]:
        """Made-up latents [1, C, H, T] and conditions; the speaker is one, too, which songs have not."""
        text = torch.randn(1, 8, self.genre_embedder.in_features, generator=generator)
        speaker = torch.randn(1, self.speaker_embedder.in_features, generator=generator)
        lyrics = torch.randint(self.lyric_embs.num_embeddings, (1, 8), generator=generator)
        conditions = self.encode(text, torch.ones(1, 8), speaker, lyrics, torch.ones(1, 8))
        return torch.randn(1, 8, 16, 32, generator=generator), conditions

    def prepare(self, conditions: Conditions) -> Conditions:
        """The conditions with what each block makes of them, for many steps under these weights and this LoRA."""
        if conditions.keys_values is not None:
            return conditions
        states = conditions.states.to(self.weight_dtype)
        table = self._table(states.shape[1], states.device)
        blocks = cast("list[TransformerBlock]", self.transformer_blocks)
        return replace(conditions, keys_values=tuple(block.cross_attn.keys_values(states, table) for block in blocks))

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
        """latents [B, C, H, T] at timestep [B] = 1000 * sigma; mask [B, T], nonzero where a frame is real, or None.

        Raises UserError for an injection past the last block.
        """
        injections = injections or {}
        self._check(latents, timestep, conditions, mask, injections)
        context, embedded_timestep = self._context(latents, timestep, conditions, mask)
        depths = {depth for _, depth in self._projected_blocks} if ssl_features else set()
        kept: dict[int, Tensor] = {}

        states = self.proj_in(latents.to(self.weight_dtype))
        for index, block in enumerate(self.transformer_blocks):
            keys_values = None if conditions.keys_values is None else conditions.keys_values[index]
            if index in injections:
                states = injected(states, injections[index], index)
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                states = self._gradient_checkpointing_func(block, states, context, keys_values)
            else:
                states = block(states, context, keys_values)
            if index in depths:
                kept[index] = states

        sample = self.final_layer(states, embedded_timestep)
        return Velocity(sample, self._projection_losses(kept, ssl_features) if ssl_features else ())

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        encoder_text_hidden_states: Tensor,
        text_attention_mask: Tensor,
        speaker_embeds: Tensor,
        lyric_token_idx: Tensor,
        lyric_mask: Tensor,
        timestep: Tensor,
        ssl_hidden_states: SslFeatures | None = None,
        block_controlnet_hidden_states: Tensor | None = None,
        controlnet_scale: float = 1.0,
    ) -> Velocity:
        """`encode`, then `decode`, under upstream's names (docs/upstream.md, section 2.2), with its one control
        hook: the cross-normed control [B, T, I] is added to the input of block 0."""
        conditions = self.encode(
            encoder_text_hidden_states, text_attention_mask, speaker_embeds, lyric_token_idx, lyric_mask
        )
        injections: Injections = {}
        if block_controlnet_hidden_states is not None:
            control = block_controlnet_hidden_states
            injections = {0: lambda states: states + controlnet_scale * cross_norm(states, control)}
        return self.decode(
            hidden_states,
            timestep,
            conditions,
            mask=attention_mask,
            injections=injections,
            ssl_features=ssl_hidden_states,
        )

    @property
    def weight_dtype(self) -> torch.dtype:
        """The network's own dtype; an adapter's weights may have another."""
        return self.final_layer.scale_shift_table.dtype

    def _check(
        self, latents: Tensor, timestep: Tensor, conditions: Conditions, mask: Tensor | None, injections: Injections
    ) -> None:
        batch, frames = latents.shape[0], latents.shape[-1]
        require_shape("latents", latents, (batch, *self._latent_shape, frames))
        require_shape("timestep", timestep, (batch,))
        require_shape("conditions.states", conditions.states, (batch, conditions.mask.shape[-1], self.inner_width))
        require_shape("conditions.mask", conditions.mask, (batch, conditions.mask.shape[-1]))
        if mask is not None:
            require_shape("mask", mask, (batch, frames))
        for index in injections:
            if not 0 <= index < len(self.transformer_blocks):
                raise UserError(
                    f"injection at block {index}: this transformer has {len(self.transformer_blocks)} blocks, "
                    f"0 to {len(self.transformer_blocks) - 1}. Name only those in injection_layers."
                )

    def _context(
        self, latents: Tensor, timestep: Tensor, conditions: Conditions, mask: Tensor | None
    ) -> tuple[BlockContext, Tensor]:
        """What all blocks share, and the embedded timestep [B, I], which the final layer takes as it is."""
        embedded = self.timestep_embedder(timestep_sinusoid(timestep).to(self.weight_dtype))
        context = BlockContext(
            modulation=self.t_block(embedded).unflatten(-1, (6, -1)),
            latent_mask=None if mask is None else mask.bool(),
            latent_table=self._table(latents.shape[-1], latents.device),
            conditions=conditions.states.to(self.weight_dtype),
            # Without a mask the attention may take its fastest kernel: worth looking once per pass.
            condition_mask=None if bool(conditions.mask.all()) else conditions.mask.bool(),
            condition_table=self._table(conditions.states.shape[1], latents.device),
        )
        return context, embedded

    def _table(self, length: int, device: torch.device) -> RotaryTable:
        return rotary_table(
            length, self._head_width, theta=self._rope_theta, device=device, rounded_to=self.table_rounded_to
        )

    def _projection_losses(self, kept: Mapping[int, Tensor], features: SslFeatures) -> tuple[tuple[str, Tensor], ...]:
        if len(features) != len(self._projected_blocks):
            names = [name for name, _ in self._projected_blocks]
            raise ValueError(f"ssl_features: {len(features)} entries; expected one for each of {names}.")
        return tuple(
            (name, projection_loss(projector(kept[depth]), items))
            for (name, depth), projector, items in zip(self._projected_blocks, self.projectors, features, strict=True)
            if items is not None
        )


def cross_norm(states: Tensor, control: Tensor) -> Tensor:
    """`control` [B, T, I] with the mean and deviation that `states` [B, T, I] has, per item over time and width.

    Upstream's normalisation of a control. It erases the control's own size and adds mean(states) even for a control
    of zeros (docs/formulation.md, section 5).
    """
    reference, signal = states.float(), control.float()
    gain = reference.std((1, 2), keepdim=True) / (signal.std((1, 2), keepdim=True) + 1e-12)
    normed = (signal - signal.mean((1, 2), keepdim=True)) * gain + reference.mean((1, 2), keepdim=True)
    return normed.to(states.dtype)


def injected(states: Tensor, injection: Callable[[Tensor], Tensor], index: int) -> Tensor:
    result = injection(states)
    require_shape(f"result of the injection at block {index}", result, tuple(states.shape))
    return result


def require_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise ValueError(f"{name}: shape {tuple(tensor.shape)}; expected {expected}.")
