"""Bands of ACE-Step 1.5: from files and from shards, on another variant than an adapter was trained on, in windows."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.audio.wave import read_audio
from common.bases import ACE_STEP_15, BaseOrigin
from common.errors import UserError
from infer.band.generate import generate
from infer.request.request import GenerationRequest
from models.adapters.adapter import read_card
from models.loading.checkpoint import BUNDLES, open_transformer

FRAMES = 30  # of the song in the shards
BASE, TURBO = BUNDLES["tiny15"], BUNDLES["tiny15-turbo"]
PART = ACE_STEP_15.parts.transformer


def made(folder: Path, **flags) -> tuple[np.ndarray, dict]:
    """A band [2, N], and its record."""
    found = generate(GenerationRequest(output_dir=folder, **flags))
    return read_audio(found.accompaniments[0]).samples, json.loads(found.record.read_text())


def test_a_band_of_shards_depends_on_the_vocal_and_opens_no_encoder(tmp_path, second_shards, second_adapter, opened):
    flags = {"adapters": (second_adapter,), "shards": second_shards, "key": "ballad"}
    band, record = made(tmp_path / "one", ref_strength=1.0, **flags)
    assert band.shape == (2, FRAMES * 1920)
    assert (record["rate_hz"], record["checkpoint_dir"]) == (48_000, "tiny15")
    assert (record["settings"]["sampler"]["steps"], record["settings"]["sampler"]["shift"]) == (2, 1.0)
    assert set(opened) == {"infer.band.session.open_transformer", "infer.band.session.open_decoder"}
    for number, change in enumerate(({"ref_strength": 0.5}, {"ref_strength": 1.0, "lyrics_content": "instrumental"})):
        other, _ = made(tmp_path / f"other{number}", **flags, **change)
        assert np.abs(other - band).max() > 1e-3


def test_an_adapter_of_base_plays_on_turbo_in_eight_passes_and_says_so(
    tmp_path, second_shards, second_adapter, monkeypatch, capsys
):
    passes = []
    decode = type(open_transformer(TURBO)).decode
    monkeypatch.setattr(
        "models.acestep15.network.AceStep15Network.decode",
        lambda self, *args, **flags: passes.append(1) or decode(self, *args, **flags),
    )
    flags = {"shards": second_shards, "key": "ballad", "ref_strength": 1.0, "checkpoint_dir": "tiny15-turbo"}
    band, record = made(tmp_path / "turbo", adapters=(second_adapter,), **flags)
    assert len(passes) == 8
    assert record["settings"]["sampler"]["shift"] == 3.0
    assert (
        f"{second_adapter}: trained on base of ace-step-1.5, tiny15-turbo is turbo; sampled as turbo is: "
        "steps 8 (not 2), shift 3 (not 1), guidance_scale 1 (not 7).\n"
    ) in capsys.readouterr().err
    bare, record = made(tmp_path / "bare", adapters=(), **flags)
    assert (len(passes), record["settings"]["sampler"]["steps"]) == (16, 8)
    assert np.abs(bare - band).max() > 1e-3


def test_a_vocal_from_a_file_keeps_its_length_at_48_khz(tmp_path, vocal_file, second_adapter):
    band, record = made(
        tmp_path / "out", adapters=(second_adapter,), vocal=vocal_file, prompt="piano, 112bpm", infer_steps=1
    )
    assert band.shape == (2, round(soundfile.info(vocal_file).duration * 48_000))
    assert (record["prompt"], record["lyrics"]) == ("piano, 112bpm", "[Instrumental]")
    assert record["base"]["model"] == "ace-step-1.5"


def test_a_song_over_the_limit_goes_through_in_windows(tmp_path, second_shards, second_adapter, monkeypatch):
    flags = {
        "adapters": (second_adapter,),
        "shards": second_shards,
        "key": "ballad",
        "ref_strength": 1.0,
        "infer_steps": 1,
    }
    whole, _ = made(tmp_path / "whole", **flags)
    lengths = set()
    decode = type(open_transformer(BASE)).decode

    def counted(self, latents, *args, **options):
        lengths.add(latents.shape[-1])
        return decode(self, latents, *args, **options)

    monkeypatch.setattr("models.acestep15.network.AceStep15Network.decode", counted)
    monkeypatch.setattr("common.bases.BaseSpec.longest_frames", 20)
    band, _ = made(tmp_path / "windows", **flags)
    assert max(lengths) <= 20
    assert band.shape == whole.shape
    assert np.isfinite(band).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint_dir": "tiny"}, r"adapter: is of ace-step-1\.5, tiny is of ace-step-1\. Use the checkpoint"),
        ({"preserve_low": True}, r"--preserve-low: latents of ace-step-1\.5 have no rows for low and high"),
        ({"lyrics_language": "English"}, r'lyrics language "English" is not a code such as en or ja'),
        ({"erg": True}, r"erg: ace-step-1\.5 has no entropy rectifying guidance\. Set erg to false\."),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(tmp_path, second_shards, second_adapter, changes, message):
    blend = {"blend": second_shards} if "preserve_low" in changes else {}
    request = GenerationRequest(
        adapters=(second_adapter,), shards=second_shards, key="ballad", output_dir=tmp_path, **changes, **blend
    )
    with pytest.raises(UserError, match=message) as raised:
        generate(request)
    assert "\n" not in str(raised.value)


def test_shards_of_one_base_are_refused_with_an_adapter_of_another(tmp_path, second_shards, make_adapter):
    first = make_adapter()
    request = GenerationRequest(adapters=(first,), shards=second_shards, key="ballad", output_dir=tmp_path)
    with pytest.raises(UserError, match=r"shards: is of ace-step-1\.5, .* is of tiny\. Give one that goes with it\.$"):
        generate(request)


def test_the_variant_of_its_training_stands_in_an_adapters_card(second_adapter):
    expected = BaseOrigin(model="ace-step-1.5", variant="base", family="tiny15", checkpoint="tiny15")
    assert read_card(second_adapter).base == expected
