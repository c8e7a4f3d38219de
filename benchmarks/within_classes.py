"""Which of the images of its class is this one? Near-duplicates found inside classes.

    PML_HASHING_DATA=DATA python benchmarks/cifar10_features.py FEATURES.npz
    PML_HASHING_DATA=DATA python benchmarks/within_classes.py FEATURES.npz

The collection are CIFAR-10's first 10,000 training images. 300 of them, drawn at random, get a
copy: cropped by 2 pixels, scaled to 24 x 24, compressed again (JPEG, quality 30) or mirrored, 75 of
each. Each copy is searched among the images of its class, some 1,000: the share of copies whose
original is the first, or among the first 10. Of images at equal distance the order is a matter of
chance, so that a tie counts by the chance that the original comes first. `label` is the mAP by
class of the next 1,000 images, as queries of the collection.

Methods with labels are trained on the first 5,000 images, those without on the same, all on
standardized features of a frozen backbone, with one seed.
"""

import io
import os
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cifar10_features import extract
from comparison.data import load_assets
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from pml_hashing import (
    AsymmetricTrainer,
    BiHalfLoss,
    CodeBank,
    DPSHLoss,
    DSAHLoss,
    HammingKNN,
    HashingModel,
)
from pml_hashing.codes import hamming_distance
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.models.hash_layer import Bound

NUM_TRAINING, NUM_IMAGES, NUM_QUERIES, NUM_COPIES = 5000, 10_000, 1000, 300
EPOCHS = 10


def copies_of(images: np.ndarray) -> np.ndarray:
    """Return a copy of each image, of the four kinds in turn."""
    copies = []
    for number, pixels in enumerate(images):
        image = Image.fromarray(pixels)
        if number % 4 == 0:
            image = image.crop((2, 2, 30, 30))
        elif number % 4 == 1:
            image = image.resize((24, 24), Image.Resampling.BICUBIC)
        elif number % 4 == 2:
            file = io.BytesIO()
            image.save(file, "JPEG", quality=30)
            image = Image.open(file)
        else:
            image = ImageOps.mirror(image)
        copies.append(np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)))
    return np.stack(copies)


class Data:
    """Standardized features of the collection, of copies in it, and of queries by label."""

    def __init__(self, features_file: Path, data: Path, img_size: int) -> None:
        arrays = np.load(features_file)
        features = torch.from_numpy(arrays["features"][: NUM_IMAGES + NUM_QUERIES]).float()
        self.labels = torch.from_numpy(arrays["labels"][: NUM_IMAGES + NUM_QUERIES])
        generator = torch.Generator().manual_seed(0)
        self.originals = torch.randperm(NUM_IMAGES, generator=generator)[:NUM_COPIES]
        assets = load_assets(data)
        copies = copies_of(assets.cifar10("train")[0][self.originals.numpy()])
        backbone = assets.backbone("tf_efficientnet_lite0").eval()
        backbone = backbone.to(memory_format=torch.channels_last)
        of_copies = torch.from_numpy(extract(copies, backbone, img_size, "cpu")).float()
        mean, deviation = features[:NUM_TRAINING].mean(dim=0), features[:NUM_TRAINING].std(dim=0)
        features, self.copies = (
            (x - mean) / deviation.clamp(min=1e-6) for x in (features, of_copies)
        )
        self.training, self.images = features[:NUM_TRAINING], features[:NUM_IMAGES]
        self.queries = features[NUM_IMAGES:]

    def recalls(self, distances: Tensor) -> tuple[float, float]:
        """Return recall@1 and @10 among the images of the class, ties by their chance.

        Args:
            distances: Of each copy to each image, `(300, 10000)`.
        """
        labels = self.labels[:NUM_IMAGES]
        distances = distances.double().masked_fill(
            labels[self.originals, None] != labels, torch.inf
        )
        own = distances.gather(1, self.originals[:, None])
        nearer, tied = (distances < own).sum(dim=1), (distances == own).sum(dim=1)
        chances = [((k - nearer) / tied).clamp(0, 1).mean().item() for k in (1, 10)]
        return chances[0], chances[1]

    def label_score(self, encode: Callable[[Tensor], Tensor]) -> float:
        labels = self.labels
        return mean_average_precision(
            encode(self.queries), labels[NUM_IMAGES:], encode(self.images), labels[:NUM_IMAGES]
        )


def new_model(data: Data, code_length: int, bound: Bound) -> HashingModel:
    torch.manual_seed(0)
    width = data.training.shape[1]
    return HashingModel(nn.Identity(), code_length, num_features=width, head="mlp", bound=bound)


def fit_itq(data: Data, code_length: int) -> HashingModel:
    width = data.training.shape[1]
    options = {"features": data.training, "num_features": width}
    return HashingModel.from_itq(nn.Identity(), code_length, **options)


