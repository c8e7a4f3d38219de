"""The command in a process of its own: quick help, any names, closed pipes, Ctrl-C, no network."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from click.testing import CliRunner
from PIL import Image

from pml_hashing import Collection
from pml_hashing.command import main
from pml_hashing.models import backbones

COMMAND = [sys.executable, "-m", "pml_hashing"]
HELP_IS_LIGHT = """
import sys
from pml_hashing.command import main
try:
    main(["index", "--help"])
finally:
    heavy = {"torch", "timm", "numpy", "PIL", "fastapi"} & {*sys.modules}
    assert not heavy, heavy
"""


@contextmanager
def killed_after(process, seconds):
    """Kill a process that does not end by itself: a test that fails does not wait for ever."""
    timer = Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()


@pytest.fixture
def start(here, monkeypatch, interruptible):
    """Return a function that starts the command, with bytes as output."""
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return lambda *arguments, **options: subprocess.Popen(
        [*COMMAND, *arguments], **pipes, **options
    )


def test_help_waits_for_nothing_heavy(start):
    command = [sys.executable, "-c", HELP_IS_LIGHT]
    assert b"pml-hashing index photos/" in subprocess.check_output(command)


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_names_that_are_no_text(start, run, indexed, monkeypatch):
    query = b"photos/hat/caf\xe9.png"
    shutil.copy("photos/hat/00.png", query)
    shutil.copy("photos/hat/00.png", "photos/hat/\u65e5.png")
    run("index")
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    process = start("search", query, "--k", "4")
    out, error = process.communicate()
    assert (process.returncode, error) == (0, b"")
    here = CliRunner(charset="ascii").invoke(main, ["search", os.fsdecode(query), "--k", "4"])
    assert (here.exit_code, here.stderr) == (0, "")
    for printed, name in ((out, "\u65e5".encode()), (here.stdout_bytes, b"\\u65e5")):
        assert printed.startswith(query + b": 4 found\n")
        assert b"0  hat/caf\xe9.png  (hat)\n" in printed
        assert name in printed


def test_a_closed_pipe_ends_quietly(start, indexed):
    process = start("duplicates")
    with process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_ctrl_c_in_the_middle(start, indexed, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE")
    Image.new("L", (5000, 5000)).save("photos/large.png")
    for number in range(60):  # which take many seconds to decode
        shutil.copy("photos/large.png", f"photos/{number}.png")
    process = start("index", "--progress", "--batch-size", "1")
    with killed_after(process, seconds=100):
        said = b""
        while b"encode:" not in said:
            said += process.stderr.read1()
            assert process.poll() is None, said
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130
    assert error.decode().splitlines()[-1] == (
        "Stopped. The collection is as it was. The same command goes on from what was encoded."
    )
    assert len(Collection.open("photos.codes")) == 13


def test_a_page_until_ctrl_c(start, indexed):
    for name in ("fastapi", "multipart", "prometheus_client", "uvicorn"):
        pytest.importorskip(name)
    with start("serve", "--port", "0") as process, killed_after(process, seconds=100):
        try:
            first = process.stderr.readline().decode()
            assert first.startswith("13 images at http://127.0.0.1:")
            address = first.split()[3]
            with urlopen(f"{address}api/health", timeout=60) as answer:
                assert json.load(answer)["size"] == 13
            with pytest.raises(HTTPError, match="400"):
                urlopen(Request(address, headers={"Host": "elsewhere.example"}), timeout=60)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.stderr.read().decode().strip() == "Stopped. The same command serves again."
    assert process.returncode == 130


@pytest.mark.parametrize("command", ["index", "train"])
def test_without_network_it_fails_soon(run, here, monkeypatch, command):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(backbones, "try_to_load_from_cache", lambda *_, **__: None)
    begin = time.monotonic()
    error = run(command, "photos", code=1).stderr
    assert "--checkpoint" in error
    assert len(error.splitlines()) == 1
    assert time.monotonic() - begin < 30  # the hub's client would take a minute
    assert sorted(path.name for path in here.iterdir()) == ["photos"]
