"""Make the photographs of the README and the docs: a gallery, and screenshots of the search page.

    PML_HASHING_DATA=DATA python benchmarks/pictures.py outputs/pictures [--model MODEL]

reads `DATA/imagenet_compat250`, photographs under CC BY 2.0 with their authors, and learns codes of
128 bits without labels (ITQ) on a frozen backbone, from these and from every second picture of
`DATA/miml2000`; or takes a model that was saved. Needs matplotlib, playwright and a Chromium.
Writes `gallery.jpg`, `search.jpg`, `duplicates.jpg` and `attribution.md`, a table of all
photographs that are to be seen.
"""

import argparse
import csv
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn
from comparison.data import load_assets
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from pml_hashing import Collection, HashingModel
from pml_hashing.serve import create_app
from pml_hashing.visualize import plot_retrieval

KINDS = {  # of ImageNet's classes, which are in the order of WordNet
    "bird": [*range(7, 25), *range(80, 101), *range(127, 147)],
    "reptile": [*range(25, 69)],
    "dog": [*range(151, 269)],
    "insect": [*range(300, 327)],
    "other": [],
}
KIND_OF = {number: kind for kind, numbers in KINDS.items() for number in numbers}
NUM_BITS, NUM_NEIGHBORS, EVERY = 128, 6, 25
BACKBONE, WEIGHTS = "tf_efficientnet_lite0", "weights/tf_efficientnet_lite0.in1k.fp16.safetensors"
WIDE, PHONE = {"width": 1100, "height": 720}, {"width": 390, "height": 700}


def write_photos(data: Path, folder: Path) -> dict[str, dict[str, str]]:
    """Write the photographs by the names of their authors, some twice, and return what is known."""
    packed = data / "imagenet_compat250"
    images, _, names, *_ = load_assets(data).jpeg_pack(packed / "imagenet_compat250.npz")
    with (packed / "ATTRIBUTION.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["image_id"]: row for row in csv.DictReader(file)}
    for row in rows.values():
        row["author"] = unescaped(row["author"])
    known = {}
    for image, name in zip(images, names, strict=True):
        row = rows[Path(str(name)).stem]
        author = " ".join(re.sub(r"[^\w .-]", "", row["author"]).split())
        photo = f"{author} {row['landing_page'].rstrip('/').rsplit('/', 1)[-1]}.jpg"
        kind = KIND_OF.get(int(row["label_0based"]), "other")
        (folder / kind).mkdir(parents=True, exist_ok=True)
        image.convert("RGB").save(folder / kind / photo, quality=90)
        known[f"{kind}/{photo}"] = row
    for name in sorted(known)[::EVERY]:  # of which there are copies
        copy = name.replace(".jpg", " small.jpg")
        with Image.open(folder / name) as image:
            image.resize((image.width // 2, image.height // 2)).save(folder / copy, quality=80)
        known[copy] = known[name]
    return known


def unescaped(text: str) -> str:
    r"""Return a text with its bytes that are written in octal, such as `\303\252`, as letters."""
    written = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), text)
    return text if written == text else written.encode("latin-1").decode()


def learn(data: Path, photos: Path) -> HashingModel:
    others = load_assets(data).jpeg_pack(data / "miml2000" / "miml2000.npz")[0]
    learned_from = [*sorted(photos.rglob("*.jpg")), *list(others)[::2]]
    return HashingModel.from_itq(BACKBONE, NUM_BITS, learned_from, checkpoint_path=data / WEIGHTS)


def draw_gallery(photos: Collection, queries: list[str], path: Path) -> list[str]:
    """Draw queries with their nearest photographs, and return all that are shown."""
    found = [photos.similar(query, k=NUM_NEIGHBORS) for query in queries]
    kind = {name: name.split("/")[0] for name in photos.names}
    figure = plot_retrieval(
        [Image.open(photos.path(query)) for query in queries],
        [[Image.open(match.path) for match in row] for row in found],
        torch.tensor(
            [[kind[m.name] == kind[q] for m in row] for q, row in zip(queries, found, strict=True)]
        ),
        distances=torch.tensor([[match.distance for match in row] for row in found]),
        query_names=[kind[query] for query in queries],
        retrieved_names=[[kind[match.name] for match in row] for row in found],
    )
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 85})
    return [*queries, *(match.name for row in found for match in row)]


