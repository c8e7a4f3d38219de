"""Extract the features of a frozen ImageNet backbone for all 60,000 images of CIFAR-10, once.

    PML_HASHING_DATA=DATA python benchmarks/cifar10_features.py OUTPUT.npz

reads `DATA/load_assets.py` (CIFAR-10 and weights as timm models) and writes `features` (float16)
and `labels`, the 50,000 training images first. `benchmarks/cifar10_codes.py` trains on them.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from comparison.data import load_assets, load_backbone
from comparison.options import add_backbone
from comparison.results import write_whole
from torch.nn import functional as F
from tqdm import tqdm


@torch.inference_mode()
def extract(images: np.ndarray, model: torch.nn.Module, img_size: int, device: str) -> np.ndarray:
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    features = []
    for batch in tqdm(torch.from_numpy(images).split(100), desc="extracting"):
        pixels = (batch.permute(0, 3, 1, 2).float() / 255 - mean) / std
        pixels = F.interpolate(pixels, size=img_size, mode="bicubic", antialias=True)
        pixels = pixels.to(device, memory_format=torch.channels_last)
        features.append(model(pixels).half().cpu().numpy())
    return np.concatenate(features)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    add_backbone(parser, "tf_efficientnet_lite0", "DATA")
    parser.add_argument("--img-size", type=int, default=160)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    assets = load_assets(Path(os.environ["PML_HASHING_DATA"]))
    images, labels = assets.cifar10("all")
    model = load_backbone(assets, arguments.backbone, arguments.checkpoint).eval()
    model = model.to(arguments.device, memory_format=torch.channels_last)
    start = time.perf_counter()
    features = extract(images, model, arguments.img_size, arguments.device)
    seconds = time.perf_counter() - start
    print(f"{features.shape} in {seconds:.0f} s: {len(images) / seconds:.0f} images a second")

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, features=features, labels=labels)

    write_whole(arguments.output, write)


if __name__ == "__main__":
    main()
