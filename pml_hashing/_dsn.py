"""What tells a database from a folder: this is imported before all that takes long to import."""


def is_dsn(place: object) -> bool:
    """Return whether a place is a database, as in `chdb:///folder` or `clickhouse://host/db`."""
    return isinstance(place, str) and "://" in place
