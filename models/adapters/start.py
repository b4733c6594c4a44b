"""Training that starts from an adapter: its weights in a fresh one of the same shape."""

from pathlib import Path
from typing import Any

from common.config import leaves
from common.errors import UserError
from models.adapters.adapter import AdapterCard, LoraCard, load_conditioner, read_card
from models.adapters.conditioning import AdapterConditioner, Conditioning
from models.adapters.lora import load_trained_lora
from models.flow.lead_sheet import VocalAndLeadSheet
from models.protocols import FlowNetwork


def start_from(
    folder: Path,
    transformer: FlowNetwork,
    conditioner: AdapterConditioner | None,
    *,
    lora: LoraCard,
    conditioning: Conditioning,
    base_fingerprint: str,
) -> AdapterCard:
    """Give the attached adapter, of shape `lora`, and its conditioner the weights of the adapter in `folder`.

    A lead sheet encoder that only the new one has stays fresh. The card of the old one comes back.
    Raises UserError where base or shape differ, naming every difference, and for a folder that is not whole.
    """
    card = read_card(folder)
    if card.base_fingerprint != base_fingerprint:
        raise UserError(
            f"{folder}: cannot start from it: made for the base {card.base_fingerprint[:8]}, this one is "
            f"{base_fingerprint[:8]}. Give the --checkpoint-dir that it was trained with."
        )
    if card.lora is None:
        raise UserError(f"{folder}: cannot start from it: its LoRA is merged into the base. Give the adapter itself.")
    inherited = conditioner
    if card.conditioning.lead_sheet is None and isinstance(conditioner, VocalAndLeadSheet):
        conditioning, inherited = conditioning.model_copy(update={"lead_sheet": None}), conditioner.vocal
    if found := _differences(card, lora, conditioning):
        raise UserError(
            f"{folder}: cannot start from it: {'; '.join(found)}. Give the --config that it was trained with."
        )
    load_conditioner(inherited, folder)
    load_trained_lora(transformer, folder)
    return card


def _differences(card: AdapterCard, lora: LoraCard, conditioning: Conditioning) -> list[str]:
    """What makes an adapter another network than this one, each as one phrase."""
    assert card.lora is not None
    pairs = {"lora": (card.lora, lora), "conditioning": (card.conditioning, conditioning)}
    found: list[str] = []
    for group, (old, new) in pairs.items():
        there, here = (leaves(each.model_dump(mode="json")) for each in (old, new))
        found += [
            f"{group}.{name} is {_shown(there.get(name))} there and {_shown(here.get(name))} here"
            for name in sorted(there.keys() | here.keys())
            if there.get(name) != here.get(name)
        ]
    return found


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value}"
