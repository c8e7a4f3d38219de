"""What `test_distributed.py` runs in two processes: `python distributed_training.py FOLDER RANK`.

The test runs the same functions in one process, and compares.
"""

import contextlib
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from pytorch_metric_learning.losses import ContrastiveLoss, ProxyAnchorLoss
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Subset, TensorDataset

from pml_hashing import CodeBank, DSAHLoss
from pml_hashing.codes import binarize
from pml_hashing.distributed import (
    broadcast,
    from_first_rank,
    gather_rows,
    of_all_ranks,
    parts,
    rank,
    shard,
    world_size,
)
from pml_hashing.evaluation import average_precision
from pml_hashing.losses import (
    ADSHLoss,
    DADHLoss,
    DCWHLoss,
    DCWHSchedule,
    DHNLoss,
    DPSHLoss,
    HashNetLoss,
)
from pml_hashing.miners import AffinityGraphMiner
from pml_hashing.trainers import AsymmetricTrainer, Engine, EveryRank, _processes

RANKS, ROUNDS, BATCH = 2, 3, 16  # samples of a batch in all processes together
DTYPES = (torch.float32, torch.float64)
CLASS_IDS = torch.arange(37) % 3  # batches of 13, 12 and 12: parts of 6 and 7
MULTI_HOT = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 1]])[CLASS_IDS]


def make_data(labels):
    images = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(0))
    return TensorDataset(images + 2 * nn.functional.one_hot(CLASS_IDS, 5), labels)


