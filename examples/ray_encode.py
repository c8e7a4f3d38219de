"""Encode a folder of images on a Ray cluster, into Parquet, and from there into a store.

    python examples/ray_encode.py MODEL IMAGES PARQUET CODES

MODEL, IMAGES and PARQUET are folders that all machines see. Each actor holds the model, and takes
one batch after the other. Started again, it encodes what has no code yet. CODES is a file, or the
address of a store, as `clickhouse://host:8123/database`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from pml_hashing import HashingModel
from pml_hashing.datasets import list_images
from pml_hashing.search import ClickHouseStore, HammingKNN

BATCH = 64
SCHEMA = pa.schema([("id", pa.string()), ("code", pa.binary())])


class Encode:
    """An actor with a model: a batch of files becomes a batch of names and codes."""

    def __init__(self, model: str, images: str) -> None:
        self.model, self.images = HashingModel.from_pretrained(model), Path(images)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        names = [Path(path).relative_to(self.images).as_posix() for path in batch["path"]]
        pairs = [(names, list(batch["bytes"]))]
        ((ids, codes),) = self.model.encode_batches(
            pairs, on_unreadable=lambda error: print(f"{names[error.index]}: {error}")
        )
        return {"id": ids, "code": [code.tobytes() for code in codes.numpy()]}


def done(parquet: Path) -> Iterator[pa.Table]:
    """Yield what was written, without files that a kill has left unfinished."""
    for path in sorted(parquet.glob("*.parquet")):
        try:
            yield pq.read_table(path, columns=SCHEMA.names).cast(SCHEMA)
        except pa.ArrowInvalid:
            path.unlink()
        except OSError as error:
            error.add_note(f"While reading {path}: if it is damaged, delete it.")
            raise


def encode(model: Path, images: Path, parquet: Path, num_actors: int = 2) -> None:
    known = {name for table in done(parquet) for name in table["id"].to_pylist()}
    rest = [str(images / name) for name in list_images(images).names if name not in known]
    if rest:
        files = ray.data.read_binary_files(rest, include_paths=True)
        codes = files.map_batches(
            Encode,
            fn_constructor_args=(str(model), str(images)),
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=num_actors),
        )
        codes.write_parquet(str(parquet))


def collect(parquet: Path, codes: str) -> int:
    """Put the codes into a file, sorted by name, or into a store, batch by batch."""
    knn = HammingKNN(store=ClickHouseStore(codes) if "://" in codes else None)
    tables = done(parquet)
    if "://" not in codes:
        tables = [pa.concat_tables([SCHEMA.empty_table(), *tables]).sort_by("id")]
    held = {name for batch in knn.batches() for name in batch.ids}
    for table in tables:
        pairs = zip(table["id"].to_pylist(), table["code"].to_pylist(), strict=True)
        # Once each: a task that Ray has started again may have written its codes twice.
        new = {name: code for name, code in pairs if name not in held}
        held |= new.keys()
        if new:
            packed = np.frombuffer(b"".join(new.values()), dtype=np.uint8)
            knn.add(packed.reshape(len(new), -1), list(new))
    if "://" not in codes:
        knn.save(codes)
    return len(knn)


if __name__ == "__main__":
    model, images, parquet = (Path(argument).resolve() for argument in sys.argv[1:4])
    encode(model, images, parquet)
    print(f"{collect(parquet, sys.argv[4]):,} codes")
