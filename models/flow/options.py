"""The choices and bounds of how the vocal conditions the model, each once; without torch, for configs and commands."""

from typing import Literal

Mode = Literal["image2image", "controlnet", "context"]
ObjectiveName = Literal["bridge_vp", "bridge_lerp", "offset", "naive"]
OffsetWeight = Literal["1-s", "s", "1"]
ControlInjection = Literal["zero", "cross_norm"]

BRIDGES: frozenset[ObjectiveName] = frozenset({"bridge_vp", "bridge_lerp"})
"""Objectives that mix the vocal into x1; the others add it to the network's input."""
A_MAX = 0.3
"""Share of the vocal in x1 at strength 1, by default."""
A_MAX_LIMIT = 0.95
"""Beyond it the bridge starts from hardly any noise; at 1 all accompaniments of a vocal become one."""
