"""A folder of photographs, nobody's labels: a search, and its near-duplicates.

    python examples/collection.py photos --backbone resnet50 --pretrained
    python examples/collection.py   # cuts 120 small pictures out of two photographs

The second time, only what changed in the folder is encoded.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

from pml_hashing import Collection

OUTPUT = Path("outputs/collection")


def cut_pictures(folder: Path) -> None:
    """Fill a folder with pieces of two photographs, every tenth with a smaller copy."""
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(60):
            left, top = number % 10 * 52, number // 10 * 55
            piece = Image.fromarray(photo).crop((left, top, left + 150, top + 150))
            piece.save(folder / name / f"{number:02d}.png")
            if number % 10 == 0:
                piece.resize((100, 100)).save(folder / name / f"{number:02d}_small.jpg")


parser = ArgumentParser()
parser.add_argument("photos", type=Path, nargs="?", default=OUTPUT / "photos")
parser.add_argument("--backbone", default="resnet18")
parser.add_argument("--pretrained", action="store_true", help="start from timm's weights")
parser.add_argument("--checkpoint", help="start from the weights in this file")
args = parser.parse_args()
if args.photos == OUTPUT / "photos" and not args.photos.exists():
    cut_pictures(args.photos)

# --8<-- [start:create]
folder = OUTPUT / f"{args.photos.name}.codes"
if folder.exists():
    photos = Collection.open(folder)
else:  # or Collection.create(folder, model) with a model that you have trained
    weights = {"pretrained": args.pretrained, "checkpoint_path": args.checkpoint}
    photos = Collection.from_itq(folder, args.photos, args.backbone, code_length=64, **weights)
report = photos.sync(args.photos, labels="folders")
print(report)
for error in report.unreadable:
    print(error, file=sys.stderr)
# --8<-- [end:create]

# --8<-- [start:search]
query = photos.names[0]
for match in photos.similar(query, k=5):  # photos.search(...) takes a file, PIL, bytes, pixels
    print(f"{match.distance:3d} bits from {query}: {match.name} {match.labels}")
# --8<-- [end:search]

# --8<-- [start:duplicates]
groups = photos.duplicates(radius=6)
groups.to_csv(OUTPUT / "duplicates.csv")
for group in groups[:5]:
    print(f"keep {group.keep}, not {', '.join(group.extra)}")
# --8<-- [end:duplicates]
