"""What a collection is, in a few words that its storage keeps beside the images."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Self

from pml_hashing.codes import packed_length

FORMAT = {"format": "pml_hashing.Collection", "format_version": "1"}


@dataclass(frozen=True)
class Manifest:
    """What a collection is, and which of its states is the present one."""

    model: str  # a fingerprint of its weights
    model_class: str
    code_length: int
    vectors: bool
    generation: int = 0
    count: int = 0
    images: str | None = None  # the folder of the last sync
    labels: str | None = None  # where labels come from
    ignored: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str | bytes, where: object) -> Self:
        """Return the manifest that a text is.

        Args:
            text: As `text` wrote it.
            where: Where it was found, for errors.

        Raises:
            ValueError: If it is damaged, or of another version.
        """
        try:
            content = json.loads(text)
            found = {key: content.pop(key, None) for key in FORMAT}
            if found != FORMAT:
                raise ValueError(f"it says {found}, not {FORMAT}.")
            manifest = cls(**content)
            manifest._check()
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"Expected a whole manifest at {where}, got another: {error}"
            ) from error
        return manifest

    @property
    def code_bytes(self) -> int:
        """Bytes of each code as it is kept: real ones in float32 where there are vectors."""
        return 4 * self.code_length if self.vectors else packed_length(self.code_length)

    @property
    def text(self) -> str:
        """All of it, in ASCII."""
        return json.dumps(FORMAT | asdict(self), indent=2) + "\n"

    def _check(self) -> None:
        """Raise a `ValueError` unless all values are of their types."""
        numbers = self.code_length, self.generation, self.count
        texts = self.images, self.labels
        if (
            any(type(number) is not int or number < 0 for number in numbers)
            or not all(isinstance(text, str | None) for text in texts)
            or not isinstance(self.ignored, dict)
            or type(self.vectors) is not bool
        ):
            raise ValueError("a value of it is of another type.")


@contextmanager
def whole(what: object) -> Iterator[None]:
    """Turn what is wrong with something that a sync wrote into one error that names it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"Expected a whole file that Collection.sync wrote, got `{what}`: {error}"
        ) from error
