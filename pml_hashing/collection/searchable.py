"""A collection that is searched: by pictures, names and codes, and for near-duplicates."""

from collections.abc import Sequence
from typing import Any, Unpack, overload

from torch import Tensor

from pml_hashing._checks import check_codes, check_integer
from pml_hashing.collection.contents import Contents
from pml_hashing.collection.duplicates import DuplicateGroups, find_duplicates
from pml_hashing.collection.encoding import CollectionEncoder, Transform
from pml_hashing.collection.manifest import Manifest
from pml_hashing.collection.matches import Match
from pml_hashing.collection.searching import Options, Request, Search, to_queries
from pml_hashing.collection.storage import Model, Storage
from pml_hashing.datasets import ImageLike
from pml_hashing.models.encoding import fingerprint


class SearchableContents(Contents):
    """Images, and the model that finds them.

    Args:
        storage: Where the states are.
        model: Gives the codes.
        transform: Preprocesses an image. The model's own if `None`.

    Raises:
        ValueError: If the codes are of another model.
    """

    def __init__(self, storage: Storage, model: Model, transform: Transform | None) -> None:
        super().__init__(storage)
        self.model, manifest = model, self._state.manifest
        self._fingerprint = fingerprint(model)
        self._check_model(manifest)
        self._encoder = CollectionEncoder(
            model,
            manifest.code_length,
            model.transform() if transform is None else transform,
            packed=not manifest.vectors,
        )

    @overload
    def search(
        self, query: list[Any] | tuple[Any, ...], k: int | None = None, **options: Unpack[Options]
    ) -> list[list[Match]]: ...

    @overload
    def search(
        self, query: ImageLike, k: int | None = None, **options: Unpack[Options]
    ) -> list[Match]: ...

    def search(
        self, query: Any, k: int | None = None, **options: Unpack[Options]
    ) -> list[Match] | list[list[Match]]:
        """Return the nearest images of a query, the nearest first, ties by name.

        Args:
            query: A picture: a path, bytes of a file, a PIL image, an array or a tensor of pixels,
                as of `datasets.load_image`; or the name of an image of the collection, where there
                is no file of this path, which is then not among its own neighbors. Or several, as
                a list or as one array or tensor with a first dimension.
            k: How many, at most: 10 if neither `k` nor `radius` is given.
            **options: Any of these:

                - `radius`: largest distance in bits, inclusive;
                - `where`: a condition, as of `HammingKNN.search`: `{"label": "shoe"}`, or a list of
                  values. An image with several labels matches each;
                - `rerank`: order the `num_candidates` (100) nearest anew by the real code of the
                  query and their bits (`"asymmetric"`) or their real codes (`"vectors"`, if they
                  are kept).

        Returns:
            A list of `Match`; of several queries, a list of such lists. There are fewer than `k` if
            no more match.

        Raises:
            FileNotFoundError: If a query is neither a file nor a name.
            TypeError: If a query is no picture.
            UnreadableImageError: If a file does not decode.
            ValueError: If a number is out of range, there is no such column, or no vectors to
                re-rank by, or `radius` is given with `rerank`.
        """
        request = Request(k, **options)
        queries, is_one = to_queries(query)
        matches = self._read(lambda state: Search(state, self._encoder).find(queries, request))
        return matches[0] if is_one else matches

    @overload
    def similar(
        self, name: str, k: int | None = None, **options: Unpack[Options]
    ) -> list[Match]: ...

    @overload
    def similar(
        self, name: list[str] | tuple[str, ...], k: int | None = None, **options: Unpack[Options]
    ) -> list[list[Match]]: ...

    def similar(
        self, name: str | Sequence[str], k: int | None = None, **options: Unpack[Options]
    ) -> list[Match] | list[list[Match]]:
        """Return what is nearest to an image of the collection, without that image itself.

        As `search`, but what is not the name of an image is never looked for on the disk: for names
        that come from elsewhere.

        Args:
            name: The name of an image, or several.
            k: As of `search`.
            **options: As of `search`.

        Returns:
            A list of `Match`; of several names, a list of such lists.

        Raises:
            KeyError: If there is no such image.
            ValueError: As `search`.
        """
        request = Request(k, **options)
        names = [name] if isinstance(name, str) else name
        matches = self._read(lambda state: Search(state, self._encoder).similar(names, request))
        return matches[0] if isinstance(name, str) else matches

    def encode(self, pictures: Sequence[ImageLike]) -> Tensor:
        """Return the real codes of pictures, `(n, code_length)`, which `search_codes` takes.

        Raises:
            TypeError: If one is no picture.
            UnreadableImageError: If one does not decode.
            ValueError: If there is none.
        """
        if not len(pictures):
            raise ValueError("Expected `pictures` with at least one, got none.")
        return self._encoder.queries(pictures)

    def search_codes(
        self, codes: Tensor, k: int | None = None, **options: Unpack[Options]
    ) -> list[list[Match]]:
        """Return what is nearest to codes that the model gave before.

        Args:
            codes: As `encode` returns them.
            k: As of `search`.
            **options: As of `search`.

        Returns:
            For each of them a list of `Match`.

        Raises:
            ValueError: As `search`, or if `codes` are of another shape.
        """
        check_codes(codes, "codes", self.code_length)
        request = Request(k, **options)
        return self._read(lambda state: Search(state, self._encoder).near(codes, request))

    def duplicates(self, radius: int) -> DuplicateGroups:
        """Return groups of near-duplicates: images that are linked by distances within `radius`.

        Groups are connected components: of A, B and C, where A is near B and B near C, all three
        are one group, however far C is from A. Each image is in one group at most, and the result
        does not depend on any order. Of each, the file to keep comes first: of most pixels, then of
        most bytes, then the first by name.

        Args:
            radius: In bits, inclusive. 0 for equal codes.

        Raises:
            ValueError: If `radius` is negative.
        """
        check_integer(radius, 0, "radius")
        return DuplicateGroups(
            self._read(lambda state: find_duplicates(state, self.code_length, radius))
        )

    def _check_model(self, manifest: Manifest) -> None:
        if manifest.model != self._fingerprint:
            raise ValueError(
                f"Expected the model that {self.place} was made with, got one with other weights: "
                "make a new collection for it."
            )
