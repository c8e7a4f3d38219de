"""Where a collection is: a folder, or a table of a database."""

import os

from pml_hashing._checks import to_path
from pml_hashing._dsn import is_dsn
from pml_hashing.collection.folder_storage import FolderStorage
from pml_hashing.collection.storage import Storage

DEFAULT_TABLE = "images"


def storage_of(
    place: str | os.PathLike[str],
    table: str | None = None,
    model_folder: str | os.PathLike[str] | None = None,
    cluster: str | None = None,
) -> Storage:
    """Return where a collection is. Nothing is read.

    Args:
        place: A folder, or a database.
        table: The name of the collection in a database.
        model_folder: Where its model is, if the place is a database.
        cluster: The name of a cluster, over which a new collection is spread.

    Raises:
        ConnectionError: If no server answers.
        ImportError: If what a database needs is not installed.
        ValueError: If the place is a folder, and there is a table, folder of the model or cluster;
            if it is no server, and there is a cluster; or if a path is empty.
    """
    if not is_dsn(place):
        options = {"table": table, "model_folder": model_folder, "cluster": cluster}
        for name, given in options.items():
            if given is not None:
                raise ValueError(
                    f"Expected `{name}` with a database, as in 'chdb:///folder', got {given!r} "
                    f"with the folder {os.fspath(place)!r}."
                )
        return FolderStorage(to_path(place, "place"))
    from pml_hashing.collection.database_storage import DatabaseStorage  # noqa: PLC0415 - an extra

    folder = None if model_folder is None else to_path(model_folder, "model_folder")
    table = DEFAULT_TABLE if table is None else table
    return DatabaseStorage(str(place), table, folder, cluster)
