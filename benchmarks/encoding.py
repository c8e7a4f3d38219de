"""Time HashingModel.encode against the bare forward pass, in memory and into a file.

    python benchmarks/encoding.py > benchmarks/results/encoding_cpu.txt
    python benchmarks/encoding.py --device cuda --backbone resnet50 --images 4096 --batch-size 128

On the CPU: one thread, and CPU time. On a GPU: wall time until all work is done. Each is the least
of several runs in turn, so that all ways meet the same machine. The bare pass is a loop over the
same batches, as they come, that throws the codes away, in eval and inference mode.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from comparison.options import add_backbone
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import pml_hashing
from pml_hashing.models import HashingModel
from pml_hashing.models.encoding import fingerprint

CODE_LENGTH = 64


def least_seconds(
    functions: dict[str, Callable[[], Any]], repeats: int, device: str
) -> dict[str, float]:
    """Return the least time of each function, run in turn."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = {name: float("inf") for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = clock()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            times[name] = min(times[name], clock() - start)
    return times


def bare_pass(model: HashingModel, batches: Any, device: str) -> None:
    model.eval()
    with torch.inference_mode():
        for batch in batches:
            samples: Tensor = batch[0] if isinstance(batch, list) else batch
            model(samples.to(device, non_blocking=True))


def encode_to_new_file(model: HashingModel, inputs: Any, names: Any, **options: Any) -> None:
    model.encode(inputs, path=next(names), **options)


def time_ways(model: HashingModel, images: Tensor, args: argparse.Namespace) -> None:
    dataset = TensorDataset(images, torch.arange(len(images)))
    loader = DataLoader(dataset, args.batch_size, pin_memory=args.device != "cpu")
    options = {"batch_size": args.batch_size, "progress": True}
    with tempfile.TemporaryDirectory() as folder:
        names = (Path(folder) / str(number) for number in count())
        ways = {
            "bare pass over a tensor": partial(
                bare_pass, model, images.split(args.batch_size), args.device
            ),
            "encode, tensor": partial(model.encode, images, **options),
            "encode, tensor, to a file": partial(
                encode_to_new_file, model, images, names, **options
            ),
            "encode, tensor, amp": partial(model.encode, images, amp=True, **options),
            "bare pass over a data set": partial(bare_pass, model, loader, args.device),
            "encode, data set": partial(model.encode, dataset, **options),
            "encode, data set, to a file": partial(
                encode_to_new_file, model, dataset, names, **options
            ),
        }
        seconds = least_seconds(ways, args.repeats, args.device)
    bare = 0.0
    for name, value in seconds.items():
        bare = value if name.startswith("bare") else bare
        print(f"{name:<30} {1000 * value / len(images):>12.4f} {value / bare:>8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    add_backbone(parser, "resnet18", "random ones")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = HashingModel(args.backbone, CODE_LENGTH, checkpoint_path=args.checkpoint)
    model.to(args.device)
    images = torch.randn(args.images, *(model.data_config or {})["input_size"])
    on_gpu = args.device != "cpu"
    where = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, one thread"
    clock = "wall" if on_gpu else "CPU"
    print(
        f"command: python benchmarks/encoding.py --backbone {args.backbone} --device {args.device} "
        f"--images {args.images} --batch-size {args.batch_size} --repeats {args.repeats}"
    )
    if memory := os.environ.get("GLIBC_TUNABLES"):
        print(f"with: GLIBC_TUNABLES={memory}")
    print(f"on: {where}; pml_hashing {pml_hashing.__version__}, torch {torch.__version__}")
    print(
        f"{args.backbone}, {tuple(images.shape)}, {CODE_LENGTH} bits, a progress bar; least "
        f"{clock} time of {args.repeats} runs in turn"
    )
    seconds = least_seconds({"sum": partial(fingerprint, model)}, args.repeats, args.device)["sum"]
    print(f"checksum of the weights, once a file: {1000 * seconds:.1f} ms\n")
    print(f"{'':<30} {'ms an image':>12} {'to bare':>8}")
    time_ways(model, images, args)


if __name__ == "__main__":
    main()
