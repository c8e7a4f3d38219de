"""Time AsymmetricTrainer against a bare timm loop, the losses, and discrete steps by size.

    OMP_NUM_THREADS=1 python benchmarks/training.py > benchmarks/results/training_cpu.txt
    python benchmarks/training.py --device cuda > benchmarks/results/training_cuda.txt
    OMP_NUM_THREADS=1 python benchmarks/training.py --features  # > .../training_features_cpu.txt

The bare loop classifies by cross-entropy, with the same backbone, images, batches, precision and
optimizer. Images are random and in memory, for both. All ways train some steps in turn, so that
they meet the same machine; medians of the repetitions are shown, and of the ratios to the bare loop
in the same repetition. On a CPU times are CPU time, and images are loaded in the process.

On features (`--features`) the networks are small, and what is around them shows: a perceptron of
one hidden layer learns by HashNet's loss in a loop over torch's DataLoader, and in the trainer by
HashNet's and by DSAH's. The data set is one of torch's of tensors, or hands out one sample at a
time.
"""

import os
import platform
import resource
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from statistics import median
from typing import Any

import timm
import torch
from comparison.options import add_backbone
from pytorch_metric_learning.utils import common_functions
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pml_hashing
from pml_hashing import AsymmetricTrainer, CodeBank, DSAHLoss, HashingModel
from pml_hashing.losses import ADSHLoss, HashNetLoss, OrthoHashLoss

CODE_LENGTH, NUM_CLASSES, NUM_SAMPLES = 64, 100, 59_000
LOSSES = {"DSAH": DSAHLoss, "ADSH": ADSHLoss, "HashNet": HashNetLoss, "OrthoHash": OrthoHashLoss}
WITH_BANK = ("DSAH", "ADSH")
CPU = {"backbone": "mobilenetv3_small_050", "image_size": 64, "batch_size": 64, "steps": 20}
CUDA = {"backbone": "resnet50", "image_size": 224, "batch_size": 128, "steps": 20}
FEATURES = {"backbone": "perceptron", "image_size": 0, "batch_size": 128, "steps": 100}
NUM_FEATURES = 512
AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class RandomImages(Dataset[tuple[Tensor, int]]):
    """As many samples as asked for, from few images: decoding is not measured."""

    def __init__(self, size: int, num_images: int = 256) -> None:
        self.images = torch.randn(num_images, 3, size, size)

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index % len(self.images)], index % NUM_CLASSES


class Clock:
    """Seconds of CPU time, or until a GPU has finished."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self) -> float:
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


class BareLoop:
    """Classification by cross-entropy, as short as it can be written."""

    def __init__(self, args: Namespace, images: Dataset[Any], clock: Clock) -> None:
        self.args, self.clock = args, clock
        options = {"memory_format": torch.channels_last} if args.channels_last else {}
        self.model = timm.create_model(args.backbone, num_classes=NUM_CLASSES)
        if args.checkpoint is not None:
            trunk = HashingModel(args.backbone, 1, checkpoint_path=args.checkpoint).trunk
            self.model.load_state_dict(trunk.state_dict(), strict=False)
        self.model.to(args.device, **options).train()
        self.options = {"non_blocking": True} | options
        if args.compile:
            self.model.compile()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01)
        self.scaler = torch.amp.GradScaler(args.device.type, enabled=args.amp == "fp16")
        self.loader = DataLoader(
            images,
            args.batch_size,
            shuffle=True,
            num_workers=args.workers,
            pin_memory=args.device.type == "cuda",
            persistent_workers=args.workers > 0,
        )

    def __call__(self) -> float:
        """Return the seconds of a step."""
        start, dtype = 0.0, AMP[self.args.amp]
        for step, (images, labels) in enumerate(self.loader):
            self.optimizer.zero_grad()
            with torch.autocast(self.args.device.type, dtype, enabled=dtype is not None):
                logits = self.model(images.to(self.args.device, **self.options))
            loss = nn.functional.cross_entropy(
                logits.float(), labels.to(self.args.device, non_blocking=True)
            )
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if step == 0:
                start = self.clock()
            if step == self.args.steps:
                break
        return (self.clock() - start) / self.args.steps


class OneByOne(Dataset[tuple[Tensor, Tensor]]):
    """Features, one sample at a time, as a data set that one writes has them."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.tensors[0][index], self.tensors[1][index]


class BareLoopOnFeatures:
    """HashNet's loss in a loop over torch's DataLoader."""

    def __init__(self, features: Dataset[Any], batch_size: int, steps: int, clock: Clock) -> None:
        self.model, self.loss_func, self.clock = perceptron(), HashNetLoss(), clock
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01)
        self.loader, self.steps = DataLoader(features, batch_size, shuffle=True), steps

    def __call__(self) -> float:
        """Return the seconds of a step."""
        start = 0.0
        for step, (data, labels) in enumerate(self.loader):
            self.optimizer.zero_grad()
            self.loss_func(self.model(data), labels).backward()
            self.optimizer.step()
            if step == 0:
                start = self.clock()
            if step == self.steps:
                break
        return (self.clock() - start) / self.steps


