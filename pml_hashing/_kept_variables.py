"""What the terms of an objective keep in a code bank, each under its name."""

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

Variables: TypeAlias = dict[str, Tensor]
"""What one term of an objective keeps in a bank, by name."""


class KeptVariables(nn.ModuleDict):
    """The variables of all terms. They move, are saved and are resumed with a bank."""

    def of(self, name: str) -> Variables:
        """Return the variables of the term of this name; none as long as it keeps none."""
        return self._entry(name).tensors() if name in self else {}

    def has(self, name: str, kind: str, version: int | None = None) -> bool:
        """Return whether a term has variables here.

        Args:
            name: Its name.
            kind: What they mean.
            version: That of the binary codes which they are for. Any if `None`.
        """
        if name not in self or self._entry(name).kind != kind:
            return False
        return version in (None, self._entry(name).version)

    def keep(self, name: str, variables: Variables, kind: str, version: int) -> None:
        """Keep the variables of a term, for a version of the binary codes."""
        if not self.has(name, kind):
            self[name] = _Kept(kind)
        self._entry(name).put(variables, version)

    def make_room(self, state_dict: Mapping[str, Any], prefix: str, device: torch.device) -> None:
        """Make room for what a state has under a prefix, whatever was kept before."""
        self.clear()
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name, tensor = key.removeprefix(prefix).split(".", 1)
            if name not in self:
                self[name] = _Kept()
            if isinstance(value := state_dict[key], Tensor):
                self._entry(name).put({tensor: torch.zeros_like(value, device=device)})

    def _entry(self, name: str) -> "_Kept":
        return cast(_Kept, self[name])


class _Kept(nn.Module):
    """The variables of one term, and what they mean.

    Args:
        kind: What they mean: tensors of one kind are none of another.
    """

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.kind, self.version = kind, 0

    def get_extra_state(self) -> dict[str, Any]:
        return {"kind": self.kind, "version": self.version}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.kind, self.version = state["kind"], state["version"]

    def tensors(self) -> Variables:
        """Return what is kept, by name."""
        return {k: v for k, v in self._buffers.items() if v is not None}

    def put(self, tensors: Variables, version: int = 0) -> None:
        """Keep tensors, for a version of the binary codes, in the memory of earlier ones."""
        self.version = version
        for name, tensor in tensors.items():
            held = self._buffers.get(name)
            if held is tensor:
                continue
            if held is None or held.shape != tensor.shape:
                self.register_buffer(name, tensor.detach())
            else:
                held.copy_(tensor)
