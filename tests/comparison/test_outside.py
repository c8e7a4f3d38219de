"""A loss from outside takes part by its name; what is wrong with the name is said."""

import sys
from functools import partial

import pytest
import retrieval
import torch
from comparison.methods import METHODS, find_method
from comparison.networks import Recipe, make_loss
from comparison.outside import load_loss
from comparison.results import read_records
from PIL import Image
from processes import run_script
from tasks import make_task
from torch import nn

from pml_hashing import CodeBank, HashingModel
from pml_hashing.losses import ADSHLoss, CSQLoss, DiscreteLoss, DSAHLoss

MODULE = """
import helper_of_{name}
from torch import nn
from pml_hashing.losses import CSQLoss, DSAHLoss

NUMBER = 3

class Mine(nn.Module):
    def __init__(self, num_classes, code_length):
        super().__init__()

    def forward(self, codes, labels):
        return ((1 - codes.abs()) ** 2).mean()

class Group:
    Inner = CSQLoss
"""


@pytest.fixture
def folder(tmp_path, monkeypatch, request):
    """The current folder, with a module of a name that no other test has."""
    monkeypatch.chdir(tmp_path)
    name = f"module_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("{name}", name))
    (tmp_path / f"helper_of_{name}.py").write_text("")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    return tmp_path


@pytest.fixture
def module(folder):
    (path,) = folder.glob("module_*.py")
    return path.stem


def test_a_module_of_the_current_folder(module):
    assert load_loss(f"{module}:Mine").__name__ == "Mine"
    assert load_loss(f"{module}:Group.Inner") is CSQLoss
    assert load_loss("pml_hashing.losses:ADSHLoss") is ADSHLoss


def test_the_current_folder_goes_before_the_scripts_own(folder):
    (folder / "map_definitions.py").write_text("class Mine:\n    pass\n")  # also in benchmarks/
    try:
        assert load_loss("map_definitions:Mine").__name__ == "Mine"
    finally:
        del sys.modules["map_definitions"]
    assert sys.path[0] != str(folder)


@pytest.mark.parametrize("name", ["", "Mine", "m:", ":Mine", "a:b:c", "m/n.py:Mine", "m.:A", "1:A"])
def test_another_form(name):
    with pytest.raises(ValueError, match="a module and a loss in it, such as my_module:MyLoss"):
        load_loss(name)


def test_no_such_module(folder, module):
    with pytest.raises(ValueError, match=rf"installed or stands in {folder}, got 'nowhere' \(No"):
        load_loss("nowhere:Mine")
    with pytest.raises(ValueError, match=r"got 'pml_hashing\.nowhere'"):
        load_loss("pml_hashing.nowhere:Mine")
    with pytest.raises(ValueError, match=r"leave out \.py"):
        load_loss(f"{module}.py:Mine")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nowhere", "raises ModuleNotFoundError: No module named 'nowhere'"),
        ("raise ImportError('too old')", "raises ImportError: too old"),
        ("class:", "raises SyntaxError: invalid syntax"),
        ("1 / 0", "raises ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('usage: ...')", "raises SystemExit: usage: ..."),
    ],
)
def test_a_module_that_fails(code, message, folder):
    (folder / "failing_module.py").write_text(code)
    with pytest.raises(ValueError, match=rf"imported, got 'failing_module', which {message}"):
        load_loss("failing_module:Mine")


def test_no_such_attribute(module):
    with pytest.raises(ValueError, match=rf"{module}\.py defines Mine, Group\.$"):
        load_loss(f"{module}:Yours")
    with pytest.raises(ValueError, match=r"got none .*has no attribute 'Yours'"):
        load_loss(f"{module}:Group.Yours")
    with pytest.raises(ValueError, match=r"a class or a function in .*got an object of int"):
        load_loss(f"{module}:NUMBER")
    with pytest.raises(ValueError, match="sys defines"):
        load_loss("sys:Mine")


