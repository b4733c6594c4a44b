"""One training step, as docs/formulation.md, section 3 writes it, and what Lightning must know about it.

B clips, C latent channels (8), H latent rows (16), T latent frames.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from common.errors import UserError
from models.adapters.adapter import AdapterCard
from models.adapters.conditioning import AdapterConditioner, Conditioning, ControlShape, LeadSheetShape
from models.adapters.lora import set_lora_dropout
from models.flow.conditioning import Conditioner, Objective, pack_conditions
from models.flow.schedule import TIMESTEPS, add_noise
from models.protocols import Conditions, FlowNetwork
from train.config import TrainingConfig
from train.data.clips import Batch
from train.data.loader import BatchLoader
from train.data.plan import seed_of
from train.devices.strategy import average_gradients, divide
from train.loop.ema import Ema
from train.loop.losses import denoising_loss, structure_loss, weighted_mean
from train.loop.optim import make_optimizer, rate_at


@dataclass(frozen=True)
class NetworkEstimate:
    """What the network makes of a batch."""

    clean: Tensor  # [B, C, H, T], its idea of x0
    projection_losses: tuple[tuple[str, Tensor], ...]  # (SSL network, scalar)


@dataclass(frozen=True)
class Losses:
    """How wrong an estimate is."""

    total: Tensor  # scalar, what training minimises
    parts: dict[str, Tensor]  # name -> scalar
    of_clips: Tensor  # [B], the denoising loss of each clip


def conditioning_of(config: TrainingConfig) -> Conditioning:
    """How a run's model is conditioned on the vocal, in the terms of adapter.json."""
    wanted, sheet = config.accompaniment, None
    if wanted.lead_sheet is not None:
        sheet = LeadSheetShape(
            depth=wanted.lead_sheet.depth, dim=wanted.lead_sheet.dim, injection_layers=wanted.injection_layers
        )
    if wanted.mode == "context":
        return Conditioning(mode="context", a_max=0.0, source_projection=False, lead_sheet=sheet)
    if wanted.mode == "controlnet":
        control = ControlShape(
            depth=wanted.control_encoder_depth,
            dim=wanted.control_encoder_dim,
            injection_layers=wanted.injection_layers,
            control_injection=wanted.control_injection,
            controlnet_scale=wanted.controlnet_scale,
        )
        return Conditioning(mode="controlnet", a_max=0.0, source_projection=False, control=control, lead_sheet=sheet)
    return Conditioning(
        objective=wanted.objective,
        a_max=wanted.a_max,
        offset_weight=wanted.offset_weight,
        activity_gate=wanted.activity_gate,
        source_projection=wanted.source_projection,
        lead_sheet=sheet,
    )


def encode(transformer: FlowNetwork, batch: Batch) -> Conditions:
    """Prompt and lyrics of each clip as it would be conditioned alone; there are no speakers."""
    return pack_conditions(transformer.condition(batch.text, batch.text_mask, batch.lyric_ids, batch.lyric_mask))


def estimate(
    transformer: FlowNetwork,
    batch: Batch,
    conditions: Conditions,
    *,
    objective: Objective,
    conditioner: Conditioner | None,
) -> NetworkEstimate:
    """Noise the targets to the batch's timesteps and let the network find them again.

    docs/formulation.md, section 3.
    """
    sigma = batch.timestep / TIMESTEPS
    x1 = objective.make_x1(batch.noise, batch.source)
    x_s = add_noise(batch.target, x1, sigma)
    velocity = transformer.decode(
        objective.network_input(x_s, sigma, batch.source, batch.noise),
        batch.timestep,
        objective.conditioned(conditions, batch.source, transformer),
        injections=conditioner.injections(batch.source, batch.timestep) if conditioner else None,
        ssl_features=batch.features or None,
    )
    return NetworkEstimate(objective.clean_estimate(x_s, velocity.sample.float(), sigma), velocity.projection_losses)


def losses_of(made: NetworkEstimate, batch: Batch, config: TrainingConfig, *, of_velocities: bool = False) -> Losses:
    """The loss of a batch and what it is made of (docs/upstream.md, sections 4 and 12).

    `of_velocities` compares those that lead to the clean estimates: (x_s - x0) / s has the error of x0 over s.
    """
    mask = torch.ones_like(batch.source.activity)  # clips of one length: every frame is real
    of_clips = denoising_loss(made.clean, batch.target, mask)
    if of_velocities:
        of_clips = of_clips / (batch.timestep / TIMESTEPS).square()
    total = weighted_mean(of_clips, batch.weight)
    parts = {"denoising_loss": total}
    if made.projection_losses:
        parts |= {f"{name}_loss": part for name, part in made.projection_losses}
        total = total + config.ssl_coeff * torch.stack([part for _, part in made.projection_losses]).mean()
    if config.structure_coeff:
        structure = structure_loss(made.clean, batch.target, batch.source.vocal, mask)
        parts["structure_loss"] = weighted_mean(structure, batch.weight)
        total = total + config.structure_coeff * parts["structure_loss"]
    return Losses(total, parts, of_clips)


