"""From the images of a batch to its loss: by one network or two, in one process or several."""

from typing import Any

from torch import Tensor

from pml_hashing.codes import at_least_float32
from pml_hashing.trainers._distributed import gather_batch, shared_random_numbers


def codes_of(trainer: Any, data: Any) -> tuple[Tensor, Tensor | None]:
    """Return the codes by the first network, and by the second where there is one.

    Args:
        trainer: An `AsymmetricTrainer`.
        data: Images of a batch, as the data set gives them.
    """
    models, data = trainer.models, trainer.precision.to_device(data, trainer.dtype)
    with trainer.precision.autocast():
        codes, second = trainer.compute_embeddings(data), None
        if "database_trunk" in models:
            second = models["database_embedder"](models["database_trunk"](data))
    return at_least_float32(codes), None if second is None else at_least_float32(second)


def loss_of(trainer: Any, data: Any, labels: Tensor, sample_indices: Tensor) -> Tensor:
    """Return the loss of a batch, the whole of it in every process.

    Args:
        trainer: An `AsymmetricTrainer`.
        data: Images of this process's part of the batch.
        labels: Their labels.
        sample_indices: Places of all samples of the batch.
    """
    codes, second = trainer.networks(data)
    labels = labels.to(trainer.data_device, non_blocking=True)
    codes, labels, second = gather_batch(codes, labels, second, len(sample_indices))
    # Views, since PML takes the same object on both sides for a batch paired with itself.
    sides: dict[str, Any] = (
        {} if second is None else {"ref_emb": second, "ref_labels": labels.view_as(labels)}
    )
    with shared_random_numbers(trainer.seed + trainer.get_global_iteration(), codes.device):
        if "tuple_miner" in trainer.mining_funcs:
            sides["indices_tuple"] = trainer.mining_funcs["tuple_miner"](codes, labels, **sides)
        if "code_bank" in trainer.models:
            sides["sample_indices"] = sample_indices.to(trainer.data_device, non_blocking=True)
        return trainer.loss_funcs["metric_loss"](codes, labels, **sides)
