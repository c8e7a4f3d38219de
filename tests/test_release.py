"""What a release says of itself: versions, and whom to cite.

python tests/test_release.py    # writes the table of versions anew, of what is installed
"""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import pml_hashing
from pml_hashing import losses

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "generated" / "versions.md"
BASES = (losses.BaseHashingLoss, losses.DiscreteLoss)
PAPERS = {
    paper["notes"]: paper
    for paper in yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
}
TERMS_OF_DSAH = {
    "AffinityGraphLoss",
    "ClassStructureQuantizationLoss",
    "DualSemanticRegressionLoss",
}


def lowest_versions():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in project["dependencies"])


def test_the_lowest_versions_are_those_of_the_package():
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| \d[\w.+]* \|$", TABLE.read_text(), re.MULTILINE)
    assert dict(rows) == lowest_versions()


def test_a_version_is_one_everywhere():
    changes = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", changes, re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert newest[1] == cited == pml_hashing.__version__


def test_every_method_has_its_paper():
    names = [name for name in losses.__all__ if issubclass(getattr(losses, name), BASES)]
    assert PAPERS.keys() == {*names} - TERMS_OF_DSAH - {base.__name__ for base in BASES}


@pytest.mark.parametrize("name", PAPERS)
def test_the_paper_is_that_of_the_docstring(name):
    text = " ".join(getattr(losses, name).__doc__.split())
    assert PAPERS[name]["url"] in text
    assert PAPERS[name]["title"] in text


if __name__ == "__main__":
    rows = [f"| {name} | {low} | {version(name)} |" for name, low in lowest_versions().items()]
    TABLE.write_text("\n".join(rows) + "\n")