def make_trainer(loss, labels=CLASS_IDS, num_networks=1, dropout=0.0, **kwargs):
    """Return a trainer of a loss, or of one that is made with a code bank."""
    torch.manual_seed(rank())  # the first process's weights are to count
    models = {}
    for name in ("", "database_")[:num_networks]:
        models[f"{name}trunk"] = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Dropout(dropout))
        models[f"{name}embedder"] = nn.Sequential(nn.Linear(12, 8), nn.Tanh())
    trained = dict(models)
    if not isinstance(loss, nn.Module):
        models["code_bank"] = CodeBank(labels, 8, num_networks=num_networks)
        loss = loss(3, 8, code_bank=models["code_bank"])
    elif list(loss.parameters()):
        trained["metric_loss"] = loss
    return AsymmetricTrainer(
        models,
        {f"{k}_optimizer": torch.optim.SGD(m.parameters(), 0.1) for k, m in trained.items()},
        loss_funcs={"metric_loss": loss},
        **{"dataset": make_data(labels), "batch_size": BATCH // world_size()}
        | {"dataloader_num_workers": 0, "data_device": "cpu"}
        | kwargs,
    )


def train(loss, labels=CLASS_IDS, num_networks=1, **kwargs):
    """Return all that a training ends with, and the mean average precision of its networks."""
    trainer = make_trainer(loss, labels, num_networks, **kwargs)
    trainer.train(num_epochs=ROUNDS - 1)
    trainer.train(ROUNDS, ROUNDS)
    state = {k: v.state_dict() for k, v in (trainer.models | trainer.loss_funcs).items()}
    return state | {"map": mean_average_precision(trainer, labels)}


def mean_average_precision(trainer, labels):
    """Encode and evaluate, in each process its part."""
    data = make_data(labels)
    mine = torch.stack([image for image, _ in shard(data)])
    model = nn.Sequential(trainer.models["trunk"], trainer.models["embedder"]).eval()
    codes = gather_rows(binarize(model(mine)))
    queries = parts(len(codes))[rank()]
    scores = average_precision(codes[queries], labels[queries], codes, labels)
    return gather_rows(scores).mean().item()


def train_engine(**options):
    """Return all that an engine's training ends with, and the mean average precision."""
    torch.manual_seed(rank())
    trunk = nn.Sequential(nn.Linear(5, 12), nn.ReLU())
    network = nn.Sequential(trunk, nn.Sequential(nn.Linear(12, 8), nn.Tanh()))
    loss = ADSHLoss(3, 8, code_bank=CodeBank(CLASS_IDS, 8))
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    data = make_data(CLASS_IDS)
    engine = Engine(network, loss, optimizer, data, BATCH // world_size(), **options)
    engine.fit(ROUNDS)
    state = {"network": network.state_dict(), "code_bank": loss.code_bank.state_dict()}
    codes = binarize(network.eval()(data.tensors[0]))
    return state | {"map": average_precision(codes, CLASS_IDS, codes, CLASS_IDS).mean().item()}


def train_unfrozen():
    """Return how a training ends whose trunk is frozen in the first of two rounds, by a hook."""

    def unfreeze(trainer):
        trainer.models["trunk"].requires_grad_(True)

    trainer = make_trainer(ProxyAnchorLoss(3, 8), end_of_epoch_hook=unfreeze)
    trainer.models["trunk"].requires_grad_(False)
    trainer.train(num_epochs=2)
    state = {k: v.state_dict() for k, v in trainer.models.items()}
    return state | {"map": mean_average_precision(trainer, CLASS_IDS)}


TRAININGS = {
    "dsah": lambda: train(DSAHLoss),
    "dsah_multi_hot": lambda: train(DSAHLoss, MULTI_HOT, 2),
    "adsh": lambda: train(ADSHLoss, CLASS_IDS, 2),
    "adsh_multi_hot": lambda: train(ADSHLoss, MULTI_HOT),
    "dadh": lambda: train(DADHLoss, CLASS_IDS, 2, passes_per_round=2),
    "accumulated": lambda: train(ADSHLoss, accumulate_steps=2),
    "engine": train_engine,
    "engine_accumulated": lambda: train_engine(accumulate_steps=3),
    "mini_batch": lambda: train(DSAHLoss(3, 8), MULTI_HOT),
    "mined_pairs": lambda: train(
        ContrastiveLoss(), mining_funcs={"tuple_miner": AffinityGraphMiner(num_neighbors=2)}
    ),
    "proxies": lambda: train(ProxyAnchorLoss(3, 8)),
    "frozen": lambda: train(DSAHLoss, num_networks=2, freeze_these=("database_trunk",)),
    "unfrozen": train_unfrozen,
    "all_frozen": lambda: train(ProxyAnchorLoss(3, 8), freeze_these=("trunk", "embedder")),
}


def dropout():
    """Return the losses of processes that draw other random numbers, and what they drew."""
    losses, drawn = [], []

    def look(trainer):
        losses.append(trainer.losses["metric_loss"].item())
        drawn.append(torch.rand(3 + rank())[:3])

    train(partial(DADHLoss, bank_samples=5), dropout=0.5, end_of_iteration_hook=EveryRank(look))
    return losses, torch.stack(drawn)


class Witness(nn.Module):
    """A loss that keeps the features it is given, and the random numbers of every part of a batch.

    It is one of the codes alone.
    """

    num_classes, wants_features = 3, True

    def use_features(self, features, labels):
        self.features, self.labels, self.wants_features = features, labels, False
        self.drawn = []

    def forward(self, codes, labels):
        self.drawn.append(torch.rand(()).item())
        return codes.square().mean()


def features():
    """Return the features of all samples and their labels, as a loss is given them."""
    witness = Witness()
    make_trainer(witness).train()
    return [witness.features, witness.labels]


def draws():
    """Return what a loss drew, for each part of a batch."""
    witness = Witness()
    make_trainer(witness, accumulate_steps=2).train(num_epochs=2)
    return witness.drawn


def schedule():
    """Return the centers that a scheduler set, from samples with other noise in each process."""

    class Noisy:
        def __iter__(self):
            images, labels = make_data(CLASS_IDS).tensors
            yield images + torch.randn_like(images), labels

    loss = DCWHLoss(3, 8)
    trainer = make_trainer(loss)
    model = nn.Sequential(trainer.models["trunk"], trainer.models["embedder"])
    before, schedule = loss.centers.clone(), DCWHSchedule(loss, 1, model, Noisy())
    trainer.lr_schedulers["metric_loss_scheduler_by_epoch"] = schedule
    trainer.train()
    return before, loss.centers.clone()


def resume(folder):
    """Return how a training ends, and how it ends that was stopped in a round and resumed."""

    def stop(trainer):
        if trainer.get_global_iteration() == 4:
            raise KeyboardInterrupt

    ends = []
    for name, hook in (("whole", None), ("stopped", EveryRank(stop))):
        kwargs = {"dropout": 0.5, "checkpoint_folder": folder / name, "checkpoint_every": 2}
        trainer = make_trainer(DSAHLoss, **kwargs, end_of_iteration_hook=hook)
        with contextlib.suppress(KeyboardInterrupt):
            trainer.train(num_epochs=2)
        if hook:
            trainer = make_trainer(DSAHLoss, **kwargs)
            trainer.train(trainer.resume(), 2)
        trainer.train(3, 3)
        newest = trainer.checkpoints.newest.name
        ends.append(({k: v.state_dict() for k, v in trainer.models.items()}, newest))
    return ends


def hooks():
    """Return who called hooks, and the learning rates after one changed them."""
    calls = []

    def end(trainer):
        calls.append(("end", rank(), trainer.epoch))
        for group in trainer.optimizers["trunk_optimizer"].param_groups:
            group["lr"] *= 0.5
        return trainer.epoch < 2

    def step(trainer):
        calls.append(("step", rank(), trainer.iteration))

    trainer = make_trainer(DSAHLoss, end_of_epoch_hook=end, end_of_iteration_hook=step)
    trainer.train(num_epochs=5)
    calls.append(trainer.optimizers["trunk_optimizer"].param_groups[0]["lr"])
    return calls


def hooks_of_every_rank():
    """Return what a hook gathered from all processes."""
    gathered, steps = [], []

    def end(trainer):
        gathered.append(gather_rows(torch.tensor([rank()])).tolist())
        return rank() > 0  # the first process says no

    trainer = make_trainer(
        DSAHLoss,
        end_of_epoch_hook=EveryRank(end),
        end_of_iteration_hook=EveryRank(lambda trainer: steps.append(trainer.iteration)),
    )
    trainer.train(num_epochs=5)
    return gathered, steps


def averages():
    """Return the steps that were made, and how often gradients were averaged in them."""
    calls = []

    def count(_, bucket):
        calls.append(bucket.index())
        return allreduce_hook(None, bucket)

    class Counted(DistributedDataParallel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_comm_hook(None, count)

    made = []
    for steps in (1, 3):
        calls.clear()
        trainer = make_trainer(DSAHLoss, num_networks=2, accumulate_steps=steps)
        with mock.patch.object(_processes, "DistributedDataParallel", Counted):
            trainer.train(num_epochs=2)
        made.append((2 * trainer.iterations_per_epoch, len(calls), set(calls)))
    return made


def rows():
    """Return rows gathered of several dtypes and shapes, some processes having none."""
    return {
        "uneven": gather_rows(torch.arange(3.0 + rank())[:, None] + 10 * rank()),
        "empty": gather_rows(torch.full((rank(), 2), rank(), dtype=torch.bfloat16)),
        "bool": gather_rows(torch.tensor([rank() == 1])),
        "no_width": gather_rows(torch.zeros(1, 0)).shape,
        "none": gather_rows(torch.zeros(0, 3)).shape,
        "objects": of_all_ranks(str(rank())),
        "parts": [(part.start, part.stop) for part in parts(5)],
        "shard": [int(item[0]) for item in shard(TensorDataset(torch.arange(5)))],
    }


def first_process():
    """Return what all processes take over from the first."""
    values = [torch.full((2, 3), float(rank())).T, torch.tensor(rank() == 0), torch.zeros(0)]
    broadcast(values)
    return values, from_first_rank(rank)


def wrapped():
    """Return the gradients of a plain loop with PML's wrapper, whose labels are multi-hot."""
    torch.manual_seed(0)
    network = nn.Linear(5, 8)
    data, labels = make_data(MULTI_HOT)[:BATCH]
    mine = parts(BATCH)[rank()]
    gradients = []
    discrete = [loss(3, 8) for loss in (DSAHLoss, ADSHLoss, DADHLoss)]
    for loss in (HashNetLoss(), DPSHLoss(), DHNLoss(), *discrete):
        model = DistributedDataParallel(network) if world_size() > 1 else network
        whole = DistributedLossWrapper(loss) if world_size() > 1 else loss
        network.zero_grad()
        whole(model(data[mine]), labels[mine]).backward()
        gradients.append(network.weight.grad.clone())
    return gradients


def error_of(function):
    try:
        function()
    except (ValueError, RuntimeError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def fail(*_):
    raise OSError("disk full")


def errors(folder):
    """Return the errors of trainings that cannot be shared."""
    (folder / "file").touch()
    unwritable = {"checkpoint_folder": folder / "file" / "checkpoints"}
    smaller = Subset(make_data(CLASS_IDS), range(37 - rank()))
    return {
        "samples": error_of(lambda: make_trainer(ContrastiveLoss(), dataset=smaller).train()),
        "start": error_of(lambda: make_trainer(DSAHLoss).train(1 + rank(), 3)),
        "batches": error_of(lambda: train_singles(world_size() + 1)),
        "subset": error_of(
            lambda: make_trainer(ContrastiveLoss(), mining_funcs={"subset_batch_miner": fail})
        ),
        "hook": error_of(lambda: make_trainer(DSAHLoss, end_of_epoch_hook=fail).train()),
        "folder": error_of(lambda: make_trainer(DSAHLoss, **unwritable).train()),
        "rates": error_of(lambda: train_at_rates(lambda _: None, 0.1 * (1 + rank()))),
        "changed_rate": error_of(lambda: train_at_rates(slow_down)),
        "rows": error_of(lambda: gather_rows(torch.zeros(1, 2, dtype=DTYPES[rank()]))),
        "width": error_of(lambda: gather_rows(torch.zeros(1, 2 + rank()))),
        "shard": error_of(lambda: shard(TensorDataset(torch.zeros(1)))),
    }


def train_singles(samples):
    dataset = Subset(make_data(CLASS_IDS), range(samples))
    trainer = make_trainer(ContrastiveLoss(), dataset=dataset, batch_size=1)
    trainer.train()


def train_at_rates(hook, rate=0.1):
    trainer = make_trainer(ContrastiveLoss(), end_of_iteration_hook=hook)
    for group in trainer.optimizers["trunk_optimizer"].param_groups:
        group["lr"] = rate
    trainer.train()


def slow_down(trainer):
    """In the first process alone, which others do not know of."""
    trainer.optimizers["trunk_optimizer"].param_groups[0]["lr"] = 0.05


def seeded(function):
    torch.manual_seed(0)
    return function()


def run():
    """Return the results of everything here, in one process or in one of several."""
    return {name: seeded(function) for name, function in TRAININGS.items()} | {
        "wrapped": seeded(wrapped),
        "features": seeded(features),
    }


def run_among_others(folder):
    """Return the results of what only several processes do."""
    functions = (
        dropout,
        draws,
        schedule,
        hooks,
        hooks_of_every_rank,
        averages,
        rows,
        first_process,
    )
    results = {function.__name__: seeded(function) for function in functions}
    return results | {"errors": errors(folder), "resume": resume(folder)}


def main(folder, number):
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting_point",
        rank=number,
        world_size=RANKS,
        timeout=timedelta(seconds=120),
    )
    torch.save(run() | run_among_others(folder), folder / f"{number}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
