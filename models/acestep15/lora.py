"""A LoRA of ACE-Step 1.5 under the names that its own tools read: those of the original layout's layers."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from models.acestep15.network import AceStep15Network

PREFIXES = {"peft": "base_model.model.", "comfyui": "diffusion_model."}
"""What stands before the names of the layers: PEFT's adapter_model.safetensors, and ComfyUI's file."""
RENAMED = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "o_proj"}
"""Layers of diffusers' attention, and what the original layout calls them."""


def original_lora(weights: Mapping[str, Tensor], layout: Literal["peft", "comfyui"]) -> dict[str, Tensor]:
    """Weights that `save_lora` wrote, at scale 1, as a tool of that layout names them."""
    return {f"{PREFIXES[layout]}{_original_name(name)}": weight for name, weight in weights.items()}


def _original_name(name: str) -> str:
    layer, _, kind = name.removeprefix(AceStep15Network.adapted_prefix).partition(".lora_")
    for ours, theirs in RENAMED.items():
        if layer.endswith(f".{ours}"):
            layer = layer.removesuffix(ours) + theirs
    return f"{layer}.lora_{kind}"
