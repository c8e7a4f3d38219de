"""`pml-hashing search`: what is nearest to pictures."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from pml_hashing.command import options
from pml_hashing.command.output import print_json, say, shown
from pml_hashing.command.places import open_collection

if TYPE_CHECKING:
    from pml_hashing.collection import Match

WORDS = {"true": True, "false": False}


@click.command(short_help="Find the nearest images of pictures.")
@click.argument("query", nargs=-1, required=True, type=options.TEXT)
@click.option("--k", type=click.IntRange(1), help="How many, at most. 10 unless --radius is given.")
@click.option("--radius", type=click.IntRange(0), help="Largest distance in bits.")
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only images of this label or other metadata. Several of one column: any of them.",
)
@click.option(
    "--rerank",
    type=click.Choice(["asymmetric", "vectors"]),
    help="Order the 100 nearest anew by real codes: the query's, or both.",
)
@options.collection_options
@options.json_option
@options.traceback_option
def search(
    *,
    query: tuple[str, ...],
    k: int | None,
    radius: int | None,
    where: tuple[str, ...],
    rerank: Any,
    as_json: bool,
    **place: Any,
) -> None:
    """Find the nearest images of each QUERY.

    A QUERY is the path of a picture, or the name of an image of the collection. Distances are in
    bits in which codes differ.

    \b
    Examples:
        pml-hashing search new.jpg
        pml-hashing search holiday/17.jpg --k 5 --where label=beach
        pml-hashing search a.jpg b.jpg --radius 8 --json
    """
    photos = open_collection(**place)
    condition = to_condition(where, photos.columns)
    found: list[list[Match]] = photos.search(
        list(query), k, radius=radius, where=condition, rerank=rerank
    )
    if as_json:
        pairs = zip(query, found, strict=True)
        print_json([{"query": one, "matches": list(map(_to_json, near))} for one, near in pairs])
        return
    for one, near in zip(query, found, strict=True):
        say(f"{shown(one)}: {len(near):,} found")
        for match in near:
            labels = f"  ({', '.join(map(shown, match.labels))})" if match.labels else ""
            say(f"  {match.distance:4g}  {shown(match.name)}{labels}")


def to_condition(
    where: tuple[str, ...], columns: Mapping[str, type | None]
) -> dict[str, object] | None:
    """Return conditions such as `label=shoe` as `Collection.search` takes them.

    Args:
        where: The conditions.
        columns: The types of values in each column.

    Raises:
        BadParameter: If one is no condition, or its value is of another type.
    """
    wanted: dict[str, list[object]] = {}
    for text in where:
        column, equals, value = text.partition("=")
        if not equals or not column:
            raise click.BadParameter(f"{text!r} is not COLUMN=VALUE.", param_hint="'--where'")
        wanted.setdefault(column, []).append(_to_value(text, value, columns.get(column)))
    return dict(wanted) or None


def _to_value(text: str, value: str, kind: type | None) -> object:
    try:
        if kind is bool:
            return WORDS[value.lower()]
        return value if kind is None else kind(value)
    except (KeyError, ValueError):
        needed = "true or false" if kind is bool else "a number"
        raise click.BadParameter(f"{text!r} needs {needed}.", param_hint="'--where'") from None


def _to_json(match: "Match") -> dict[str, Any]:
    return {
        "name": match.name,
        "path": str(match.path),
        "distance": match.distance,
        "labels": match.labels,
        "metadata": match.metadata,
    }
