import json
from collections.abc import Mapping
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Config, check_config, load_config, parse_json
from common.errors import UserError


class Inner(Config):
    r: int = 4
    """Rank."""


class Outer(Config):
    lora: Inner = Inner()
    rate: float = 1.0
    name: str = "x"
    layers: tuple[int, ...] = ()


def written(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_settings_override_the_file_with_types_checked(tmp_path):
    config = load_config(
        Outer, written(tmp_path, {"rate": 2}), ["lora.r=64", "name=try2", "layers=[0, 4]", "rate=1e-4"]
    )
    assert config == Outer(lora=Inner(r=64), rate=1e-4, name="try2", layers=(0, 4))


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ({"lora": {"rr": 1}}, [], "{path}: unknown key lora.rr; did you mean r?"),
        ({"zzz": 1}, [], "{path}: unknown key zzz; known: lora, rate, name, layers."),
        ({}, ["lora.r=many"], "{path}: lora.r: Input should be a valid integer, got 'many'"),
        ({}, ["lora.r"], "--set lora.r: write it as NAME=VALUE."),
        ({}, ["rate.x=1", "rate.y=2"], "{path}: rate: Input should be a valid number"),
        ('{"rate": 1, "rate": 2}', [], "{path}: not valid JSON (key 'rate' is given twice)."),
        ('{"rate": NaN}', [], "{path}: not valid JSON (NaN is not a number that a config may hold)."),
        (
            '{\n  "rate": 1,\n  "layers": [0, 4,\n  ]\n}',
            [],
            "{path}: not valid JSON (line 3: a comma behind the last value, which JSON does not allow; take it out).",
        ),
        (
            '{\n  "rate": 1,\n\n}',
            [],
            "{path}: not valid JSON (line 2: a comma behind the last value, which JSON does not allow; take it out).",
        ),
        (
            '{\n  "rate": 1  // fast\n}',
            [],
            "{path}: not valid JSON (line 2: a comment, which JSON does not have; take it out).",
        ),
        (
            '{"rate": 1} # fast',
            [],
            "{path}: not valid JSON (line 1: a comment, which JSON does not have; take it out).",
        ),
        (
            '/* fast */ {"rate": 1}',
            [],
            "{path}: not valid JSON (line 1: a comment, which JSON does not have; take it out).",
        ),
        ('{"rate" 1}', [], "{path}: not valid JSON (Expecting ':' delimiter: line 1 column 9 (char 8))."),
        ("[]", [], "{path}: the file holds a list; a config is a JSON object {{...}}."),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(tmp_path, text, settings, message):
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_config(Outer, path, settings)
    assert str(caught.value) == message.format(path=path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_whatever_an_editor_saves_is_read(tmp_path, encoding):
    (tmp_path / "c.json").write_text('{"name": "夏の歌"}', encoding=encoding)
    assert load_config(Outer, tmp_path / "c.json").name == "夏の歌"


def test_another_encoding_is_told(tmp_path):
    (tmp_path / "c.json").write_text('{"name": "夏の歌"}', encoding="shift_jis")
    with pytest.raises(UserError, match=r"c\.json: not UTF-8 \(byte 10\)\. Save it as UTF-8\.$"):
        load_config(Outer, tmp_path / "c.json")


@given(values=st.dictionaries(st.text(), st.text() | st.lists(st.text() | st.integers())))
def test_text_that_looks_like_a_comment_or_a_comma_is_text(values):
    assert parse_json(json.dumps(values, ensure_ascii=False, indent=1).encode(), "c.json") == values


class Aged(Outer):
    retired: ClassVar[Mapping[str, str]] = {"speed": "nothing has one"}


def test_a_retired_setting_is_ignored_with_one_line(capsys):
    assert check_config(Aged, {"speed": 3}, "old.json") == Aged()
    assert capsys.readouterr().err == "old.json: speed is ignored (nothing has one)\n"


@pytest.mark.parametrize("kind", [Outer, Aged])
@pytest.mark.parametrize("values", [[], [["speed"]], ["speed"], "speed", 5, None])
def test_what_is_no_object_is_one_line(kind, values):
    with pytest.raises(UserError, match=r"^damaged\.json: [^\n]+$"):
        check_config(kind, values, "damaged.json")


def test_a_missing_file_lists_the_shipped_names(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such config file"):
        load_config(Outer, "nowhere")
