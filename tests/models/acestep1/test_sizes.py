"""Published configs are the published files' own; networks built from them have the published weights."""

import gzip
import json

import pytest
import torch

from models.acestep1.codec.codec import Codec, CodecConfig
from models.acestep1.codec.vocoder import Vocoder, VocoderConfig
from models.acestep1.codec.vocoder import stored_shapes as stored_vocoder_shapes
from models.acestep1.sizes import PUBLISHED, TINY
from models.acestep1.text.encoder import build_network
from models.acestep1.text.encoder import stored_shapes as stored_text_shapes
from models.loading.checkpoint import TINY as TINY_FOLDER
from models.loading.weights import network_config, shapes_of

PARTS = {
    "ace_step_transformer": "transformer",
    "music_dcae_f8c8": "codec",
    "music_vocoder": "vocoder",
    "umt5-base": "text_encoder",
}


@pytest.fixture(scope="module")
def published_shapes() -> dict[str, dict[str, tuple[int, ...]]]:
    """Per part, the names and shapes in the published file."""
    path = TINY_FOLDER.parents[1] / "tests" / "goldens" / "published_manifest.json.gz"
    manifest = json.loads(gzip.decompress(path.read_bytes()))
    return {part: {name: tuple(shape) for name, shape in manifest[part]["tensors"].items()} for part in PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_published_config_is_the_published_file(goldens_folder, part):
    published = json.loads((goldens_folder / "published" / part / "config.json").read_text(encoding="utf-8"))
    assert getattr(PUBLISHED, PARTS[part]) == published


@pytest.mark.parametrize("part", PARTS)
def test_tiny_config_is_the_bundles_file(part):
    shipped = json.loads((TINY_FOLDER / part / "config.json").read_text(encoding="utf-8"))
    assert getattr(TINY, PARTS[part]) == shipped


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_published_codec_half_has_the_published_weights(published_shapes, half):
    with torch.device("meta"):
        config = network_config(CodecConfig, PUBLISHED.codec, "published")
        codec = Codec(config, encoder=half == "encoder", decoder=half == "decoder")
    expected = published_shapes["music_dcae_f8c8"]
    assert shapes_of(codec) == {name: shape for name, shape in expected.items() if name.startswith(half)}


def test_published_vocoder_has_the_published_weights_and_tables(published_shapes):
    with torch.device("meta"):
        vocoder = Vocoder(network_config(VocoderConfig, PUBLISHED.vocoder, "published"))
    assert stored_vocoder_shapes(vocoder) == published_shapes["music_vocoder"]


def test_published_text_encoder_has_the_published_weights(published_shapes, tmp_path):
    network = build_network(PUBLISHED.text_encoder, tmp_path)
    assert stored_text_shapes(network) == published_shapes["umt5-base"]
