"""Near-duplicates found by radius: codes of a backbone and ITQ, beside the library imagehash.

    python benchmarks/duplicates.py DATA --checkpoint WEIGHTS.safetensors --img-size 160

Of 2,000 photographs (MIML's, which load_assets.py in DATA reads), 100 drawn at random get one copy
each: cropped, scaled, compressed again or mirrored, 25 of each. A pair of a photograph and its copy
is right. Any other pair is counted as false, also where two of the photographs show the same scene.
The first table has the best precision at which a method finds at least so many of the 100, by any
radius; the second what each radius finds.
"""

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
import torch
from comparison.data import load_assets
from comparison.options import add_backbone
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

from pml_hashing import HashingModel
from pml_hashing.codes import hamming_distance
from pml_hashing.models.itq import sample_features

RECALLS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
LENGTHS = (64, 128, 256, 512)
NUM_RADII = 8
RERANKED = {64: 14, 128: 28}
COPIES = ("crop", "scale", "recompress", "mirror")
HASHES = {
    "pHash": (imagehash.phash, (8, 16)),
    "dHash": (imagehash.dhash, (8,)),
    "aHash": (imagehash.average_hash, (8,)),
}


class Pairs(NamedTuple):
    """All pairs of images, and which of them are a photograph and its copy."""

    first: Tensor
    second: Tensor
    kind: Tensor  # place in COPIES, or -1

    @classmethod
    def of(cls, names: Sequence[str]) -> "Pairs":
        first, second = torch.triu_indices(len(names), len(names), 1)
        photo = torch.tensor([int(name[:4]) for name in names])
        copied = torch.tensor([COPIES.index(name[5:-4]) if len(name) > 8 else -1 for name in names])
        kind = torch.maximum(copied[first], copied[second])
        return cls(first, second, torch.where(photo[first] == photo[second], kind, -1))

    def distances(self, packed_codes: Tensor) -> Tensor:
        """Return the Hamming distance of each pair."""
        return hamming_distance(packed_codes, packed_codes)[self.first, self.second]

    def cosine_distances(self, features: Tensor) -> Tensor:
        features = F.normalize(features)
        return 1 - (features @ features.T)[self.first, self.second]