def fit_dsah(data: Data, code_length: int) -> HashingModel:
    model, labels = new_model(data, code_length, "tanh"), data.labels[:NUM_TRAINING]
    bank = CodeBank(labels, code_length)
    optimizer = torch.optim.AdamW(model.embedder.parameters(), 1e-3, weight_decay=1e-3)
    AsymmetricTrainer(
        models={"trunk": model.trunk, "embedder": model.embedder, "code_bank": bank},
        optimizers={"embedder_optimizer": optimizer},
        batch_size=128,
        loss_funcs={"metric_loss": DSAHLoss(bank.num_classes, code_length, code_bank=bank)},
        dataset=TensorDataset(data.training, labels),
        dataloader_num_workers=0,
        data_device=torch.device("cpu"),
        seed=0,
    ).train(num_epochs=EPOCHS)
    return model.eval()


def fit_pairs(
    data: Data, code_length: int, pairs_weight: float, features_weight: float
) -> HashingModel:
    """Train DPSH, Bi-half, or a weighted sum of both, in a loop of our own."""
    model = new_model(data, code_length, "none")
    of_pairs, of_features = DPSHLoss(), BiHalfLoss(data.training)
    lr = 1e-4 if features_weight else 1e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=1e-3, fused=True)
    for _ in range(EPOCHS):
        for rows in torch.randperm(NUM_TRAINING).split(64):
            codes, loss = model(data.training[rows]), torch.zeros(())
            if pairs_weight:
                loss = loss + pairs_weight * of_pairs(codes, data.labels[rows])
            if features_weight:
                loss = loss + features_weight * of_features(codes, rows)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def encode(model: HashingModel, features: Tensor, *, packed: bool = True) -> Tensor:
    return model.encode(features, batch_size=2048, progress=False, packed=packed)


def reranked(data: Data, model: HashingModel, num_candidates: int) -> Tensor:
    """Return distances by rank, as `rerank="vectors"` orders the images of the class."""
    knn = HammingKNN(rerank="vectors", num_candidates=num_candidates)
    labels = data.labels[:NUM_IMAGES]
    knn.train(encode(model, data.images, packed=False), label=labels.tolist())
    distances = torch.full((NUM_COPIES, NUM_IMAGES), torch.inf)
    for number, label in enumerate(labels[data.originals].tolist()):
        query = encode(model, data.copies[number : number + 1], packed=False)
        _, found = knn.search(query, k=10, where={"label": label})
        distances[number, torch.tensor(found[0])] = torch.arange(10.0)
    own = distances.gather(1, data.originals[:, None])
    # An original that was not found is behind all: 10 others are before it.
    return torch.where(own.isinf(), distances.nan_to_num(posinf=11), distances)


class Report:
    """Prints a row for each method."""

    def __init__(self, data: Data) -> None:
        self.data = data
        print(f"{'method':46}  @1    @10   label   distinct codes of 10,000")

    def codes(self, name: str, *models: HashingModel) -> None:
        """Report codes of a model, or of several whose bits are put together."""

        def encode_all(features: Tensor) -> Tensor:
            return torch.cat([encode(model, features) for model in models], dim=1)

        copies, images = encode_all(self.data.copies), encode_all(self.data.images)
        score = f"{self.data.label_score(encode_all):.3f}"
        distances = hamming_distance(copies, images)
        self.row(name, distances, score, f"{len(images.unique(dim=0)):6,}")

    def row(self, name: str, distances: Tensor, score: str = "", distinct: str = "") -> None:
        first, ten = self.data.recalls(distances)
        print(f"{name:46} {first:.3f} {ten:.3f}  {score:6} {distinct}", flush=True)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("features", type=Path)
    parser.add_argument("--img-size", type=int, default=160)
    args = parser.parse_args()
    start = time.perf_counter()
    data = Data(args.features, Path(os.environ["PML_HASHING_DATA"]), args.img_size)
    report = Report(data)
    unit = [F.normalize(x) for x in (data.copies, data.images)]
    report.row("float features, cosine", 1 - unit[0] @ unit[1].T)
    dsah, itq = fit_dsah(data, 64), {bits: fit_itq(data, bits) for bits in (64, 128, 256)}
    report.codes("DSAH, 64 bits", dsah)
    for count in (100, 2000):
        name = f'DSAH, 64 bits, rerank="vectors" of {count:,}'
        report.row(name, reranked(data, dsah, count))
    for bits, model in itq.items():
        report.codes(f"ITQ, {bits} bits", model)
        if bits == 64:
            report.row('ITQ, 64 bits, rerank="vectors" of 100', reranked(data, model, 100))
    report.codes("DSAH and ITQ, 64 bits of each", dsah, itq[64])
    for bits in (64, 128, 256):
        report.codes(f"DPSH, {bits} bits", fit_pairs(data, bits, 1, 0))
    for bits in (64, 128):
        report.codes(f"Bi-half, {bits} bits", fit_pairs(data, bits, 0, 1))
    for weight in (0.1, 1):
        name = f"{weight} DPSH + Bi-half, 128 bits"
        report.codes(name, fit_pairs(data, 128, weight, 1))
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
