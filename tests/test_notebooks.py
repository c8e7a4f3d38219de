"""Notebooks: they run, they are kept without outputs, and the page that shows one is up to date.

python tests/test_notebooks.py    # writes the page anew
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(
    path for room in ("examples", "docs", "benchmarks") for path in (ROOT / room).rglob("*.ipynb")
)
FROM_PML = ROOT / "examples" / "from_pml_to_codes.ipynb"
SHOWN = ROOT / "docs" / "generated" / "from_pml_to_codes.md"


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def as_markdown(path):
    """Return text and code of a notebook, as part of a page: headings one level lower, no title."""
    parts = []
    for number, cell in enumerate(cells(path)):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            source = f"```python\n{source}\n```"
        elif number == 0:
            source = source.partition("\n")[2].strip()
        parts.append(re.sub(r"^## ", "### ", source) if cell["cell_type"] == "markdown" else source)
    return "\n\n".join(parts) + "\n"


def test_there_is_a_notebook():
    assert FROM_PML in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_without_outputs(path):
    for cell in cells(path):
        assert not cell.get("outputs"), f"clear the outputs of {path.name} before you commit it"
        assert cell.get("execution_count") is None
        assert cell["metadata"] == {}
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert metadata.keys() == {"kernelspec", "language_info"}
    assert metadata["language_info"] == {"name": "python"}  # not the version of who wrote it


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    reason = "nbclient and ipykernel, which run notebooks, are not installed"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    notebook = pytest.importorskip("nbformat", reason=reason).read(path, 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(of["text"] for of in outputs if of.get("name") == "stdout")
    assert not [of for of in outputs if of["output_type"] == "error"]
    if path == FROM_PML:
        scores = [float(score) for score in re.findall(r"mAP (\d\.\d+)", printed)]
        assert len(scores) == 3
        assert min(scores) > 0.9
        assert "the same: True" in printed
        assert any("image/png" in of.get("data", {}) for of in outputs)
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_the_page_shows_it_as_it_is():
    assert SHOWN.read_text(encoding="utf-8") == as_markdown(FROM_PML)
    page = (ROOT / "docs" / "tutorials" / "from_pml.md").read_text(encoding="utf-8")
    assert f'"docs/generated/{SHOWN.name}"' in page


if __name__ == "__main__":
    SHOWN.write_text(as_markdown(FROM_PML), encoding="utf-8")
