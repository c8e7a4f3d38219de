"""Progress bars."""

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm


def progress_bar(items: Iterable[Any], text: str, *, shown: bool, **options: Any) -> Any:
    """Return a bar over some items, which the environment's `TQDM_DISABLE` can hide too."""
    # Given only where it is hidden: `disable` goes before the environment.
    return tqdm(items, text, **options) if shown else tqdm(items, text, disable=True, **options)
