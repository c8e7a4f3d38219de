"""The pages: no link or image leads nowhere, every name and page is there, quoted figures hold.

python tests/test_docs.py    # writes the table of all names anew
"""

import importlib
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

import pml_hashing
from pml_hashing.command import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if DOCS / "generated" not in path.parents)
NAMES = DOCS / "generated" / "names.md"
LINK = re.compile(r"\]\(([^)\s]+)\)")
DOCUMENTED = re.compile(r"^::: (\S+)\n((?:    .*\n)*)", flags=re.MULTILINE)
LARGEST_IMAGE = 150_000  # bytes


def slugs(page):
    """Return the anchors of a page: of its headings, and of the names that it documents."""
    text = page.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    headings = {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", t).strip().lower()) for t in titles}
    return headings | set(re.findall(r"^::: (\S+)", text, flags=re.MULTILINE))


def documented_names():
    """Return the page of each name that stands on one with a heading of its own."""
    pages = {}
    for page in PAGES:
        for name, options in DOCUMENTED.findall(page.read_text(encoding="utf-8") + "\n"):
            if importlib.util.find_spec(name.rpartition(".")[0]) and "root_heading" not in options:
                names = [name]
            else:  # a module, or a class of which some methods are shown
                is_module = name.rpartition(".")[2].islower()
                members = re.findall(r"\bmembers: \[(.*)\]", options) if is_module else []
                names = [f"{name}.{member}" for line in members for member in line.split(", ")]
            pages.update({name: page.relative_to(DOCS).as_posix() for name in names})
    return pages


def table_of_names():
    """Return the names of every module, each with a link to where it is described."""
    modules = {}
    for name, page in documented_names().items():
        module, _, short = name.rpartition(".")
        modules.setdefault(module, []).append((short.lower(), f"[{short}]({page}#{name})"))
    rows = []
    for module, links in sorted(modules.items()):
        names = ", ".join(link for _, link in sorted(links))
        rows.append(f"| `{module.removeprefix('pml_hashing.')}` | {names} |")
    return "\n".join(["| Module | Names |", "| --- | --- |", *rows]) + "\n"


def public_names():
    """Yield every name that a module says is public; the command is no name to import."""
    for module in pkgutil.iter_modules(pml_hashing.__path__, "pml_hashing."):
        if not module.name.split(".")[1].startswith("_") and module.name != "pml_hashing.command":
            for name in getattr(importlib.import_module(module.name), "__all__", ()):
                yield f"{module.name}.{name}"


def test_every_public_name_is_on_a_page():
    pytest.importorskip("fastapi", reason="fastapi, which the module serve needs, is not installed")
    of_types = {"pml_hashing.datasets.ImageLike"}  # what `load_image` takes, which says so
    assert {*public_names()} - documented_names().keys() == of_types


def test_the_table_of_names_is_up_to_date():
    assert NAMES.read_text(encoding="utf-8") == table_of_names()


@pytest.fixture(scope="module")
def docstrings():
    """Every docstring of the package with what it is of, as the pages read it."""
    griffe = pytest.importorskip("griffe")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    options = next(plugin["mkdocstrings"] for plugin in config["plugins"] if plugin != "search")
    options = options["handlers"]["python"]["options"]
    package = griffe.load(
        "pml_hashing",
        search_paths=[ROOT],
        docstring_parser=options["docstring_style"],
        docstring_options=options["docstring_options"],
    )
    found, left = [], [package]
    while left:
        thing = left.pop()
        left += [member for member in thing.members.values() if not member.is_alias]
        found += [
            (thing, section) for section in (thing.docstring.parsed if thing.docstring else [])
        ]
    return found


def test_no_sentence_of_a_docstring_is_read_as_a_type(docstrings):
    """Under `Returns`, what stands before a colon would be one."""
    for thing, section in docstrings:
        if section.kind.value in {"returns", "yields"}:
            types = [str(item.annotation) for item in section.value]
            assert "`" not in "".join(types), thing.path
            if section.kind.value == "returns" and thing.is_function:
                assert types == [str(thing.returns)], thing.path


def test_no_attribute_has_the_type_of_the_one_before(docstrings):
    """An attribute without an annotation would: it stands before all that have one."""
    for thing, section in docstrings:
        if section.kind.value == "attributes" and thing.is_class:
            for item in section.value:
                annotation = getattr(thing.all_members.get(item.name), "annotation", None)
                assert str(item.annotation) == str(annotation), f"{thing.path}.{item.name}"


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


def commands_of(page):
    """Yield the words of every command of a page: of its blocks, and within its sentences."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```(?:bash|console)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).splitlines() + re.findall(r"`((?:python|torchrun) [^`\n]+)`", text)
    for line in lines:
        for command in line.split("&&"):
            yield shlex.split(command, comments=True)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *PAGES], ids=lambda p: str(p.relative_to(ROOT))
)
def test_commands_exist_with_their_options(page):
    shared = "".join(path.read_text() for path in (ROOT / "benchmarks").rglob("*.py"))
    for words in commands_of(page):
        if words[:1] == ["pml-hashing"]:
            command, *arguments = words[1:]
            parent = click.Context(main, **main.context_settings)
            main.commands[command].make_context(command, arguments, parent=parent)
        for script in [word for word in words if word.endswith(".py")]:
            source = (ROOT / script).read_text(encoding="utf-8")
            source += shared if script.startswith("benchmarks/") else ""  # options they share
            for option in words[words.index(script) :]:
                assert not option.startswith("--") or f'"{option}"' in source, " ".join(words)


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


if __name__ == "__main__":
    NAMES.write_text(table_of_names(), encoding="utf-8")
