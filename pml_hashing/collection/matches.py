"""What a search finds."""

from dataclasses import dataclass
from pathlib import Path

from pml_hashing.collection.labels import LABEL, Row, labels_of


@dataclass(frozen=True)
class Match:
    """An image of a collection that was found.

    Attributes:
        name: Its path in the folder of the images.
        path: Its file.
        distance: In bits; of re-ranked ones as of `HammingKNN`.
        metadata: Its value in each column.
    """

    name: str
    path: Path
    distance: float
    metadata: Row

    @property
    def labels(self) -> tuple[str, ...]:
        """Its labels."""
        return labels_of(self.metadata.get(LABEL))