def perceptron() -> nn.Module:
    layers = nn.Linear(NUM_FEATURES, 256), nn.ReLU(), nn.Linear(256, CODE_LENGTH), nn.Tanh()
    return nn.Sequential(*layers)


class Ours:
    """Rounds of an AsymmetricTrainer."""

    def __init__(self, loss_name: str, args: Namespace, images: Dataset[Any], clock: Clock) -> None:
        self.args, self.clock, self.round = args, clock, 0
        self.start = self.seconds = 0.0
        if args.features:
            models: dict[str, nn.Module] = {"trunk": perceptron()}
        else:
            model = HashingModel(args.backbone, CODE_LENGTH, checkpoint_path=args.checkpoint)
            model.to(args.device)
            models = {"trunk": model.trunk, "embedder": model.embedder}
        optimizers = {
            f"{name}_optimizer": torch.optim.SGD(part.parameters(), 0.01)
            for name, part in models.items()
        }
        self.loss_func = make_loss(loss_name, args.device, len(images))  # pyright: ignore[reportArgumentType]
        if loss_name in WITH_BANK:
            models["code_bank"] = self.loss_func.code_bank
        self.trainer = AsymmetricTrainer(
            models,
            optimizers,
            args.batch_size,
            {"metric_loss": self.loss_func},
            images,
            amp=AMP[args.amp] and args.amp,
            channels_last=args.channels_last,
            compile=args.compile,
            iterations_per_epoch=args.steps + 1,
            dataloader_num_workers=args.workers,
            data_device=args.device,
            end_of_iteration_hook=self.note,
        )

    def note(self, trainer: AsymmetricTrainer) -> None:
        if trainer.iteration == 0:
            self.start = self.clock()
        if trainer.iteration == self.args.steps:
            self.seconds = (self.clock() - self.start) / self.args.steps

    def __call__(self) -> float:
        """Return the seconds of a step."""
        self.round += 1
        self.trainer.train(self.round, self.round)
        return self.seconds


def make_loss(name: str, device: torch.device, size: int = NUM_SAMPLES) -> Any:
    labels = torch.arange(size) % NUM_CLASSES
    if name in WITH_BANK:
        bank = CodeBank(labels, CODE_LENGTH).to(device)
        return LOSSES[name](NUM_CLASSES, CODE_LENGTH, code_bank=bank).to(device)
    if name == "OrthoHash":
        return OrthoHashLoss(NUM_CLASSES, CODE_LENGTH).to(device)
    return LOSSES[name]().to(device)


def time_loss(name: str, args: Namespace, clock: Clock) -> float:
    """Return the seconds of a loss and its gradient for the codes of a batch."""
    loss_func = make_loss(name, args.device)
    places = torch.randperm(NUM_SAMPLES)[: args.batch_size].to(args.device)
    codes = torch.randn(args.batch_size, CODE_LENGTH, device=args.device).tanh().requires_grad_()
    extra = {"sample_indices": places} if name in WITH_BANK else {}

    def run() -> None:
        for _ in range(20):
            loss_func(codes, places % NUM_CLASSES, **extra).backward()

    return median(seconds_of(run, clock, 5)) / 20


def seconds_of(function: Callable[[], Any], clock: Clock, repeats: int) -> list[float]:
    """Return how long each call took, after a warm-up call."""
    function()
    seconds = []
    for _ in range(repeats):
        start = clock()
        function()
        seconds.append(clock() - start)
    return seconds


