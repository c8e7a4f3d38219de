"""Continuation (Cao et al., ICCV 2017): a tanh whose slope grows until it is nearly the sign."""

import torch
from torch import Tensor, nn

from pml_hashing._checks import check_at_least


class ScaledTanh(nn.Module):
    r"""The bound $\tanh(\beta z)$ of a hash layer, with a slope $\beta$ that training may change.

    The slope is saved with the model. It changes no bit.

    Examples:
        >>> import torch
        >>> from pml_hashing.models import ScaledTanh
        >>> bound = ScaledTanh()
        >>> bound.slope.fill_(100)
        tensor(100.)
        >>> bound(torch.tensor([-0.1, 0.0, 0.1]))
        tensor([-1.,  0.,  1.])
    """

    slope: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slope", torch.ones(()))  # a tensor: torch.compile does not recompile

    def forward(self, values: Tensor) -> Tensor:
        """Return the bounded values, of the shape of `values`."""
        return torch.tanh(self.slope * values)

    def extra_repr(self) -> str:
        return f"slope={self.slope.item():g}"


class TanhContinuation:
    r"""Raises the slope of a `ScaledTanh` step by step, as HashNet does.

    $$
    \beta_t = \left(1 + \gamma\, s \lfloor t / s \rfloor\right)^p
    $$

    after $t$ calls of `step`. The defaults are those of the authors' code, with iterations for
    steps. It is a scheduler to PML's trainers, whose hooks save and resume it:
    `lr_schedulers={"embedder_scheduler_by_iteration": TanhContinuation(model.embedder.bound)}`, or
    `"embedder_scheduler_by_epoch"` with a `gamma` for epochs, such as 0.05.

    Args:
        bound: The bound of the hash layer, `HashLayer(..., bound="scaled_tanh").bound`.
        gamma: Growth $\gamma$ per step.
        power: Exponent $p$.
        step_size: Steps $s$ between two changes of the slope.

    Raises:
        TypeError: If `bound` is not a `ScaledTanh`.
        ValueError: If `gamma` or `power` is negative, or `step_size` less than 1.

    Examples:
        >>> from pml_hashing.models import HashLayer, TanhContinuation
        >>> layer = HashLayer(512, 32, bound="scaled_tanh")
        >>> continuation = TanhContinuation(layer.bound, gamma=1.5, step_size=2)
        >>> for _ in range(3):
        ...     continuation.step()
        >>> layer.bound.slope  # (1 + 1.5 * 2) ** 0.5
        tensor(2.)

    References:
        Cao et al., [HashNet: Deep Learning to Hash by Continuation](https://arxiv.org/abs/1702.00758),
        ICCV 2017, Sec. 3.2; authors' code, [thuml/HashNet](https://github.com/thuml/HashNet).
    """

    def __init__(
        self, bound: nn.Module, *, gamma: float = 0.005, power: float = 0.5, step_size: int = 200
    ) -> None:
        if not isinstance(bound, ScaledTanh):
            raise TypeError(
                "Expected `bound` to be a ScaledTanh, as of HashLayer(..., bound='scaled_tanh'), "
                f"got {type(bound).__name__}."
            )
        check_at_least(gamma, 0, "gamma")
        check_at_least(power, 0, "power")
        check_at_least(step_size, 1, "step_size")
        self.bound, self.gamma, self.power, self.step_size = bound, gamma, power, step_size
        self.num_steps = 0
        self._set_slope()

    def step(self) -> None:
        """Count one step, and raise the slope if it is time."""
        self.num_steps += 1
        self._set_slope()

    def state_dict(self) -> dict[str, int]:
        """Return the number of steps taken."""
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue from the number of steps in `state_dict`."""
        self.num_steps = state_dict["num_steps"]
        self._set_slope()

    def _set_slope(self) -> None:
        steps = self.num_steps // self.step_size * self.step_size
        self.bound.slope.fill_((1 + self.gamma * steps) ** self.power)
