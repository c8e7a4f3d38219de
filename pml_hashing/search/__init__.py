"""Search by Hamming distance."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from pml_hashing.search.approximate import HNSW, IVF
from pml_hashing.search.files import merge_files
from pml_hashing.search.hamming_knn import HammingKNN
from pml_hashing.search.memory_store import MemoryStore
from pml_hashing.search.multi_hash import MultiHash
from pml_hashing.search.store import CodeStore, Neighbors, Records

if TYPE_CHECKING:
    from pml_hashing.search.clickhouse_store import ClickHouseStore

__all__ = [
    "HNSW",
    "IVF",
    "CodeStore",
    "HammingKNN",
    "MemoryStore",
    "MultiHash",
    "Neighbors",
    "Records",
    "merge_files",
]

if TYPE_CHECKING or find_spec("clickhouse_connect"):
    __all__ += ["ClickHouseStore"]

if not TYPE_CHECKING:  # a type checker would take it for a promise of every name

    def __getattr__(name: str) -> object:
        """Return the store that needs an extra, where it is first asked for."""
        if name != "ClickHouseStore":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            from pml_hashing.search.clickhouse_store import ClickHouseStore  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"Expected the extra `pml-hashing[clickhouse]` to be installed, got none: {error}",
                name=error.name,
            ) from error
        return ClickHouseStore