class AccompanimentModule(LightningModule):
    """The frozen transformer with its adapter, and the vocal's path into it."""

    strict_loading = False  # a checkpoint holds what is trained; on_load_checkpoint accounts for every name

    def __init__(
        self,
        config: TrainingConfig,
        transformer: FlowNetwork,
        conditioner: AdapterConditioner | None,
        *,
        base_fingerprint: str,
        started: AdapterCard | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.started = started  # card of the adapter whose weights it got, if any
        self.base_fingerprint = base_fingerprint
        self.transformer = transformer
        self.conditioner = conditioner
        self.conditioning = conditioning_of(config)
        self.objective = self.conditioning.make_objective()
        self.trained = {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}
        self.ema = Ema(self.trained, config.ema_decay, warmup=config.ema_warmup) if config.ema_decay else None
        self.grad_norm: Tensor | None = None  # before clipping, at the last step
        set_lora_dropout(transformer, active=True)

    @property
    def data_epoch(self) -> int:
        """Epoch, over the songs, of the batch at hand."""
        return self._loader.epoch

    @property
    def _loader(self) -> BatchLoader:
        loader = self.trainer.train_dataloader
        assert isinstance(loader, BatchLoader)
        return loader

    def configure_model(self) -> None:
        """Divide the frozen base where the strategy is to."""
        if self._device_mesh is not None:
            divide(self.transformer, self.trained.values(), self._device_mesh["data_parallel"])

    def losses(self, batch: Batch) -> Losses:
        """How wrong the model is about a batch."""
        conditions = encode(self.transformer, batch)
        made = estimate(self.transformer, batch, conditions, objective=self.objective, conditioner=self.conditioner)
        return losses_of(made, batch, self.config, of_velocities=self.transformer.spec.compares_velocities)

    def training_step(self, batch: Batch, index: int) -> dict[str, Any]:
        losses = self.losses(batch)
        shown = {name: part.detach() for name, part in {**losses.parts, "loss": losses.total}.items()}
        return {"loss": losses.total, "shown": shown, "of_clips": losses.of_clips.detach()}

    @contextmanager
    def inference_state(self) -> Generator[None]:
        """Within the block the model is what an adapter would hold: averaged weights if there are any, no dropout."""
        set_lora_dropout(self.transformer, active=False)
        try:
            with self.ema.applied(self.trained) if self.ema else nullcontext():
                yield
        finally:
            set_lora_dropout(self.transformer, active=True)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Raises UserError before a broken gradient reaches the weights."""
        if self._device_mesh is not None:
            average_gradients(self.trained.values())
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.trained.values() if p.grad is not None])
        if not torch.isfinite(norm):
            raise UserError(
                f"step {self.global_step}: the gradient is not finite ({norm.item():g}). Resume from the last "
                "checkpoint with a lower learning_rate, or check the shards (prep verify)."
            )
        self.grad_norm = norm

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm that was just taken."""
        if gradient_clip_val:
            assert self.grad_norm is not None
            torch.nn.utils.clip_grads_with_norm_(self.trained.values(), gradient_clip_val, self.grad_norm)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self.ema:
            self.ema.update(self.trained)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        config = self.config
        optimizer = make_optimizer(list(self.trained.values()), config)
        schedule = LambdaLR(optimizer, lambda step: rate_at(step, config.warmup_steps, config.max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen base out; add what else the run needs to go on bit by bit."""
        weights = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: weights[name] for name in self.trained}
        checkpoint["config"] = self.config.model_dump(mode="json")
        checkpoint["base"] = self.base_fingerprint
        checkpoint["ema"] = self.ema.averages if self.ema else {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError for a checkpoint of other weights than this run trains."""
        if checkpoint["state_dict"].keys() != self.trained.keys():
            raise UserError("the checkpoint holds other weights than this run trains. Start anew without --resume.")
        if self.ema:
            self.ema.averages, self.ema.updates = checkpoint["ema"], checkpoint["global_step"]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """LoRA's dropout alone draws from the global generator: what it draws depends on (seed, batch, rank)."""
        torch.manual_seed(seed_of(self.config.seed, "step", self._loader.handed, self.global_rank))
