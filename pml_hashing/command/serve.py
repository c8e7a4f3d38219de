"""`pml-hashing serve`: a search page of one's own pictures."""

import os
import socket
import webbrowser
from ipaddress import ip_address
from threading import Timer
from typing import Any

import click

from pml_hashing.command import options
from pml_hashing.command.output import warn
from pml_hashing.command.places import open_collection

MOST_THREADS = 4  # of the model: one picture does not keep more busy
SECONDS_TO_START = 1.0
SECONDS_TO_END = 5  # for requests under way: a client that sends nothing more must not keep it


@click.command(short_help="Serve a search page and its JSON API.")
@click.option(
    "--host",
    type=options.TEXT,  # an empty one would be all addresses
    default="127.0.0.1",
    show_default=True,
    help="Address to listen at.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 for any that is free.",
)
@click.option("--writable", is_flag=True, help="Let visitors add and remove images.")
@click.option("--open", "in_browser", is_flag=True, help="Open the page in a browser.")
@options.collection_options
@options.device_option
@options.traceback_option
def serve(
    *,
    host: str,
    port: int,
    writable: bool,
    in_browser: bool,
    device: str | None,
    **place: Any,
) -> None:
    """Serve a search page of a collection, and a JSON API.

    Only this computer can reach it, unless --host says otherwise: there are no passwords. Needs
    pip install "pml-hashing[serve]".

    \b
    Examples:
        pml-hashing serve --open
        pml-hashing serve --collection photos.codes --port 8080
        pml-hashing serve --collection clickhouse://db:8123/shop --model photos.model
    """
    set_threads()
    photos = open_collection(device=options.to_device(device), **place)
    try:
        import uvicorn

        from pml_hashing.serve import create_app
    except ImportError as error:
        raise ImportError(
            f'The page needs more packages: pip install "pml-hashing[serve]" ({error})'
        ) from error
    app = create_app(photos, writable=writable, allowed_hosts=allowed_hosts(host))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        shown_host = f"[{host}]" if ":" in host else host
        address = f"http://{shown_host}:{listening.getsockname()[1]}/"
        warn(f"{len(photos):,} images at {address} (Ctrl-C stops)")
        if in_browser:
            Timer(SECONDS_TO_START, webbrowser.open, [address]).start()
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=SECONDS_TO_END)
        uvicorn.Server(config).run(sockets=[listening])


def set_threads() -> None:
    """Leave cores to the requests that come at the same time."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(MOST_THREADS, (os.cpu_count() or 1) // 2)))


def allowed_hosts(host: str) -> list[str]:
    """Return the names by which the page may be addressed: its own, where only it can be reached.

    Else a web site could let its name lead to this computer, and read the pictures.
    """
    return ["127.0.0.1", "localhost", "[::1]", host] if is_loopback(host) else ["*"]


def is_loopback(host: str) -> bool:
    """Return whether an address is that of this computer for itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"