class Sized(nn.Module):
    def __init__(self, num_classes, code_length, **options):
        super().__init__()
        self.given = {"num_classes": num_classes, "code_length": code_length, **options}


class Seeded(nn.Module):
    def __init__(self, code_length, seed):
        super().__init__()
        self.seed = seed


class Kin(DSAHLoss):
    def __init__(self, **options):
        super().__init__(collect_stats=True, **options)


class WithoutSizes(nn.Module):
    pass


def function(num_classes, code_length, code_bank=None, **options):
    assert not options
    return DSAHLoss(num_classes, code_length, code_bank=code_bank)


def all_options(**options):
    return Sized(**options)


SIZES = {"num_classes": 4, "code_length": 8}


def test_a_loss_is_given_what_it_has_as_arguments():
    task = make_task()
    assert make_loss(Recipe(Sized), task).given == SIZES
    assert make_loss(Recipe(all_options), task).given == SIZES
    assert make_loss(Recipe(partial(all_options, weight=2)), task).given == SIZES | {"weight": 2}
    assert make_loss(Recipe(Seeded), task).seed == 0
    assert isinstance(make_loss(Recipe(WithoutSizes), task), WithoutSizes)


@pytest.mark.parametrize("loss", [DSAHLoss, Kin, function, partial(DSAHLoss, collect_stats=True)])
def test_a_loss_with_discrete_variables_has_a_bank(loss):
    task = make_task()
    loss_func = make_loss(Recipe(loss), task)
    assert isinstance(loss_func, DiscreteLoss)
    assert isinstance(loss_func.code_bank, CodeBank)
    assert len(loss_func.code_bank) == len(task.split.training)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda num_classes, margin: Sized(1, margin), "missing a required argument: 'margin'"),
        (lambda num_classes, /: Sized(num_classes, 1), "missing a required .*'num_classes'"),
        (lambda num_classes: num_classes, "to return a torch.nn.Module, got int"),
        (int, r"Expected a loss that .*got int|Expected int to return"),
    ],
)
def test_what_is_no_loss(loss, message):
    with pytest.raises(TypeError, match=message):
        make_loss(Recipe(loss), make_task())


@pytest.mark.parametrize("name", ["CSQ", "DSAH"])
def test_a_loss_of_the_library_by_its_place_is_the_same_method(name):
    task = make_task(epochs=2)
    inside, outside = (
        find_method(method)(task).database(task.split.database)
        for method in (name, f"pml_hashing.losses:{name}Loss")
    )
    assert torch.equal(inside, outside)


def test_all_names_are_methods():
    assert all(find_method(name) is METHODS[name] for name in METHODS)


def test_the_command_compares_it(tmp_path):
    """In processes of their own, as a user runs it: these find the module, too."""
    for number, color in enumerate(["red", "blue"] * 20):
        (tmp_path / "photos" / color).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), color).save(tmp_path / "photos" / color / f"{number}.png")
    torch.save(HashingModel("test_resnet", 8, img_size=32).trunk.state_dict(), tmp_path / "w.pt")
    (tmp_path / "losses.py").write_text(  # benchmarks/losses.py is another module
        MODULE.replace("import helper_of_{name}", "import helper_of_mine")
        + "\n\ndef Factory(num_classes, code_length, code_bank):\n"
        "    return DSAHLoss(num_classes, code_length, code_bank=code_bank)\n"
    )
    (tmp_path / "helper_of_mine.py").write_text("")
    command = ["--dataset", "photos", "--methods"]
    command += ["--loss", "losses:Mine", "losses:Factory", "--backbone", "test_resnet"]
    command += ["--checkpoint", "w.pt", "--img-size", "32", "--code-lengths", "8"]
    command += ["--seeds", "1", "--epochs", "1", "--batch-size", "16"]
    done = run_script(retrieval.__file__, *command, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "| losses:Mine |" in done.stdout
    records = read_records(tmp_path / "outputs" / "comparison" / "results.jsonl")
    assert [record["method"] for record in records] == ["losses:Mine", "losses:Factory"]
