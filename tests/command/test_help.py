"""The help in the documentation is what the command prints.

python tests/command/test_help.py    # writes it anew
"""

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pml_hashing.command import main

DOCS = Path(__file__).parents[2] / "docs"
HELP = {name: DOCS / "generated" / f"command_{name or 'all'}.txt" for name in ("", *main.commands)}


def help_of(name):
    arguments = [*filter(None, [name]), "--help"]
    result = CliRunner().invoke(main, arguments, prog_name="pml-hashing", terminal_width=80)
    return f"$ pml-hashing {' '.join(arguments)}\n{result.output}"


@pytest.mark.parametrize("name", HELP)
def test_help_in_the_documentation_is_that_of_the_command(name):
    # Versions of click break lines at other places.
    assert HELP[name].read_text().split() == help_of(name).split()


def test_the_page_shows_all_of_it():
    page = (DOCS / "command.md").read_text()
    assert all(f'"docs/generated/{path.name}"' in page for path in HELP.values())


def test_commands_in_the_documentation_have_such_options():
    """Every `pml-hashing` line of every page and help text is parsed."""
    texts = [path.read_text() for path in [*DOCS.rglob("*.md"), *HELP.values()]]
    lines = re.findall(r"^ *(pml-hashing (?:index|search|duplicates|serve|train|evaluate).*)$",
                       "\n".join(texts), flags=re.MULTILINE)  # fmt: skip
    assert len(lines) > 20
    for line in lines:
        for part in re.findall(r"pml-hashing ([^&|#]*)", line):
            name, *arguments = part.split()
            command = main.commands[name]
            command.make_context(
                name, arguments, parent=click.Context(main, **main.context_settings)
            )


if __name__ == "__main__":
    for each, path in HELP.items():
        path.write_text(help_of(each))
