import pytest

from common.canonical import canonical_json


def changed(fingerprint, **update):
    return fingerprint.model_copy(update=update)


def test_equal_content_has_an_equal_digest(fingerprint):
    reordered = changed(fingerprint, settings=dict(reversed(fingerprint.settings.items())))
    assert reordered.digest == fingerprint.digest
    assert len(fingerprint.digest) == 64
    assert fingerprint.short == fingerprint.digest[:8]


def test_differences_name_what_changed_and_from_what(fingerprint):
    newer = changed(
        fingerprint,
        settings={"loudness": {"target_lufs": -16.0}, "device": "cuda"},
        networks={"codec": "b" * 64},
        steps={"cut": 2},
    )
    assert newer.digest != fingerprint.digest
    assert fingerprint.differences(newer) == [
        "device was cpu, is cuda",
        "loudness.target_lufs was -14.0, is -16.0",
        "cut was 1, is 2 (code of this step)",
        "network codec was aaaaaaaa, is bbbbbbbb",
    ]
    assert fingerprint.differences(fingerprint) == []


def test_a_network_that_only_one_build_used_is_no_difference(fingerprint):
    newer = changed(fingerprint, networks={"codec": "a" * 64, "demucs": "c" * 64})
    assert fingerprint.differences(newer) == []
    assert newer.differences(fingerprint) == []
    assert newer.joined(fingerprint) == newer


def test_shards_that_are_appended_to_have_the_newer_build_and_the_networks_of_both(fingerprint):
    older = changed(fingerprint, networks={"codec": "a" * 64, "mert": "e" * 64}, steps={"cut": 0})
    newer = changed(fingerprint, networks={"codec": "b" * 64, "demucs": "c" * 64})
    both = {"codec": "b" * 64, "mert": "e" * 64, "demucs": "c" * 64}
    assert older.joined(newer) == changed(newer, networks=both)


def test_a_part_has_only_what_is_wanted_of_each_kind(fingerprint):
    whole = changed(fingerprint, networks={"codec": "a" * 64, "device": "b" * 64}, steps={"cut": 1, "device": 2})
    assert whole.part(lambda name: name == "device").model_dump() == {
        "settings": {"device": "cpu"},
        "networks": {"device": "b" * 64},
        "steps": {"device": 2},
    }


def test_a_setting_that_is_new_is_a_difference(fingerprint):
    newer = changed(fingerprint, settings={**fingerprint.settings, "gate": True})
    assert fingerprint.differences(newer) == ["gate was None, is True"]


def test_canonical_json_has_one_spelling_and_no_nan():
    assert canonical_json({"b": 1.0, "a": ["é", None]}) == '{"a":["é",null],"b":1.0}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"lufs": float("-inf")})
