"""`pml-hashing duplicates`: groups of images that look alike."""

from pathlib import Path
from typing import Any

import click

from pml_hashing.command import options
from pml_hashing.command.output import print_json, say, shown
from pml_hashing.command.places import open_collection


@click.command(short_help="Find groups of near-duplicates.")
@click.option(
    "--radius",
    type=click.IntRange(0),
    default=6,
    show_default=True,
    help="Bits in which duplicates may differ. 0 for equal codes.",
)
@click.option(
    "--csv", "csv_file", type=options.FILE, metavar="FILE", help="Write a table: one row per image."
)
@options.collection_options
@options.json_option
@options.traceback_option
def duplicates(*, radius: int, csv_file: Path | None, as_json: bool, **place: Any) -> None:
    """Find groups of images that look alike.

    Images are in one group if they are linked by distances of at most --radius. The one to keep is
    that of most pixels, then of most bytes. Nothing is removed.

    \b
    Examples:
        pml-hashing duplicates
        pml-hashing duplicates --radius 2 --csv duplicates.csv
    """
    groups = open_collection(**place).duplicates(radius)
    if csv_file is not None:
        groups.to_csv(csv_file)
    if as_json:
        rows = [{"names": group.names, "distances": group.distances} for group in groups]
        print_json([{"keep": row["names"][0], **row} for row in rows])
        return
    for group in groups:
        say(f"keep  {shown(group.keep)}")
        for name, distance in zip(group.extra, group.distances[1:], strict=True):
            say(f"{distance:4d}  {shown(name)}")
    extra = sum(len(group.extra) for group in groups)
    say(f"{len(groups):,} groups, {extra:,} images beside those to keep")
