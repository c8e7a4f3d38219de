"""Fine-tune a backbone of timm on your own images: the recipe of the results page.

    python examples/fine_tune.py photos --pretrained         # photos has a folder for each class
    python examples/fine_tune.py photos.csv --backbone resnet50 --checkpoint resnet50.safetensors

The hash layer is trained first, alone. Part of the images is kept out of the training, and scored
after every epoch. Losses, rates and scores are shown by `tensorboard --logdir outputs/fine_tune`.
A run that was stopped resumes where it was; another training needs another --output. The model is
saved at the end: `pml-hashing index photos --model outputs/fine_tune/model`.
Slow without a GPU: --image-size 128 and --workers 2 help.
"""

import hashlib
import json
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR
from torch.utils.data import DataLoader, Subset, TensorDataset
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms import Compose

from pml_hashing import CodeBank, DSAHLoss, Engine, HashingModel
from pml_hashing.datasets import ImageFiles, retrieval_split
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.models import LIGHT_AUGMENTATION


# --8<-- [start:recipe]
def make_optimizer(model: HashingModel, args: Namespace) -> Optimizer:
    """A trained backbone should change less than the new hash layer."""
    groups = [
        {"params": model.trunk.parameters(), "lr": args.lr * args.trunk_rate},
        {"params": model.embedder.parameters(), "lr": args.lr},
    ]
    return AdamW(groups, weight_decay=args.weight_decay)


def make_schedule(optimizer: Optimizer, steps: int, warm_up: int) -> LRScheduler:
    """Rates grow in the first epoch, then fall to 0 along a cosine."""
    warm_up = min(warm_up, steps - 1)
    parts = [LinearLR(optimizer, 0.01, 1, warm_up), CosineAnnealingLR(optimizer, steps - warm_up)]
    return SequentialLR(optimizer, parts, [warm_up])


def has_weights(args: Namespace) -> bool:
    return args.pretrained or args.checkpoint is not None


def make_model(args: Namespace) -> HashingModel:
    return HashingModel(
        args.backbone,
        args.code_length,
        pretrained=args.pretrained,
        checkpoint_path=args.checkpoint,
        img_size=args.image_size,
        drop_rate=args.drop_rate,
    ).to(args.device)


def training_transform(model: HashingModel, args: Namespace) -> Compose:
    """Images to train on may be smaller than those that are encoded: nearly as good, and faster."""
    changed = {} if args.train_size is None else {"input_size": args.train_size}
    return model.transform(is_training=True, **LIGHT_AUGMENTATION, **changed)


def make_loss(labels: Tensor, num_classes: int, args: Namespace) -> DSAHLoss:
    bank = CodeBank(labels, args.code_length, num_classes=num_classes)
    return DSAHLoss(num_classes, args.code_length, code_bank=bank).to(args.device)


def train_hash_layer(
    model: HashingModel, loss_func: DSAHLoss, part: Subset, args: Namespace
) -> None:
    """Train it alone: a random one would first take apart what the backbone knows."""
    loader = DataLoader(part, args.batch_size, num_workers=args.workers)
    model.eval()
    with torch.no_grad():
        found = [(model.trunk(batch.to(args.device)).cpu(), labels) for batch, labels in loader]
    features, labels = map(torch.cat, zip(*found, strict=True))
    alone = nn.Sequential(nn.Identity(), model.embedder)
    optimizer = AdamW(alone.parameters(), args.lr)
    batch_size = min(args.batch_size, len(labels))
    Engine(
        alone, loss_func, optimizer, TensorDataset(features, labels), batch_size, seed=args.seed
    ).fit(args.head_epochs)


