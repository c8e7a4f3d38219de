"""Scripts in processes of their own that start at once: forked from one that has imported much.

A new interpreter takes seconds to import PyTorch, and there would be dozens. This is for scripts
whose imports are not what is tested.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from strict import OF_FAISS

CONTEXT = multiprocessing.get_context("forkserver")
"""Of all processes of all tests: there is one server, which imports what was asked for last."""
CONTEXT.set_forkserver_preload(
    [
        *("faiss", "matplotlib.figure", "sklearn.linear_model", "timm", "torchvision"),
        *("pml_hashing.collection", "pml_hashing.models", "pml_hashing.search"),
        *("pml_hashing.trainers", "pml_hashing.visualize"),
    ]
)


def run_script(path: Path | str, *arguments: object, **options: Any) -> "CompletedProcess[str]":
    """Run a script as `python path *arguments` does. For the options, see `run_together`."""
    return run_together(path, [arguments], **options)[0]


def run_together(
    path: Path | str,
    arguments: Iterable[Iterable[object]],
    folder: Path | None = None,
    environments: Iterable[Mapping[str, str]] | None = None,
    errors: bool = False,
) -> "list[CompletedProcess[str]]":
    """Run a script in several processes at once, and return what each wrote.

    Args:
        path: The script.
        arguments: What each of them finds in `sys.argv`.
        folder: Where they run. Here if `None`.
        environments: What each of them finds in `os.environ`, beside what is there.
        errors: Whether a warning is an error.

    Returns:
        Output and exit status of each. As soon as one fails, the others, which may wait for it,
        are killed.
    """
    script, where = str(Path(path).absolute()), str(folder or Path.cwd())
    of_each = [[script, *map(str, some)] for some in arguments]
    with tempfile.TemporaryDirectory() as parent:
        outputs = [Path(parent, str(number)) for number in range(len(of_each))]
        processes = [
            CONTEXT.Process(target=_run, args=(*task, where, errors))
            for task in zip(of_each, environments or [{}] * len(of_each), outputs, strict=True)
        ]
        for process in processes:
            process.start()
        while any(process.is_alive() for process in processes):
            if any(process.exitcode for process in processes):
                for process in processes:
                    process.kill()
            time.sleep(0.02)
        return [
            CompletedProcess(
                argv,
                process.exitcode or 0,
                *(output.with_suffix(of).read_text("utf-8") for of in (".out", ".err")),
            )
            for argv, process, output in zip(of_each, processes, outputs, strict=True)
        ]


def _run(
    argv: list[str], environment: Mapping[str, str], output: Path, where: str, errors: bool
) -> None:
    for number, of in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(output.with_suffix(of), os.O_WRONLY | os.O_CREAT), number)
    # Else what it starts would start as it did.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    os.environ |= environment
    os.chdir(where)
    sys.argv = argv
    sys.path.insert(0, str(Path(argv[0]).parent))
    if errors:
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", OF_FAISS, DeprecationWarning)
    import torch  # noqa: PLC0415 - nothing heavy where processes are only started

    torch.set_num_threads(1)
    runpy.run_path(argv[0], run_name="__main__")
