"""The only imports of what the next major version of PML makes private or removes."""

from typing import Any

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


try:
    from pytorch_metric_learning.testers import GlobalEmbeddingSpaceTester
    from pytorch_metric_learning.trainers import BaseTrainer
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
except ImportError:
    AccuracyCalculator = BaseTrainer = GlobalEmbeddingSpaceTester = _Removed  # type: ignore[misc,assignment]