def memory_of(device: torch.device) -> float:
    """Return the peak memory in MB, of this process or of the GPU."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def time_steps(args: Namespace, clock: Clock) -> None:
    print("Steps of training")
    print(f"{'':12}{'images/s':>10}{'of bare':>9}{'spread':>16}{'loss':>8}{'peak MB':>9}")
    images = RandomImages(args.image_size)
    ways: dict[str, Any] = {"bare loop": BareLoop(args, images, clock)}
    ways |= {name: Ours(name, args, images, clock) for name in args.losses}
    peaks = dict.fromkeys(ways, 0.0)
    for way in ways.values():  # warm up
        way()
    memory_of(args.device)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            seconds[name].append(way())
            peaks[name] = memory_of(args.device)
    for name, times in seconds.items():
        ratios = sorted(b / t for b, t in zip(seconds["bare loop"], times, strict=True))
        loss = time_loss(name, args, clock) / median(times) if name in LOSSES else 0.0
        print(
            f"{name:12}{args.batch_size / median(times):10.1f}{median(ratios):9.1%}"
            f"{f'{ratios[0]:.1%}-{ratios[-1]:.1%}':>16}{loss:8.2%}{peaks[name]:9.0f}",
            flush=True,
        )


def time_steps_on_features(args: Namespace, clock: Clock) -> None:
    print(f"Steps on {NUM_FEATURES} features, batches of {args.batch_size}, {args.steps} steps")
    print(f"{'':32}{'ms a step':>10}{'of bare':>9}{'spread':>14}")
    tensors = torch.randn(20_000, NUM_FEATURES), torch.arange(20_000) % NUM_CLASSES
    for kind in (TensorDataset, OneByOne):
        features = kind(*tensors)
        bare = BareLoopOnFeatures(features, args.batch_size, args.steps, clock)
        ways: dict[str, Any] = {"bare loop": bare}
        ways |= {name: Ours(name, args, features, clock) for name in ("HashNet", "DSAH")}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(1 + args.repeats):
            for name, way in ways.items():
                seconds[name] += [way()][:repeat]  # the first one warms up
        for name, times in seconds.items():
            pairs = zip(times, seconds["bare loop"], strict=True)
            ratios = sorted(ours / of_bare for ours, of_bare in pairs)
            spread = f"{ratios[0]:.2f}-{ratios[-1]:.2f}"
            label = f"{kind.__name__}, {name}"
            figures = f"{1000 * median(times):10.2f}{median(ratios):9.2f}{spread:>14}"
            print(f"{label:32}{figures}", flush=True)


def time_discrete_steps(args: Namespace, clock: Clock) -> None:
    print(f"\nupdate_codes: seconds, {CODE_LENGTH} bits, {NUM_CLASSES} classes")
    print(f"{'samples':>12}" + "".join(f"{name:>9}{'us/sample':>11}" for name in WITH_BANK))
    for size in args.sizes:
        line = f"{size:12,}"
        for name in WITH_BANK:
            labels = torch.arange(size, device=args.device) % NUM_CLASSES
            bank = CodeBank(labels, CODE_LENGTH).to(args.device)
            loss_func = LOSSES[name](NUM_CLASSES, CODE_LENGTH, code_bank=bank).to(args.device)
            bank.query_codes.normal_().tanh_()
            seconds = median(seconds_of(loss_func.update_codes, clock, 3))
            line += f"{seconds:9.3f}{seconds / size * 1e6:11.2f}"
        print(line, flush=True)
    print(f"peak memory: {memory_of(args.device):.0f} MB")


def describe(args: Namespace) -> None:
    on_gpu = args.device.type == "cuda"
    name = torch.cuda.get_device_name(args.device) if on_gpu else platform.processor()
    print(f"command: python benchmarks/training.py {' '.join(sys.argv[1:])}".rstrip())
    print(f"device: {name or platform.machine()}, {torch.get_num_threads()} threads on the CPU")
    print(
        f"versions: pml_hashing {pml_hashing.__version__}, torch {torch.__version__}, "
        f"timm {timm.__version__}, Python {platform.python_version()}"
    )
    print(
        f"training: {args.backbone}, {args.image_size} px, batches of {args.batch_size}, amp "
        f"{args.amp}, channels_last {args.channels_last}, compile {args.compile}, {args.workers} "
        f"workers; {args.repeats} repetitions of {args.steps} steps; n = {NUM_SAMPLES:,}"
    )
    load = os.getloadavg()[0]
    print(f"load of the machine: {load:.1f} on {os.cpu_count()} cores\n", flush=True)


def parse_args() -> Namespace:
    parser = ArgumentParser(description="Time the trainer, its losses and its discrete steps.")
    add = parser.add_argument
    add("--device", type=torch.device, default=torch.device("cpu"))
    add_backbone(parser, None, "random ones")
    add("--features", action="store_true", help="steps on features in place of images")
    add("--image-size", type=int)
    add("--batch-size", type=int)
    add("--steps", type=int, help="steps of a repetition")
    add("--repeats", type=int, default=7)
    add("--amp", choices=AMP, help="bf16 on a GPU, else none")
    add("--channels-last", action="store_true", default=None, help="always on a GPU")
    add("--compile", action="store_true")
    add("--workers", type=int, help="8 for a GPU, else none")
    add("--losses", nargs="*", choices=LOSSES, default=list(LOSSES))
    add("--sizes", nargs="*", type=int, default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    args = parser.parse_args()
    on_gpu = args.device.type == "cuda"
    defaults = CUDA if on_gpu else CPU
    if args.features:
        defaults |= FEATURES
    defaults |= {"amp": "bf16" if on_gpu else "none", "channels_last": on_gpu}
    defaults |= {"workers": 8 if on_gpu else 0}
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def main() -> None:
    args = parse_args()
    torch.manual_seed(0)
    common_functions.NUMPY_RANDOM.seed(0)
    clock = Clock(args.device)
    describe(args)
    if args.features:
        time_steps_on_features(args, clock)
        return
    time_steps(args, clock)
    time_discrete_steps(args, clock)


if __name__ == "__main__":
    main()
