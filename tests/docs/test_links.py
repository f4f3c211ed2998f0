"""Links of the documents lead somewhere, and the index names every page."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
INDEX = ROOT / "docs" / "index.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def outside_fences(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def links(path):
    """Targets of Markdown links and of HTML images, but not those on other servers."""
    text = re.sub(r"`[^`\n]*`", "", outside_fences(path.read_text()))
    found = re.findall(r"\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"", text)
    return [a or b for a, b in found if not re.match(r"https?:", a or b)]


def anchors(path):
    """Anchors of a page's headings, as GitHub derives them."""
    headings = re.findall(r"^#+ (.+)$", outside_fences(path.read_text()), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(path):
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_names_every_page():
    named = {(INDEX.parent / link).resolve() for link in links(INDEX)}
    pages = {*PAGES, *(ROOT / "docs").glob("*.ipynb")}
    assert pages - {INDEX} <= named


def test_every_proof_of_the_readme_is_a_link():
    text = (ROOT / "README.md").read_text()
    section = text.partition("\n## Why this one\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (.+) \|$", section, re.MULTILINE)[1:]
    assert len(rows) >= 5
    for claim, proof in rows:
        assert re.search(r"\]\((tests|docs|benchmarks/results)/", proof), claim


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    path = tmp_path / "page.md"
    path.write_text("# A heading\n[one](other.md#part) ![two](two.png) `[no](link)`\n")
    assert links(path) == ["other.md#part", "two.png"]
    assert anchors(path) == ["a-heading"]
