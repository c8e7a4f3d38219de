"""What the tutorials show: their scripts run, and the difference of two of them is up to date.

python tests/test_tutorials.py    # writes the difference anew
"""

import difflib
import re
from pathlib import Path

import click
import pytest

from pml_hashing.collection import SyncReport
from pml_hashing.command import main

ROOT = Path(__file__).parents[1]
PRINTED = sorted((ROOT / "docs" / "generated" / "tutorials").glob("*.txt"))
DIFFERENCE = ROOT / "docs" / "generated" / "from_pml.diff"


def difference():
    """Return what changes from PML's embeddings to codes, as `diff -u` writes it."""
    names = ["examples/pml_float_embeddings.py", "examples/pml_metric_loss_only.py"]
    before, after = ((ROOT / name).read_text().splitlines(keepends=True) for name in names)
    return "".join(difflib.unified_diff(before, after, *names, n=2))


def test_the_difference_is_that_of_the_scripts():
    assert DIFFERENCE.read_text() == difference()


@pytest.mark.parametrize("printed", PRINTED, ids=lambda path: path.stem)
def test_what_the_command_prints(printed):
    """`benchmarks/tutorials.py` made it: of commands that there are, and that the page shows."""
    text = printed.read_text(encoding="utf-8")
    page = (ROOT / "docs" / "tutorials" / f"{printed.stem}.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ pml-hashing (.*)$", text, flags=re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        name, *arguments = command.split()
        # Without its parent, a command remembers other names of its option for help.
        main.commands[name].make_context(
            name, arguments, parent=click.Context(main, **main.context_settings)
        )
    assert sum(f"pml-hashing {command}\n" in page for command in commands) >= 2
    counts = str(SyncReport([], [], [], [], 0, 0, [], {}, []))
    assert counts in re.sub(r"[\d,]*\d", "0", text)
    assert f'"docs/generated/tutorials/{printed.name}"' in page


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "tutorials").glob("*.md")), ids=str)
def test_no_code_is_typed_into_a_page(page):
    blocks = re.compile(r"^```(?:python|diff)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
    for code in blocks.findall(page.read_text()):
        assert re.fullmatch(r'(--8<-- "[^"\n]+"\n)+', code)


if __name__ == "__main__":
    DIFFERENCE.write_text(difference())
