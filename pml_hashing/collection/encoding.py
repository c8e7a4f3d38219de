"""From files and pictures to the codes of a collection."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from pml_hashing.collection.encoded import Encoded
from pml_hashing.collection.files import Content, FileState, digest_of, read_state_and_bytes
from pml_hashing.datasets import ImageLike, UnreadableImageError, load_image
from pml_hashing.datasets._batches import IndependentLoader
from pml_hashing.datasets._readable import ReadableItems
from pml_hashing.datasets.loading import decode_image
from pml_hashing.models.encoding import Encoder, device_for

Transform: TypeAlias = Callable[[Image.Image], Tensor]


class EncodedFile(NamedTuple):
    """A file with the code of what was in it."""

    place: int
    state: FileState
    encoded: Encoded


class FilesToEncode(Dataset[Any]):
    """The samples of files, with all that is to be known of them, read at once.

    An item is `(sample, place, state, digest, sizes)`, or an error in its place.

    Args:
        folder: Where they are.
        names: Their names.
        transform: Makes a sample of an image.
        allow_outside: Whether links out of the folder are followed.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], transform: Transform, allow_outside: bool
    ) -> None:
        self.folder, self.names, self.transform = folder, names, transform
        self.within = None if allow_outside else folder

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, place: int) -> Any:
        path = self.folder / self.names[place]
        try:
            state, content = read_state_and_bytes(path, self.within)
            image = decode_image(content, path)
        except UnreadableImageError as error:
            error.index = place
            return error
        digest = torch.frombuffer(bytearray(digest_of(content)), dtype=torch.uint8)
        sizes = torch.tensor([len(content), *image.size], device="cpu")
        return self.transform(image), place, torch.tensor(state, device="cpu"), digest, sizes


class CollectionEncoder:
    """A model and how it is run, for files and for queries.

    Args:
        model: Gives the codes.
        code_length: Their length.
        transform: Makes a sample of an image.
        packed: Whether codes of files are kept as bits only.
    """

    def __init__(
        self, model: nn.Module, code_length: int, transform: Transform, *, packed: bool
    ) -> None:
        self.model, self.code_length, self.transform = model, code_length, transform
        self.packed = packed

    def queries(self, images: Sequence[ImageLike]) -> Tensor:
        """Return the real codes of pictures, `(n, code_length)`.

        Raises:
            TypeError: If one is no picture.
            UnreadableImageError: If one does not decode.
        """
        samples = torch.stack([self.transform(load_image(image)) for image in images])
        return self._encoder(packed=False, progress=False).encode(samples)

    def files(
        self,
        dataset: FilesToEncode,
        *,
        batch_size: int,
        num_workers: int,
        progress: bool,
    ) -> Generator[tuple[list[EncodedFile], list[UnreadableImageError]], None, None]:
        """Yield what could be encoded and what could not be read, batch by batch."""
        options: Any = {"num_workers": num_workers, "collate_fn": ReadableItems.collate}
        loader = IndependentLoader(dataset, batch_size, **options)
        encoder = self._encoder(packed=self.packed, progress=progress)
        for codes, batch in encoder.batches(loader):
            yield _to_files(codes, batch.batch), batch.unreadable

    def _encoder(self, *, packed: bool, progress: bool) -> Encoder:
        return Encoder(
            self.model,
            self.code_length,
            device_for(self.model, None),
            None,
            packed=packed,
            progress=progress,
            on_unreadable=lambda _: None,
        )


def _to_files(codes: Tensor, batch: Any) -> list[EncodedFile]:
    if batch is None:
        return []
    _, places, states, digests, sizes = batch
    rows = zip(
        places.tolist(),
        states.tolist(),
        digests.numpy(),
        sizes.tolist(),
        codes.numpy(),
        strict=True,
    )
    return [
        EncodedFile(
            place, FileState(*state), Encoded(Content(digest.tobytes(), *size), code.tobytes())
        )
        for place, state, digest, size, code in rows
    ]
