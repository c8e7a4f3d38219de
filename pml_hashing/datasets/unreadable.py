"""Images that cannot be read: an error with their name."""

from typing import Any


class UnreadableImageError(OSError):
    """An image that is missing, does not decode, or may not be read.

    Args:
        message: What is wrong with which image.
        path: Its file, if known.
        index: Its place in the data set, if known.

    Attributes:
        path: Its file, or `""`.
        index: Its place in the data set, or -1.
    """

    def __init__(self, message: str, *, path: str = "", index: int = -1) -> None:
        # One argument is enough: a worker of a `DataLoader` raises it again with the message only.
        super().__init__(message)
        self.path, self.index = path, index

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, {"path": self.path, "index": self.index}
