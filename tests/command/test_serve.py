"""`pml-hashing serve`: what it gives to the service and to the server."""

import socket
import sys
import types
from threading import Event, Thread, Timer

import pytest
import torch

from pml_hashing.command.serve import SECONDS_TO_END, allowed_hosts, set_threads


class Server:
    """Takes the place of uvicorn's, and returns at once."""

    ran = None

    def __init__(self, config):
        self.config = config

    def run(self, sockets):
        Server.ran = self.config, sockets[0].getsockname()


@pytest.fixture
def asked(monkeypatch):
    """What the service is made of."""
    asked = {}
    service, uvicorn = types.ModuleType("pml_hashing.serve"), types.ModuleType("uvicorn")
    service.create_app = lambda collection, **options: asked.update(options, of=collection) or "app"
    uvicorn.Config = lambda app, **options: (app, options)
    uvicorn.Server = Server
    monkeypatch.setitem(sys.modules, "pml_hashing.serve", service)
    monkeypatch.setitem(sys.modules, "uvicorn", uvicorn)
    return asked


@pytest.fixture(autouse=True)
def keep_threads(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_service(run, indexed, asked):
    result = run("serve", "--port", 0, "--writable")
    (app, options), (host, port) = Server.ran
    assert (app, host) == ("app", "127.0.0.1")
    assert options == {"log_level": "warning", "timeout_graceful_shutdown": SECONDS_TO_END}
    assert f"13 images at http://127.0.0.1:{port}/ (Ctrl-C stops)" in result.stderr
    assert len(asked.pop("of")) == 13
    hosts = ["127.0.0.1", "localhost", "[::1]", "127.0.0.1"]
    assert asked == {"writable": True, "allowed_hosts": hosts}
    run("serve", "--port", 0, "--host", "0.0.0.0")
    assert asked["allowed_hosts"] == ["*"]
    assert asked["writable"] is False


def test_a_client_that_sends_nothing_more_does_not_keep_it(run, indexed, asked, monkeypatch):
    run("serve", "--port", 0)
    (_, options), _ = Server.ran
    monkeypatch.undo()
    uvicorn = pytest.importorskip("uvicorn")
    assert options.pop("timeout_graceful_shutdown") < 10  # a person waits
    received = Event()

    async def app(scope, receive, send):
        while scope["type"] == "http" and (await receive()).get("more_body"):
            received.set()

    config = uvicorn.Config(app, timeout_graceful_shutdown=1, lifespan="off", **options)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = Thread(target=server.run, args=([listening],), daemon=True)
        running.start()
        with socket.create_connection(listening.getsockname()) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n...")
            assert received.wait(30)
            server.should_exit = True  # as Ctrl-C
            running.join(30)
            assert not running.is_alive()


def test_a_browser(run, indexed, asked, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(Timer, "start", lambda timer: timer.function(*timer.args))
    run("serve", "--port", 0, "--open")
    assert opened == [f"http://127.0.0.1:{Server.ran[1][1]}/"]


def test_a_port_that_is_taken(run, indexed, asked):
    with socket.create_server(("127.0.0.1", 0)) as other:
        message = run("serve", "--port", other.getsockname()[1], code=1).stderr
    assert "ddress already in use" in message


def test_what_is_not_installed(run, indexed, monkeypatch):
    for missing in ("uvicorn", "pml_hashing.serve"):
        monkeypatch.setitem(sys.modules, missing, None)
        assert 'pip install "pml-hashing[serve]"' in run("serve", code=1).stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_hosts_of_this_computer(host):
    assert allowed_hosts(host) == ["127.0.0.1", "localhost", "[::1]", host]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "photos.example"])
def test_hosts_of_others(host):
    assert allowed_hosts(host) == ["*"]


def test_threads_are_few_unless_chosen(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    set_threads()
    assert torch.get_num_threads() == 4
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_threads()
    assert torch.get_num_threads() == 1
