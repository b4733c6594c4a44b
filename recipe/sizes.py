"""The sizes of the networks that the recipe trains: the published block types and layout, fewer and narrower."""

from models.sizes import PUBLISHED, SettingsDict, Sizes

_UNNAMED = {"_name_or_path"}  # where the published files came from; ours come from here


def _smaller(published: SettingsDict, **changes: object) -> SettingsDict:
    return {key: value for key, value in published.items() if key not in _UNNAMED} | changes


BUNDLE = Sizes(
    transformer=_smaller(
        PUBLISHED.transformer,
        attention_head_dim=32,
        inner_dim=192,
        lyric_encoder_ff=32,
        lyric_encoder_heads=4,
        lyric_encoder_layers=2,
        lyric_hidden_size=16,
        num_attention_heads=6,
        num_layers=6,
        ssl_encoder_depths=[2, 2],
    ),
    codec=_smaller(
        PUBLISHED.codec,
        decoder_block_out_channels=[16, 32, 64, 128],
        decoder_layers_per_block=[1, 1, 1, 1],
        encoder_block_out_channels=[16, 32, 64, 128],
        encoder_layers_per_block=[1, 1, 1, 1],
    ),
    vocoder={
        "head": "griffin_lim",
        "depths": [1, 1, 1, 2],
        "dims": [112, 192, 224, 224],
        "rounds": 32,
        "momentum": 0.99,
    },
    text_encoder=_smaller(
        PUBLISHED.text_encoder,
        d_ff=64,
        d_kv=32,
        dropout_rate=0.0,
        num_decoder_layers=2,
        num_heads=2,
        num_layers=2,
        vocab_size=480,
    ),
)

SEPARATOR: SettingsDict = {
    "sources": ["other", "vocals"],
    "channels": 12,
    "growth": 2,
    "depth": 4,
    "nfft": 4096,
    "dconv_comp": 4,
    "t_layers": 1,
    "t_heads": 4,
    "t_hidden_scale": 2.0,
    "samplerate": 44100,
    "segment": 4,
}
"""Arguments of the HTDemucs."""
