"""Wait for the right to write, which one process at a time has."""

import random
import time
from collections.abc import Callable


def wait_to_write(
    take: Callable[[], str | None], place: str, timeout: float, seconds_between: float
) -> None:
    """Try again and again to take the right to write to a collection.

    Args:
        take: Takes it and returns `None`, or returns who has it.
        place: Where the collection is, for the message.
        timeout: Seconds to wait, without end if negative. It is tried once at least.
        seconds_between: About how long from one try to the next: two who wait do not keep step.

    Raises:
        TimeoutError: If another one has it for so long.
    """
    end = time.monotonic() + timeout
    while (other := take()) is not None:
        if timeout >= 0 and time.monotonic() >= end:
            raise TimeoutError(
                f"Expected {place} free to write within {timeout:g} seconds, got {other}: "
                "`timeout` waits for it."
            )
        time.sleep(seconds_between * random.uniform(0.5, 1.5))
