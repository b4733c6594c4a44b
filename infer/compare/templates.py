"""The pages of infer from the templates in assets/, and what stands in them as it is: style, script and data."""

import json
import re
from pathlib import Path
from typing import Any

from common.pages import page_templates

ASSETS = Path(__file__).with_name("assets")
TEMPLATES = page_templates(ASSETS)


def fill(template: str, **values: Any) -> str:
    """A page from its template, with the style that all share."""
    return TEMPLATES.get_template(template).render(style=asset("page.css"), **values)


def asset(name: str) -> str:
    """A file that ships with the page."""
    return (ASSETS / name).read_text(encoding="utf-8")


def inline_json(data: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or starts another."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)
