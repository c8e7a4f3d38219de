"""Extract a frozen backbone's features of augmented views of CIFAR-10's first training images.

    PML_HASHING_DATA=DATA python benchmarks/cifar10_views.py OUTPUT.npz --images 5000 --views 4

writes `views` (float16, `(images, views, size)`), which `benchmarks/unsupervised.py` reads. A view
is a crop of half the area or more, mirrored or not, with jittered colours, or grey: as in
contrastive learning, and drawn by the number of its image, so that a longer run begins with the
same views.
"""

import os
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
from comparison.data import load_assets, load_backbone
from comparison.options import add_backbone
from comparison.results import write_whole
from torchvision.transforms import v2
from tqdm import tqdm

JITTER = v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def build_augmentation(img_size: int) -> v2.Compose:
    """Colours are changed before the crop is scaled up: of 25 times fewer pixels at 160."""
    return v2.Compose(
        [
            v2.RandomApply([JITTER], p=0.7),
            v2.RandomGrayscale(p=0.2),
            v2.RandomHorizontalFlip(),
            v2.RandomResizedCrop(
                img_size, (0.5, 1), interpolation=v2.InterpolationMode.BICUBIC, antialias=True
            ),
        ]
    )


def draw_views(image: np.ndarray, number: int, augment: v2.Compose, views: int) -> torch.Tensor:
    torch.manual_seed(number)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return torch.stack([augment(pixels) for _ in range(views)])


@torch.inference_mode()
def extract(images: np.ndarray, model: torch.nn.Module, img_size: int, views: int) -> np.ndarray:
    config = model.pretrained_cfg
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    augment = build_augmentation(img_size)
    features = []
    for start in tqdm(range(0, len(images), 20), desc="extracting"):
        batch = [
            draw_views(image, number, augment, views)
            for number, image in enumerate(images[start : start + 20], start)
        ]
        pixels = (torch.cat(batch).clamp(0, 1) - mean) / std
        outputs = model(pixels.to(memory_format=torch.channels_last))
        features.append(outputs.half().numpy().reshape(len(batch), views, -1))
    return np.concatenate(features)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    add_backbone(parser, "tf_efficientnet_lite0", "DATA")
    parser.add_argument("--img-size", type=int, default=160)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--views", type=int, default=4)
    args = parser.parse_args()
    assets = load_assets(Path(os.environ["PML_HASHING_DATA"]))
    images = assets.cifar10("train")[0][: args.images]
    model = load_backbone(assets, args.backbone, args.checkpoint).eval()
    model = model.to(memory_format=torch.channels_last)
    views = extract(images, model, args.img_size, args.views)

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, views=views)

    write_whole(args.output, write)


if __name__ == "__main__":
    main()
