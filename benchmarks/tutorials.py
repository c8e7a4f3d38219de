"""Make what the tutorials of the command show: its output, and the page, on real photographs.

    PML_HASHING_DATA=DATA python benchmarks/tutorials.py outputs/tutorials

writes the photographs of `DATA/imagenet_compat250` (CC BY 2.0) as three users have them: in one
folder without labels, with a folder for each class, and with a table of several labels. Then it
runs the commands of each tutorial. Needs playwright and a Chromium. Writes `NAME.txt`, the commands
with what they print, which belongs in `docs/generated/tutorials`, `NAME.jpg`, a screenshot for
`docs/images/tutorials`, and `attribution.md`, a table of all photographs that are to be seen.

The weights are taken from `DATA`, by `--checkpoint`, which is left out of what is written: without
it they come from timm's hub, and are the same.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pictures import WEIGHTS, WIDE, keep, served, write_attribution, write_photos

from pml_hashing import Collection

LAST_ANIMAL = 397  # of ImageNet's classes
HELD_OUT_EVERY = 5
COMMANDS = {
    "unlabelled": ["index photos/", "duplicates --radius 4", "search new.jpg --k 4"],
    "classes": [
        "train photos/",
        "index photos --model photos.model --labels folders",
        "evaluate --queries held_out/ --top-k 10",
    ],
    "table": [
        "train labels.csv",
        "index photos --model labels.model --labels labels.csv",
        "search new.jpg --k 4 --where label=bird",
    ],
}


def lay_out(name: str, folder: Path, all_photos: Path, known: dict[str, dict[str, str]]) -> None:
    """Put the photographs where the user of a tutorial has them."""
    copies = {photo for photo in known if photo.endswith(" small.jpg")}
    photos = sorted(known if name == "unlabelled" else known.keys() - copies)
    rows = []
    for number, photo in enumerate(photos):
        kind, _, file = photo.partition("/")
        is_held_out = name == "classes" and number % HELD_OUT_EVERY == 0
        place = "held_out" if is_held_out else "photos"
        target = folder / place / (photo if name == "classes" else file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(all_photos / photo, target)
        is_animal = int(known[photo]["label_0based"]) <= LAST_ANIMAL
        labels = [*(["animal"] if is_animal else []), *([kind] if kind != "other" else [])]
        rows.append((f"photos/{file}", "|".join(labels), known[photo]["author"]))
    if name == "unlabelled":
        (folder / "photos" / "notes.txt").write_text("not a picture")
        cut = (folder / "photos" / photos[0].partition("/")[2]).read_bytes()[:3000]
        (folder / "photos" / "interrupted download.jpg").write_bytes(cut)
    if name != "classes":
        new = next(photo for photo in photos if photo.startswith("bird/")).partition("/")[2]
        shutil.move(folder / "photos" / new, folder / "new.jpg")
        rows = [row for row in rows if row[0] != f"photos/{new}"]
    if name == "table":
        with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([("path", "label", "author"), *rows])


def run(command: str, folder: Path, weights: Path) -> str:
    """Return a command and what it prints."""
    arguments = command.split()
    if arguments[0] == "train" or (arguments[0] == "index" and "--model" not in arguments):
        arguments += ["--checkpoint", str(weights)]
    done = subprocess.run(
        [sys.executable, "-m", "pml_hashing", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
    )  # fmt: skip
    printed = done.stdout.replace(f"{folder.resolve()}/", "")
    return f"$ pml-hashing {command}\n{printed}"


def query_for(name: str, photos: Collection, folder: Path) -> Path:
    """Return a picture that is not in the collection: the median of animals, by what it finds."""
    if name == "table":
        return folder / "new.jpg"
    held_out = [path for path in (folder / "held_out").rglob("*.jpg") if "other" not in path.parts]
    found = photos.search(list(held_out), 6)
    right = {
        path: sum(path.parent.name in match.labels for match in matches)
        for path, matches in zip(held_out, found, strict=True)
    }
    return sorted(held_out, key=lambda path: (right[path], path.name))[len(held_out) // 2]


def shoot(name: str, photos: Collection, folder: Path, path: Path) -> list[str]:
    """Take a screenshot of the page, and return the photographs that are to be seen on it."""
    with served(photos) as (browser, address):
        page: Any = browser.new_page(viewport=WIDE)
        page.goto(address)
        page.locator(".picture").first.wait_for()
        if name == "unlabelled":
            page.get_by_role("button", name="Duplicates").click()
            page.locator("h2").first.wait_for()
        else:
            page.set_input_files("#file", query_for(name, photos, folder))
            page.get_by_text("found in").wait_for()
        if name == "table":
            page.locator("#label").select_option("bird")
            page.wait_for_timeout(500)
        return keep(page, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--only", choices=COMMANDS, action="append")
    arguments = parser.parse_args()
    data, output = Path(os.environ["PML_HASHING_DATA"]), arguments.output
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        all_photos = Path(temporary) / "all"
        known, shown = write_photos(data, all_photos), list[str]()
        path_of = {photo.partition("/")[2]: photo for photo in known}
        for name in arguments.only or COMMANDS:
            folder = Path(temporary) / name
            lay_out(name, folder, all_photos, known)
            texts = [run(command, folder, data / WEIGHTS) for command in COMMANDS[name]]
            (output / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
            photos = Collection.open(folder / "photos.codes")
            names = shoot(name, photos, folder, output / f"{name}.jpg")
            shown += [path_of[name.rpartition("/")[2]] for name in names]
            write_attribution(shown, known, output / "attribution.md")


if __name__ == "__main__":
    main()
