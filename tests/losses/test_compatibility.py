"""The table of docs/losses/compatibility.md is what is so, and says what it shall."""

import pytest
from compatibility import COLUMNS, NAMES, PAGE, to_markdown


def test_the_page_is_what_the_checks_find():
    assert PAGE.read_text(encoding="utf-8") == to_markdown()


@pytest.mark.parametrize("name", NAMES)
def test_one_rule_for_all(name):
    found = {column: check(name) for column, check in COLUMNS.items()}
    if found["Code bank"] == "yes" or found["Miner"] == "weighs samples":
        assert found["CrossBatchMemory, SelfSupervisedLoss"] == "no"
    else:
        assert found["CrossBatchMemory, SelfSupervisedLoss"] == "yes"
    assert found["Several labels"] == "yes"
    assert found["Reducers of PML"] == "all but ClassWeighted (several labels), Divisor"
