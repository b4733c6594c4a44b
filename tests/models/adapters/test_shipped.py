"""The adapter inside Backline: whole, small, for the tiny base as it is, and for no other."""

from models.adapters.adapter import open_adapter, read_card
from models.adapters.shipped import SHIPPED, shipped_adapters
from models.loading.acestep1 import open_transformer
from models.loading.checkpoint import TINY, part_hash, spec_of

MOST_BYTES = 8 * 10**6


def test_it_opens_on_the_tiny_base_and_takes_a_lead_sheet(capsys):
    (folder,) = shipped_adapters(None)
    assert "the one inside Backline" in capsys.readouterr().err
    assert shipped_adapters("tiny") == (folder,)
    base = part_hash(TINY, spec_of(TINY).parts.transformer)
    adapter = open_adapter(folder, open_transformer(TINY), weight=1.0, base_fingerprint=base)
    assert adapter.card.conditioning.mode == "controlnet"
    assert adapter.card.conditioning.lead_sheet is not None
    assert adapter.card.sampler.vocal_guidance_scale == 2.5


def test_the_codec_and_texts_of_its_training_are_those_of_the_bundle():
    networks = read_card(SHIPPED / "controlnet").networks
    for part in spec_of(TINY).parts.encoders:
        assert networks[part] == part_hash(TINY, part)


def test_no_other_base_has_one():
    assert shipped_adapters("ACE-Step/ACE-Step-v1-3.5B") == ()


def test_they_are_small():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) <= MOST_BYTES
