"""The pages: no link or image leads nowhere, every page is in the menu, quoted figures hold."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if DOCS / "generated" not in path.parents)
LINK = re.compile(r"\]\(([^)\s]+)\)")
LARGEST_IMAGE = 150_000  # bytes


def slugs(page):
    """Return the anchors of a page: of its headings, and of the names that it documents."""
    text = page.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    headings = {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", t).strip().lower()) for t in titles}
    return headings | set(re.findall(r"^::: (\S+)", text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *PAGES], ids=lambda p: str(p.relative_to(ROOT))
)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{link} in {page}"
        assert not anchor or anchor in slugs(target), f"{link} in {page}"


def test_every_page_is_in_the_menu_once():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    menu = re.findall(r"[\w/]+\.md", yaml.safe_dump(yaml.safe_load(text)["nav"]))
    assert sorted(menu) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_every_image_is_shown_and_small():
    text = "".join(page.read_text(encoding="utf-8") for page in [ROOT / "README.md", *PAGES])
    text += "".join(page.read_text(encoding="utf-8") for page in (DOCS / "generated").rglob("*.*"))
    for image in (DOCS / "images").rglob("*.*"):
        assert image.relative_to(DOCS).as_posix() in text
        assert image.stat().st_size < LARGEST_IMAGE, image


def test_figures_quoted_in_the_tutorial_are_those_of_the_benchmark():
    quoted = re.findall(r"\d\.\d{4}", (DOCS / "tutorials" / "evaluation.md").read_text())
    rows = (DOCS / "generated" / "map_definitions.md").read_text().splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows if "|" in row]
    at_1000, sorted_by_class = ({row[0]: row[column] for row in cells} for column in (-2, -1))
    assert quoted == [
        at_1000['here, `ties="expected"`'],
        at_1000['here, `divisor="relevant"`, queries without relevant items left out'],
        at_1000['here, `ties="optimistic"`'],
        at_1000['here, `ties="pessimistic"`'],
        sorted_by_class['here, `ties="stable"`'],
        at_1000['here, `ties="stable"`'],
    ]


def test_formulas_need_no_network():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    scripts = [*config["extra_javascript"], *config["extra_css"]]
    assert [script for script in scripts if "//" in script] == []
    mathjax = DOCS / "javascripts" / "mathjax"
    assert f"javascripts/{mathjax.name}/tex-chtml.js" in scripts
    asked_for = re.findall(r"MathJax_[\w-]+\.woff", (mathjax / "tex-chtml.js").read_text("utf-8"))
    assert set(asked_for) <= {path.name for path in mathjax.rglob("*.woff")}
    assert asked_for
