"""What the tutorials show: their scripts run, and the difference of two of them is up to date.

python tests/test_tutorials.py    # writes the difference anew
"""

import difflib
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIFFERENCE = ROOT / "docs" / "generated" / "from_pml.diff"


def difference():
    """Return what changes from PML's embeddings to codes, as `diff -u` writes it."""
    names = ["examples/pml_float_embeddings.py", "examples/pml_metric_loss_only.py"]
    before, after = ((ROOT / name).read_text().splitlines(keepends=True) for name in names)
    return "".join(difflib.unified_diff(before, after, *names, n=2))


def test_the_difference_is_that_of_the_scripts():
    assert DIFFERENCE.read_text() == difference()


def test_a_million_images_are_searched(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["million_images.py", "3000"])
    for _ in range(2):  # the second time, the file is there
        runpy.run_path(str(ROOT / "examples" / "million_images.py"))
        printed = capsys.readouterr().out
        assert "3,000 codes in 28,096 bytes" in printed
        recalls = dict(re.findall(r"^(\w+): .* recall (.*)$", printed, flags=re.MULTILINE))
        assert float(recalls["exact"]) == 1
        assert float(recalls["IVF"]) > 0.9
        assert float(recalls["HNSW"]) > 0.9


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "tutorials").glob("*.md")), ids=str)
def test_no_code_is_typed_into_a_page(page):
    blocks = re.compile(r"^```(?:python|diff)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
    for code in blocks.findall(page.read_text()):
        assert re.fullmatch(r'(--8<-- "[^"\n]+"\n)+', code)


if __name__ == "__main__":
    DIFFERENCE.write_text(difference())
