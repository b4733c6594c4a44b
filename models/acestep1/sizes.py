"""Configurations of the networks as their config.json files hold them: the published sizes, and tiny ones.

The tiny networks keep the published layout, names and block types; only widths and depths differ, and the
vocoder's head (docs/adr/0007).
"""

from dataclasses import asdict, dataclass

from common.bases import ACE_STEP_1
from common.config import SettingsDict


@dataclass(frozen=True)
class Sizes:
    """One config.json per part of a checkpoint folder."""

    transformer: SettingsDict
    codec: SettingsDict
    vocoder: SettingsDict
    text_encoder: SettingsDict

    def of_parts(self) -> dict[str, tuple[SettingsDict, ...]]:
        """Under the names of the parts."""
        return {name: (getattr(self, role),) for role, name in asdict(ACE_STEP_1.parts).items()}


PUBLISHED = Sizes(
    transformer={
        "_class_name": "ACEStepTransformer2DModel",
        "_diffusers_version": "0.32.2",
        "attention_head_dim": 128,
        "in_channels": 8,
        "inner_dim": 2560,
        "lyric_encoder_vocab_size": 6693,
        "lyric_hidden_size": 1024,
        "max_height": 16,
        "max_position": 32768,
        "max_width": 32768,
        "mlp_ratio": 2.5,
        "num_attention_heads": 20,
        "num_layers": 24,
        "out_channels": 8,
        "patch_size": [16, 1],
        "rope_theta": 1000000.0,
        "speaker_embedding_dim": 512,
        "ssl_encoder_depths": [8, 8],
        "ssl_latent_dims": [1024, 768],
        "ssl_names": ["mert", "m-hubert"],
        "text_embedding_dim": 768,
    },
    codec={
        "_class_name": "AutoencoderDC",
        "_diffusers_version": "0.32.2",
        "_name_or_path": "checkpoints/music_dcae_f8c8",
        "attention_head_dim": 32,
        "decoder_act_fns": "silu",
        "decoder_block_out_channels": [128, 256, 512, 1024],
        "decoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
        "decoder_layers_per_block": [3, 3, 3, 3],
        "decoder_norm_types": "rms_norm",
        "decoder_qkv_multiscales": [[], [], [5], [5]],
        "downsample_block_type": "Conv",
        "encoder_block_out_channels": [128, 256, 512, 1024],
        "encoder_block_types": ["ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"],
        "encoder_layers_per_block": [2, 2, 3, 3],
        "encoder_qkv_multiscales": [[], [], [5], [5]],
        "in_channels": 2,
        "latent_channels": 8,
        "scaling_factor": 0.41407,
        "upsample_block_type": "interpolate",
    },
    vocoder={
        "_class_name": "ADaMoSHiFiGANV1",
        "_diffusers_version": "0.32.2",
        "depths": [3, 3, 9, 3],
        "dims": [128, 256, 384, 512],
        "drop_path_rate": 0.0,
        "f_max": 16000,
        "f_min": 40,
        "hop_length": 512,
        "input_channels": 128,
        "kernel_sizes": [7],
        "n_fft": 2048,
        "n_mels": 128,
        "num_mels": 512,
        "post_conv_kernel_size": 13,
        "pre_conv_kernel_size": 13,
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "resblock_kernel_sizes": [3, 7, 11, 13],
        "sampling_rate": 44100,
        "upsample_initial_channel": 1024,
        "upsample_kernel_sizes": [8, 8, 4, 4, 4, 4, 4],
        "upsample_rates": [4, 4, 2, 2, 2, 2, 2],
        "use_template": False,
        "win_length": 2048,
    },
    text_encoder={
        "_name_or_path": "google/umt5-base",
        "architectures": ["UMT5EncoderModel"],
        "classifier_dropout": 0.0,
        "d_ff": 2048,
        "d_kv": 64,
        "d_model": 768,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "umt5",
        "num_decoder_layers": 12,
        "num_heads": 12,
        "num_layers": 12,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "scalable_attention": True,
        "tie_word_embeddings": False,
        "tokenizer_class": "T5Tokenizer",
        "torch_dtype": "float32",
        "transformers_version": "4.44.0",
        "use_cache": True,
        "vocab_size": 256384,
    },
)

_UNNAMED = {"_name_or_path"}  # where the published files came from; ours come from here


def _smaller(published: SettingsDict, **changes: object) -> SettingsDict:
    return {key: value for key, value in published.items() if key not in _UNNAMED} | changes


TINY = Sizes(
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
"""The bundle in models/tiny/. Text states stay 768 wide: shards hold them at that width."""

TINY_SEPARATOR: SettingsDict = {
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
"""Arguments of the tiny bundle's HTDemucs."""
