"""Near-duplicates found by radius: codes of a backbone and ITQ, beside the library imagehash.

    python benchmarks/duplicates.py DATA --checkpoint WEIGHTS.safetensors --img-size 160

Of 2,000 photographs (MIML's, which load_assets.py in DATA reads), 100 drawn at random get one copy
each: cropped, scaled, compressed again or mirrored, 25 of each. A pair of a photograph and its copy
within the radius is right. Any other pair is counted as false, also where two of the photographs
show the same scene.
"""

import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path

import imagehash
import numpy as np
import torch
from comparison.data import load_assets
from PIL import Image, ImageOps

from pml_hashing import Collection, HammingKNN

RADII = (0, 2, 4, 6, 8, 10, 12, 14)
COPIES = ("crop", "scale", "recompress", "mirror")
HASHES = {"pHash": imagehash.phash, "dHash": imagehash.dhash, "aHash": imagehash.average_hash}


def save_copy(image: Image.Image, kind: str, path: Path) -> None:
    width, height = image.size
    if kind == "crop":  # 5 % off each side
        image = image.crop((width // 20, height // 20, width - width // 20, height - height // 20))
    elif kind == "scale":
        image = image.resize((width // 2, height // 2))
    elif kind == "mirror":
        image = ImageOps.mirror(image)
    image.save(path, quality=30 if kind == "recompress" else 90)


def write_photographs(data: Path, folder: Path) -> None:
    images = load_assets(data).jpeg_pack(data / "miml2000" / "miml2000.npz")[0]
    drawn = np.random.default_rng(0).permutation(len(images))[:100].tolist()
    for number, image in enumerate(images):
        image.convert("RGB").save(folder / f"{number:04d}.png")
        if number in drawn:
            kind = COPIES[drawn.index(number) % len(COPIES)]
            save_copy(image.convert("RGB"), kind, folder / f"{number:04d}_{kind}.jpg")


def score(method: str, names: list[str], codes: torch.Tensor) -> None:
    """Print precision and recall of the pairs within each radius, and recall of each kind."""
    knn = HammingKNN()
    knn.train(codes, names)
    for radius in RADII:
        _, found = knn.range_search(codes, radius)
        pairs = {
            (a, str(b)) for a, row in zip(names, found, strict=True) for b in row if a < str(b)
        }
        right = [second for first, second in pairs if first[:4] == second[:4]]
        kinds = "  ".join(f"{kind} {sum(kind in name for name in right):2d}/25" for kind in COPIES)
        precision = len(right) / max(1, len(pairs))
        print(f"{method:24} {radius:6d} {precision:9.3f} {len(right) / 100:6.2f}   {kinds}")


def main() -> None:
    parser = ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--checkpoint")
    parser.add_argument("--img-size", type=int)
    args = parser.parse_args()
    options = {"checkpoint_path": args.checkpoint, "pretrained": args.checkpoint is None}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photos"
        folder.mkdir()
        write_photographs(args.data, folder)
        print(f"{'method':24} radius precision recall   found of each kind of copy")
        start = time.perf_counter()
        photos = Collection.from_itq(
            Path(temporary) / "codes", folder, args.backbone, 64, img_size=args.img_size, **options
        )
        photos.sync(folder)
        seconds = time.perf_counter() - start
        score(f"{args.backbone[:16]} + ITQ", photos.names, photos.codes())
        print(f"{seconds:.0f} s to learn and encode {len(photos)} images")
        for name, function in HASHES.items():
            start = time.perf_counter()
            bits = [function(Image.open(folder / each)).hash.ravel() for each in photos.names]
            seconds = time.perf_counter() - start
            score(f"imagehash {name}", photos.names, torch.from_numpy(np.packbits(bits, axis=1)))
            print(f"{seconds:.0f} s to hash")


if __name__ == "__main__":
    main()
