"""Numbers of detectors that documents and docstrings state are those of the catalog and of the tests."""

import re
from pathlib import Path

import pytest

from oodline.detectors.catalog import CATALOG, detector_class

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (ROOT / "docs").rglob("*.md") if not {"results", "generated", "_build"} & set(page.parts)]
TEXTS = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *PAGES]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ALL = 40
"""More detectors than these are all of them."""
CLASSES = [detector_class(name) for name in CATALOG]
WORDS = {
    word: n
    for n, word in enumerate(
        ["ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"], 10
    )
}


def stated(pattern: str, paths: list[Path]) -> list[int]:
    found = [number for path in paths for number in re.findall(pattern, path.read_text())]
    return [WORDS.get(number) or int(number) for number in found]


def entries(path: str, table: str) -> list[str]:
    """Values of a dict of strings that a file assigns, one per line."""
    [body] = re.findall(rf"^{table}[^=\n]*= {{\n(.*?)^}}", (ROOT / path).read_text(), re.DOTALL | re.MULTILINE)
    return re.findall(r'^    "[^"]+": "([^"]+)"', body, re.MULTILINE)


def test_the_number_of_all_detectors():
    numbers = [
        n for n in stated(r"\b(\d+) (?:detectors|methods)\b(?! (?:tested|equal))", [*TEXTS, *SOURCES]) if n > ALL
    ]
    assert set(numbers) == {len(CATALOG)}
    assert [cls.name for cls in CLASSES if cls.paper is None] == ["band-energy"]


COMPARED = {value.partition(",")[0] for value in entries("tests/detectors/test_authors_code.py", "METHODS")}


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        (r"\b(\d+) are\s+experimental", sum(bool(cls.experimental) for cls in CLASSES)),
        (r"\b(\d+) (?:methods tested against|equal)\s+their authors", len(COMPARED)),
        (r"\bLINe and (\d+) others equal what their authors", len(COMPARED - {"line"})),
        (r"\bLINe equals its authors' code, and so do (\d+) other methods", len(COMPARED - {"line"})),
    ],
)
def test_other_numbers(pattern, number):
    assert set(stated(pattern, [*TEXTS, ROOT / "docs" / "results" / "exact.md"])) == {number}


def test_the_number_of_candidates_for_the_default():
    numbers = stated(rf"\bout of ({'|'.join(WORDS)}) detectors", SOURCES)
    assert numbers == [len(entries("benchmarks/studies/default_members.py", "POOL"))]
