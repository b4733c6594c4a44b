"""Typed, frozen, strict configuration: JSON files hold what differs from the defaults, `--set a.b=value` the rest."""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import UserError
from common.progress import say

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
"""Configs that ship with Backline; they are found by bare name."""


SettingsDict = dict[str, Any]
"""What a network's config.json holds."""


class Config(BaseModel):
    """Base of every configuration section."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
    )

    retired: ClassVar[Mapping[str, str]] = {}
    """Settings of earlier versions that are ignored with a notice, and why."""

    @classmethod
    def check_file(cls, values: dict[str, Any]) -> None:
        """Raises ValueError for what a file may not say, although the command line may."""


AnyConfig = TypeVar("AnyConfig", bound=Config)


def load_config(kind: type[AnyConfig], source: str | Path | None, settings: Sequence[str] = ()) -> AnyConfig:
    """Read `source` (a path, a bare name in configs/, or None for the defaults), then apply `a.b=value` settings.

    Raises UserError, one line that names the key, for a missing file, bad JSON, an unknown key or a bad value.
    """
    name = "defaults" if source is None else str(source)
    values = {} if source is None else read_json(find_config(source))
    if not isinstance(values, dict):
        raise UserError(f"{name}: the file holds a {type(values).__name__}; a config is a JSON object {{...}}.")
    try:
        kind.check_file(values)
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    for setting in settings:
        apply_setting(values, setting)
    return check_config(kind, values, name)


def check_config(kind: type[AnyConfig], values: dict[str, Any], name: str) -> AnyConfig:
    """Validate `values` as JSON values (no silent conversion from text to number). `name` is quoted in the error.

    Raises UserError, one line that names the key, for an unknown key or a bad value.
    """
    if isinstance(values, dict) and (ignored := kind.retired.keys() & values):  # a damaged file may hold anything
        say(f"{name}: " + "; ".join(f"{key} is ignored ({kind.retired[key]})" for key in sorted(ignored)))
        values = {key: value for key, value in values.items() if key not in ignored}
    try:
        return kind.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise UserError(f"{name}: {_first_problem(kind, error)}") from None


def find_config(source: str | Path) -> Path:
    """The file meant by a path or by the bare name of a shipped config ("image2image_base").

    Raises UserError where there is no such file.
    """
    path = Path(source)
    candidates = [path, CONFIGS / path.name, CONFIGS / f"{path.name}.json"] if path.name == str(source) else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    shipped = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.json")))
    raise UserError(f"{source}: no such config file. Give a path, or one of the shipped names: {shipped}.")


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises UserError for one that is missing or bad, gives a key twice or holds NaN."""
    try:
        return parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from None


def parse_json(content: bytes, where: str) -> Any:
    """Parse JSON that came from `where`, in UTF-8 or UTF-16, with or without a byte order mark.

    Raises UserError for another encoding, bad JSON, a key given twice, NaN.
    """
    try:
        text = content.decode(json.detect_encoding(content))
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({_in_plain_words(error)}).") from None
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error}).") from None


def _in_plain_words(error: json.JSONDecodeError) -> str:
    """What people write that JSON has not is told by its line; the rest as the parser says it."""
    before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :]
    if after.startswith(("//", "/*", "#")):
        return f"line {error.lineno}: a comment, which JSON does not have; take it out"
    if before.endswith(",") and after.startswith(("}", "]")):
        line = before.count("\n") + 1
        return f"line {line}: a comma behind the last value, which JSON does not allow; take it out"
    return str(error)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {key!r} is given twice")
        values[key] = value
    return values


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number that a config may hold")


def leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value, of nested values."""
    found = {}
    for name, value in values.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def apply_setting(values: dict[str, Any], setting: str) -> None:
    """Put what `a.b=value` says into nested `values`. Raises UserError where it is not written so, or a is a value."""
    dotted, equals, text = setting.partition("=")
    if not equals or not dotted:
        raise UserError(f"--set {setting}: write it as NAME=VALUE.")
    *sections, last = dotted.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise UserError(f"--set {setting}: {section} is a value, not a section.")
    values[last] = _value(text.strip())


def _value(text: str) -> Any:
    """The JSON value `text` spells, else the text itself (so that --set exp_name=try2 needs no quotes)."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _first_problem(kind: type[Config], error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        names = _fields_at(kind, problem["loc"][:-1])
        near = get_close_matches(str(problem["loc"][-1]), names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}."
        return f"unknown key {where}; {hint}{more}"
    message = problem["msg"].removeprefix("Value error, ")
    got = f", got {problem['input']!r}" if where and not isinstance(problem["input"], dict) else ""
    return f"{where}: {message}{got}{more}" if where else f"{message}{more}"


def _fields_at(kind: type[Config], sections: tuple[int | str, ...]) -> list[str]:
    for section in sections:
        field = kind.model_fields.get(str(section))
        options = [] if field is None else [field.annotation, *get_args(field.annotation)]
        found = [option for option in options if isinstance(option, type) and issubclass(option, Config)]
        if not found:
            return []
        kind = found[0]
    return list(kind.model_fields)
