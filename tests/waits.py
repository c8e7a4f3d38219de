"""Steps that would make a GPU wait: an error on devices that can tell."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def no_waits(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the device raise where it would make a GPU wait. Skip the test where it cannot tell."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    module, kind = pytest.importorskip(device.type), device.type
    if not hasattr(module, "set_sync_error"):
        pytest.skip("counts no waits")
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda x: x.device.type == kind))
    module.set_sync_error(True)
    try:
        yield
    finally:
        module.set_sync_error(False)
