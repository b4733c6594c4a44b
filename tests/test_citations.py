"""A citation in code or documents leads somewhere: the file, its heading or its numbered sections are there.

Spelled `docs/upstream.md, section 5.2`, `docs/formulation.md, sections 3 to 5` or `docs/evaluation.md#harmony`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
ROOMS = (
    "backline", "benchmarks", "common", "configs", "demo", "docs", "infer", "models", "prep", "recipe", "shards",
    "tests", "train",
)  # fmt: skip
SUFFIXES = (".py", ".md", ".json", ".html", ".toml")

NUMBER = r"\d+(?:\.\d+)*"
NUMBERS = rf"{NUMBER}(?:(?:, and|,| and| to) {NUMBER})*"
CITED = re.compile(rf"([\w./-]*\w\.md)\]?(?:\([^)]*\))?, sections? ({NUMBERS})")
"""A document and the sections of it."""
NAMED = re.compile(r"\b(docs/[\w./-]*\w\.md)(?:#([\w-]+))?")
"""A document, perhaps with a heading as links spell it."""
LINKED = re.compile(rf"\.md, section ({NUMBER})\]\([^)#]*#([\w-]+)\)")
"""A section and the heading that the link around it leads to."""
DECISION = re.compile(r"\bdocs/adr/(\d{4})\b")
ALONE = re.compile(rf"\b[Ss]ections? ({NUMBERS})")
"""Sections of no document; of the document itself where its own headings have numbers."""
ELSEWHERE = re.compile(
    r"\b(?:reference|formulation|evaluation) sections?\b|\bowner's (?:\w+ )?(?:plan|formula)|\.\./shared/(?!audio\b)",
    re.IGNORECASE,
)
"""Sources that are not in the repository."""


def texts(room: str) -> Iterator[Path]:
    """Files of a room, or those beside the rooms for ".", that may cite; all but this one."""
    found = ROOT.glob("*") if room == "." else (ROOT / room).rglob("*")
    yield from (path for path in sorted(found) if path.suffix in SUFFIXES and path != Path(__file__).resolve())


def unwrapped(text: str) -> str:
    """Its lines as one, without what a comment or a list puts at the start of a line."""
    return " ".join(re.sub(r"^\s*(?:#+ (?=[a-z])|> )?", "", line).strip() for line in text.splitlines())


def sections_in(document: Path) -> set[str]:
    """Numbers of its headings."""
    text = document.read_text(encoding="utf-8")
    return set(re.findall(rf"^#+ ({NUMBER})\.? ", text, flags=re.MULTILINE))


def headings_in(document: Path) -> set[str]:
    """Its headings as links spell them."""
    found = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def numbers_of(written: str) -> list[str]:
    """The sections that "2 to 4, 6.1 and 7" names: 2, 3, 4, 6.1 and 7."""
    found: list[str] = []
    for joint, number in re.findall(rf"(to )?({NUMBER})", written):
        if joint:
            parent, _, first = found[-1].rpartition(".")
            last = number.rpartition(".")[2]
            found += [f"{parent}.{n}" if parent else str(n) for n in range(int(first) + 1, int(last))]
        found.append(number)
    return found


def check_citations(text: str, folder: Path, own: Path | None = None) -> None:
    """Every citation in a text leads somewhere; `own` is the document that it is, if it is one."""
    text = unwrapped(text)
    assert not (found := ELSEWHERE.search(text)), f"{found[0]}: not in the repository"
    for name, anchor in NAMED.findall(text):
        assert (ROOT / name).is_file(), name
        assert not anchor or anchor in headings_in(ROOT / name), f"{name}#{anchor}"
    for number in DECISION.findall(text):
        assert list((DOCS / "adr").glob(f"{number}-*.md")), f"docs/adr/{number}"
    for name, written in CITED.findall(text):
        document = next((place / name for place in (ROOT, folder, DOCS) if (place / name).is_file()), None)
        assert document, name
        _check_sections(written, document)
    for number, anchor in LINKED.findall(text):
        assert anchor.startswith(f"{number.replace('.', '')}-"), f"section {number} leads to #{anchor}"
    for written in ALONE.findall(CITED.sub("", text)):
        assert own, f"section {written}: of which document?"
        _check_sections(written, own)


def _check_sections(written: str, document: Path) -> None:
    known = sections_in(document)
    for number in numbers_of(written):
        assert number in known, f"{document.name} has no section {number}"


@pytest.mark.parametrize("room", [".", *ROOMS])
def test_citations_lead_somewhere(room):
    for path in texts(room):
        own = path if path.suffix == ".md" and sections_in(path) else None
        try:
            check_citations(path.read_text(encoding="utf-8"), path.parent, own)
        except AssertionError as error:
            raise AssertionError(f"{path.relative_to(ROOT)}: {error}") from None


def test_what_is_cited_is_found():
    files = (path.read_text(encoding="utf-8") for room in ROOMS for path in texts(room))
    cited = [name for text in files for name, _ in CITED.findall(unwrapped(text))]
    assert cited.count("docs/upstream.md") > 20
    assert cited.count("docs/formulation.md") > 10


@pytest.mark.parametrize(
    "text",
    [
        "docs/upstream.md, section 5.2",
        "docs/upstream.md, sections 2 to 4, and docs/formulation.md, sections 3 and 5.",
        "# as docs/upstream.md,\n    # section 9 has it",
        "see docs/upstream.md, sections\n    2.4 to 2.6",
        "docs/evaluation.md#harmony",
        "[upstream.md, section 9](upstream.md#9-schedules-steps-and-guidance)",
        "docs/adr/0007",
    ],
)
def test_a_right_citation_passes(text):
    check_citations(text, DOCS)


@pytest.mark.parametrize(
    "text",
    [
        "docs/upstream.md, section 5.9",
        "docs/upstream.md, section 14",
        "docs/upstream.md, sections 12 and 14",
        "docs/upstream.md, sections 12 to 15",
        "docs/upstream.md, sections 2.5 to 2.8",
        "as docs/upstream.md,\n    section 5.9 has it",
        "# sections 3 of docs/formulation.md,\n# section 8",
        "docs/downstream.md, section 1",
        "docs/downstream.md",
        "docs/evaluation.md#melody",
        "docs/adr/0099",
        "[upstream.md, section 8](upstream.md#9-schedules-steps-and-guidance)",
        "reference section 5.2",
        "Reference\n    section 5.2",
        "formulation section 3",
        "evaluation sections 1.1 and 1.3",
        "Section 2's columns",
        "names of the owner's plan",
        "../shared/reference/formulation.md",
    ],
)
def test_a_wrong_citation_is_found(text):
    with pytest.raises(AssertionError):
        check_citations(text, DOCS)


@pytest.mark.parametrize(
    ("written", "numbers"),
    [
        ("5.2", ["5.2"]),
        ("3 and 5", ["3", "5"]),
        ("2 to 4", ["2", "3", "4"]),
        ("2.4 to 2.6, and 9", ["2.4", "2.5", "2.6", "9"]),
        ("1, 2 and 4", ["1", "2", "4"]),
    ],
)
def test_ranges_of_sections_are_spelt_out(written, numbers):
    assert numbers_of(written) == numbers
