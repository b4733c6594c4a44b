"""Names of weights in the original layout's file, and what our network, made of diffusers', calls them."""

import re

RENAMED = (
    (r"^decoder\.", "transformer."),
    (r"^encoder\.", "condition_encoder."),
    (r"^null_condition_emb$", "condition_encoder.null_condition_emb"),
    (r"\.proj_(in|out)\.1\.", r".proj_\1_conv."),
    (r"_attn\.([qkv])_proj\.", r"_attn.to_\1."),
    (r"_attn\.o_proj\.", "_attn.to_out.0."),
    (r"_attn\.([qk])_norm\.", r"_attn.norm_\1."),
)
"""Names in the original layout's file, as patterns, and what diffusers' networks call them."""
ORIGINAL_NAMES = (
    (r"^transformer\.", "decoder."),
    (r"^condition_encoder\.null_condition_emb$", "null_condition_emb"),
    (r"^condition_encoder\.", "encoder."),
    (r"\.proj_(in|out)_conv\.", r".proj_\1.1."),
    (r"_attn\.to_([qkv])\.", r"_attn.\1_proj."),
    (r"_attn\.to_out\.0\.", "_attn.o_proj."),
    (r"_attn\.norm_([qk])\.", r"_attn.\1_norm."),
)
"""The same backwards."""


def diffusers_name(name: str) -> str:
    """What our network calls a weight of the original layout's file."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def original_name(name: str) -> str:
    """What the original layout's file calls a weight of our network."""
    for pattern, replacement in ORIGINAL_NAMES:
        name = re.sub(pattern, replacement, name)
    return name
