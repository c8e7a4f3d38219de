"""Where collections are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pml_hashing.command.options import VARIABLE

if TYPE_CHECKING:
    from pml_hashing import Collection

ENDING = ".codes"
MANIFEST = "collection.json"  # without waiting for the import of the collection's own name


def is_collection(folder: Path) -> bool:
    """Return whether there is a collection in a folder."""
    return (folder / MANIFEST).is_file()


def is_made(place: Path | str, **database: Any) -> bool:
    """Return whether there is a collection at a place.

    Args:
        place: A folder or a database.
        database: Table, and folder of the model, of a collection in a database.

    Raises:
        ConnectionError: If no server answers.
        ValueError: If the place is a folder, and there is one of these.
    """
    if isinstance(place, Path) and not any(database.values()):
        return is_collection(place)
    from pml_hashing.collection.places import storage_of

    try:
        storage_of(place, **database).read_manifest()
    except FileNotFoundError:
        return False
    return True


def find(given: Path | str | None) -> Path | str:
    """Return the collection that is meant: the given one, or the only one in the current folder.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several.
    """
    if isinstance(given, str):
        return given
    if given is not None:
        if not is_collection(given):
            raise FileNotFoundError(
                f"Expected a collection at {given}, got none: "
                f'"pml-hashing index FOLDER --collection {given}" makes one.'
            )
        return given
    found = sorted(filter(is_collection, Path().glob(f"*{ENDING}")))
    if not found:
        raise FileNotFoundError(
            f"Expected a collection, a *{ENDING}, in {Path.cwd()}, got none: "
            '"pml-hashing index FOLDER" makes one, and --collection names one elsewhere.'
        )
    if len(found) > 1:
        raise ValueError(
            f"Expected one collection in {Path.cwd()}, got {', '.join(map(str, found))}: "
            f"name one by --collection or by {VARIABLE}."
        )
    return found[0]


def place_for(images: Path | None, given: Path | str | None) -> Path | str:
    """Return where the collection of a folder of images is, or is to be made.

    Raises:
        FileNotFoundError: If no folder is given, and there is no collection.
        ValueError: If no folder is given, and there are several collections.
    """
    if images is None:
        return find(given)
    return Path(images.resolve().name + ENDING) if given is None else given


def open_collection(
    collection: Path | str | None,
    device: str = "cpu",
    *,
    table: str | None,
    model_folder: Path | None,
) -> "Collection":
    """Return the collection that is meant.

    Args:
        collection: Where it is.
        device: Where to put its model.
        table: Its name in a database.
        model_folder: Where its model is, if it is in a database.

    Raises:
        ConnectionError: If no server answers.
        FileNotFoundError: As `find`.
        ValueError: As `find`, or if it is damaged.
    """
    place = find(collection)
    from pml_hashing import Collection

    return Collection.open(place, device=device, table=table, model_folder=model_folder)
