"""The command and its subcommands."""

import warnings

import click

import pml_hashing
from pml_hashing.command.duplicates import duplicates
from pml_hashing.command.errors import PlainErrors
from pml_hashing.command.evaluate import evaluate
from pml_hashing.command.index import index
from pml_hashing.command.output import prepare_streams
from pml_hashing.command.search import search
from pml_hashing.command.serve import serve
from pml_hashing.command.threads import prepare_threads
from pml_hashing.command.train import train


@click.group(cls=PlainErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pml_hashing.__version__)
def main() -> None:
    """Search pictures by pictures: binary codes of a folder of images.

    From a folder of photographs to a search page of your own:

    \b
        pml-hashing index photos/
        pml-hashing serve

    "index" makes a collection, photos.codes, in the current folder, and keeps it in step with
    photos/ when you call it again. All other commands find it there. Name another one by
    --collection, or by the environment variable PML_HASHING_COLLECTION.

    Exit codes: 0 done, 1 something is wrong with the data, 2 wrong usage, 130 stopped by Ctrl-C.
    """
    prepare_streams()
    prepare_threads()
    # Such an image is left out, and named, by an error that says the same.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")


for command in (index, search, duplicates, serve, train, evaluate):
    main.add_command(command)
