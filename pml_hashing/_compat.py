"""The only imports of what the next major version of PML makes private or removes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pytorch_metric_learning.utils import common_functions, loss_and_miner_utils
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

__all__ = [
    "AccuracyCalculator",
    "BaseTrainer",
    "DistributedLossWrapper",
    "GlobalEmbeddingSpaceTester",
    "common_functions",
    "loss_and_miner_utils",
]


class _Removed:
    """Stands for a class that the installed PML no longer has."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(
            f"{type(self).__name__} needs the trainers, testers and accuracy calculator of "
            "pytorch-metric-learning 2.9, which version 3 removed: "
            'pip install "pytorch-metric-learning>=2.9,<3"'
        )


if TYPE_CHECKING:
    from pytorch_metric_learning.testers import GlobalEmbeddingSpaceTester
    from pytorch_metric_learning.trainers import BaseTrainer
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
else:
    REMOVED = {
        "AccuracyCalculator": "utils.accuracy_calculator",
        "BaseTrainer": "trainers",
        "GlobalEmbeddingSpaceTester": "testers",
    }

    def __getattr__(name: str) -> type:
        """Return a class of version 2 when it is asked for, as scikit-learn comes with it."""
        if name not in REMOVED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            found = getattr(import_module(f"pytorch_metric_learning.{REMOVED[name]}"), name)
        except ImportError:
            found = _Removed
        return globals().setdefault(name, found)