def good_query(photos: Collection, kind: str) -> str:
    """Return the photograph of a kind at the upper quartile of how many neighbours are right."""
    with_copy = {name.replace(" small", "") for name in photos.names if " small" in name}
    of_kind = [name for name in photos.names if name.startswith(f"{kind}/")]
    of_kind = [name for name in of_kind if name not in with_copy and " small" not in name]
    right = [
        sum(match.name.startswith(f"{kind}/") for match in photos.similar(name, k=NUM_NEIGHBORS))
        for name in of_kind
    ]
    return of_kind[right.index(sorted(right)[3 * len(right) // 4])]


@contextmanager
def served(photos: Collection) -> Iterator[tuple[Browser, str]]:
    """Serve the page of a collection, and yield a browser and the page's address."""
    server = uvicorn.Server(uvicorn.Config(create_app(photos), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    with sync_playwright() as started:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        browser.close()
    server.should_exit = True
    thread.join()


def shoot(photos: Collection, query: str, output: Path) -> list[str]:
    """Take screenshots of the page, and return the photographs that are to be seen on them."""
    with served(photos) as (browser, address):
        page = browser.new_page(viewport=WIDE)
        page.goto(address)
        page.locator(".picture").first.wait_for()
        page.set_input_files("#file", photos.path(query))
        page.get_by_text("found in").wait_for()
        shown = keep(page, output / "search.jpg")
        options: Any = {"viewport": PHONE, "color_scheme": "dark"}
        page = browser.new_page(**options)
        page.goto(address)
        page.get_by_role("button", name="Duplicates").click()
        page.locator("h2").first.wait_for()
        return shown + keep(page, output / "duplicates.jpg")


def keep(page: Page, path: Path) -> list[str]:
    """Save what is on the screen, and return the names of the photographs on it."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)
    page.screenshot(path=path, type="jpeg", quality=75)
    height = page.viewport_size["height"] if page.viewport_size else 0
    buttons = page.locator(".picture").all()
    visible = [b for b in buttons if (box := b.bounding_box()) and box["y"] < height]
    return [button.locator("span").first.inner_text() for button in visible]


def write_attribution(names: list[str], known: dict[str, dict[str, str]], path: Path) -> None:
    lines = ["| Photograph | Author | License |", "| --- | --- | --- |"]
    for name in sorted(set(names)):
        row = known[name]
        page, licence = row["landing_page"].rstrip("/"), row["licence"]
        author = row["author"].replace("|", " ")
        lines.append(
            f"| [{page.rsplit('/', 1)[-1]}](https://{page}) | {author} "
            f"| [CC BY 2.0](https://{licence}) |"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--model", type=Path, help="a model that was saved")
    arguments = parser.parse_args()
    data, output = Path(os.environ["PML_HASHING_DATA"]), arguments.output
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        known = write_photos(data, folder / "photos")
        if arguments.model is None:
            model = learn(data, folder / "photos")
            model.save_pretrained(output / "model")
        else:
            model = HashingModel.from_pretrained(arguments.model)
        photos = Collection.create(folder / "photographs", model)
        print(photos.sync(folder / "photos", labels="folders"))
        queries = [good_query(photos, kind) for kind in ("bird", "insect", "dog")]
        shown = draw_gallery(photos, queries, output / "gallery.jpg")
        shown += shoot(photos, queries[0], output)
        write_attribution(shown, known, output / "attribution.md")


if __name__ == "__main__":
    main()