def make_engine(model: HashingModel, loss_func: DSAHLoss, part: Subset, args: Namespace) -> Engine:
    optimizer = make_optimizer(model, args)
    steps = -(-len(part) // args.batch_size)
    return Engine(
        model,
        loss_func,
        optimizer,
        part,
        min(args.batch_size, len(part)),
        lr_schedulers=make_schedule(optimizer, args.epochs * steps, warm_up=steps),
        schedule_by="step",
        num_workers=args.workers,
        amp=args.amp,
        freeze_batch_norm=has_weights(args),  # their statistics suit more images than yours do
        channels_last=True,  # faster convolutions, on a CPU too
        seed=args.seed,
        checkpoint_folder=args.output / "checkpoints",
        checkpoint_every=100,
    )
    # --8<-- [end:recipe]


# --8<-- [start:watch]
class Watch:
    """Logs losses and rates, and scores images that are not trained on after every epoch."""

    def __init__(
        self, model: HashingModel, images: ImageFiles, validation: Tensor, log: Path
    ) -> None:
        self.model, self.log = model, SummaryWriter(str(log))
        self.images = Subset(images.with_transform(model.transform()), validation.tolist())
        self.labels = images.labels[validation]
        counts = self.labels.bincount() if self.labels.ndim == 1 else self.labels.sum(0)
        if counts.max() < 2:
            raise ValueError(
                "Expected validation images of which some share a label, to be scored, got "
                f"{len(validation)} with different ones: keep more out by --validation."
            )

    def step(self, engine: Engine) -> None:
        if engine.global_step % 20 == 0:  # reading the loss makes a GPU wait
            self.log.add_scalar("loss", engine.loss, engine.global_step)

    def epoch(self, engine: Engine) -> None:
        codes = self.model.encode(self.images, progress=False)
        score = mean_average_precision(
            codes, self.labels, codes, self.labels, query_in_database=True
        )
        self.log.add_scalar("mAP of validation images", score, engine.global_step)
        print(
            f"epoch {engine.round}: loss {engine.loss:.3f}, validation mAP {score:.3f}", flush=True
        )
        # --8<-- [end:watch]


def parse_args() -> Namespace:
    parser = ArgumentParser(description="Fine-tune a backbone of timm on your own images.")
    add = parser.add_argument
    add("data", type=Path, help="a folder of class folders, or a CSV file")
    add("--backbone", default="resnet18", help="any name of timm.list_models() (resnet18)")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", action="store_true", help="start from timm's weights")
    weights.add_argument("--checkpoint", type=Path, help="start from the weights of a file")
    add("--image-size", type=int, help="the backbone's own by default")
    add("--train-size", type=int, help="of images that are trained on, smaller: see the tutorial")
    add("--code-length", type=int, default=32, help="number of bits (32)")
    add("--validation", type=float, default=0.1, help="share of images not trained on (0.1)")
    add("--head-epochs", type=int, default=12, help="of the hash layer alone (12)")
    add("--epochs", type=int, default=8, help="of both (8)")
    add("--batch-size", type=int, default=32)
    add("--lr", type=float, default=1e-3, help="of the hash layer (0.001)")
    add("--trunk-rate", type=float, default=0.1, help="rate of the backbone, to --lr (0.1)")
    add("--weight-decay", type=float, default=0.02)
    add("--drop-rate", type=float, default=0.2, help="dropout before the hash layer (0.2)")
    add("--amp", choices=["bf16", "fp16"], help="compute in 16 bits: bf16 on newer GPUs")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--workers", type=int, default=0, help="processes that load images")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path("outputs/fine_tune"))
    return parser.parse_args()


def check_training(images: ImageFiles, args: Namespace) -> None:
    """Raise if --output has another training: its split and its rates would go on unseen."""
    free = ("data", "device", "output", "workers")
    mine = {name: str(value) for name, value in vars(args).items() if name not in free}
    data = json.dumps([images.names, images.classes, images.labels.tolist()])
    mine["data"] = hashlib.sha256(data.encode()).hexdigest()
    path = args.output / "training.json"
    held = json.loads(path.read_text()) if path.exists() else mine
    if other := [name for name in mine if held.get(name) != mine[name]]:
        raise ValueError(
            f"Expected the same {', '.join(other)} as of the training in {args.output}, got "
            "others: remove it, or name another place by --output."
        )
    args.output.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")  # else a killed run leaves half a file
    unfinished.write_text(json.dumps(mine))
    unfinished.replace(path)


def run(args: Namespace) -> None:
    torch.manual_seed(args.seed)
    is_table = args.data.suffix.lower() == ".csv"
    of = ImageFiles.from_csv if is_table else ImageFiles.from_folder
    images = of(args.data).readable(lambda error: print(f"left out: {error}"))
    check_training(images, args)
    num_validation = max(1, round(args.validation * len(images)))
    split = retrieval_split(images.labels, num_queries=num_validation, seed=args.seed)
    model = make_model(args)
    loss_func = make_loss(images.labels[split.train], len(images.classes), args)
    augmented = images.with_transform(training_transform(model, args))
    engine = make_engine(model, loss_func, Subset(augmented, split.train.tolist()), args)
    watch = Watch(model, images, split.query, args.output / "tensorboard")
    engine.resume()  # the latest checkpoint, if there is one
    if engine.round == 0:
        plain = images.with_transform(model.transform())
        train_hash_layer(model, loss_func, Subset(plain, split.train.tolist()), args)
    engine.fit(args.epochs, on_step=watch.step, on_round=watch.epoch)
    model.save_pretrained(args.output / "model")


def main() -> None:
    args = parse_args()
    try:
        run(args)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        sys.exit(f"fine_tune.py: error: {error}")


if __name__ == "__main__":
    main()