def save_copy(image: Image.Image, kind: str, path: Path) -> None:
    width, height = image.size
    if kind == "crop":  # 5 % off each side
        image = image.crop((width // 20, height // 20, width - width // 20, height - height // 20))
    elif kind == "scale":
        image = image.resize((width // 2, height // 2))
    elif kind == "mirror":
        image = ImageOps.mirror(image)
    image.save(path, quality=30 if kind == "recompress" else 90)


def write_photographs(data: Path, folder: Path) -> list[str]:
    """Write all photographs and the copies, and return their names in order."""
    images = load_assets(data).jpeg_pack(data / "miml2000" / "miml2000.npz")[0]
    drawn = np.random.default_rng(0).permutation(len(images))[:100].tolist()
    for number, image in enumerate(images):
        image.convert("RGB").save(folder / f"{number:04d}.png", compress_level=1)
        if number in drawn:
            kind = COPIES[drawn.index(number) % len(COPIES)]
            save_copy(image.convert("RGB"), kind, folder / f"{number:04d}_{kind}.jpg")
    return sorted(path.name for path in folder.iterdir())


def itq_codes(features: Tensor, code_length: int) -> Tensor:
    """Return packed codes, learned from the features of the images themselves."""
    model = HashingModel.from_itq(
        nn.Identity(), code_length, features=features, num_features=features.shape[1]
    )
    return model.encode(features, progress=False)


def perceptual_codes(
    folder: Path, names: Sequence[str], function: Callable[..., imagehash.ImageHash], size: int
) -> Tensor:
    bits = [function(Image.open(folder / name), hash_size=size).hash.ravel() for name in names]
    return torch.from_numpy(np.packbits(bits, axis=1))


def print_precisions(method: str, pairs: Pairs, distances: Tensor) -> None:
    """Print the best precision of all radii that find at least so many copies."""
    order = distances.sort(stable=True)
    found = (pairs.kind[order.indices] >= 0).cumsum(0)
    ends = torch.cat([order.values[1:] != order.values[:-1], torch.tensor([True])])
    found, count = found[ends], torch.arange(1, len(distances) + 1)[ends]
    precision, num_copies = found / count, (pairs.kind >= 0).sum()
    best = [precision[found >= recall * num_copies].max().item() for recall in RECALLS]
    print(f"{method:38} {' '.join(f'{value:6.3f}' for value in best)}", flush=True)


def print_radii(method: str, pairs: Pairs, distances: Tensor, step: int) -> None:
    """Print precision and recall of the pairs within each radius, and the copies of each kind."""
    for radius in range(0, step * NUM_RADII, step):
        kinds = pairs.kind[distances <= radius]
        counts = [int((kinds == kind).sum()) for kind in range(len(COPIES))]
        shown = "  ".join(f"{k} {n:2d}/25" for k, n in zip(COPIES, counts, strict=True))
        precision, recall = sum(counts) / max(1, len(kinds)), sum(counts) / 100
        print(f"{method:34} {radius:6d} {precision:9.3f} {recall:6.2f}   {shown}", flush=True)


def compute_features(args: Namespace, folder: Path, names: Sequence[str]) -> Tensor:
    """Return the features of all images, from `args.features` where they were kept."""
    if args.features and args.features.exists():
        return torch.load(args.features)
    model = HashingModel(
        args.backbone,
        8,
        img_size=args.img_size,
        checkpoint_path=args.checkpoint,
        pretrained=args.checkpoint is None,
    )
    width, config = model.embedder.in_features, model.data_config
    paths, device = [folder / name for name in names], torch.device("cpu")
    features = sample_features(model.trunk, width, config, paths, len(paths), seed=0, device=device)
    if args.features:
        torch.save(features, args.features)
    return features


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("data", type=Path)
    add_backbone(parser, "tf_efficientnet_lite0")
    parser.add_argument("--img-size", type=int)
    parser.add_argument("--features", type=Path, help="a file to keep the features in")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = write_photographs(args.data, folder)
        features = compute_features(args, folder, names)
        pairs = Pairs.of(names)
        codes = {
            f"{args.backbone[:16]} + ITQ, {bits} bits": itq_codes(features, bits)
            for bits in LENGTHS
        }
        unit = F.normalize(features)
        codes |= {f"  of unit features, {bits} bits": itq_codes(unit, bits) for bits in LENGTHS}
        for name, (function, sizes) in HASHES.items():
            for size in sizes:
                label = f"imagehash {name}, {size * size} bits"
                codes[label] = perceptual_codes(folder, names, function, size)
    distances = {name: pairs.distances(of_images) for name, of_images in codes.items()}
    unlike = {
        "float features, cosine": pairs.cosine_distances(features),
        "float features, centred, cosine": pairs.cosine_distances(features - features.mean(dim=0)),
    }
    for bits, radius in RERANKED.items():  # what is beyond the radius comes last
        within = distances[f"{args.backbone[:16]} + ITQ, {bits} bits"] <= radius
        name = f"ITQ, {bits} bits, within {radius} by cosine"
        unlike[name] = torch.where(within, unlike["float features, cosine"], 9)
    print(f"{'precision at a recall of':38} {' '.join(f'{value:6.2f}' for value in RECALLS)}")
    for name, values in (distances | unlike).items():
        print_precisions(name, pairs, values)
    print(f"\n{'method':34} radius precision recall   found of each kind of copy")
    for name, values in distances.items():
        if "unit" not in name:
            print_radii(name, pairs, values, 2 * codes[name].shape[1] // 8)


if __name__ == "__main__":
    main()
