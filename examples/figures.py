"""Draw every figure of pml_hashing.visualize, from codes of handwritten digits.

    python examples/figures.py [FOLDER]

trains codes of 16 and 32 bits as plain_loop.py does, and writes PNG files to FOLDER.
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pml_hashing import DSAHLoss, HashingModel, visualize
from pml_hashing.evaluation import HammingRanking

digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), size=32)
labels = torch.tensor(digits.target)
queries, database = torch.randperm(1797, generator=torch.Generator().manual_seed(0)).split(1500)[
    ::-1
]


def train(code_length: int) -> torch.Tensor:
    torch.manual_seed(0)
    model = HashingModel("test_resnet", code_length, in_chans=1, img_size=32)
    loss_func = DSAHLoss(num_classes=10, code_length=code_length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(images[database], labels[database]), 64, shuffle=True)
    for batch, batch_labels in [batch for _ in range(4) for batch in loader]:
        optimizer.zero_grad()
        loss_func(model.train()(batch), batch_labels).backward()
        optimizer.step()
    return model.encode(images, progress=False)


folder = Path(*sys.argv[1:2] or ["outputs/figures"])
folder.mkdir(parents=True, exist_ok=True)
codes = {f"{code_length} bits": train(code_length) for code_length in (16, 32)}
sides = {
    name: (packed[queries], labels[queries], packed[database], labels[database])
    for name, packed in {"random": torch.randint(256, (1797, 4)).byte(), **codes}.items()
}
rankings = {name: HammingRanking(*side) for name, side in sides.items()}
for name, ranking in rankings.items():
    print(f"{name}: mAP {ranking.average_precision().mean():.3f}")

by_radius = {
    name: (ranking.precision_by_radius().mean(dim=0), ranking.recall_by_radius().mean(dim=0))
    for name, ranking in rankings.items()
}
by_rank = {name: r.precision_by_rank(500) for name, r in rankings.items()}
bits = codes["32 bits"]
for name, figure in {
    "precision_recall": visualize.plot_precision_recall(by_radius),
    "precision_by_radius": visualize.plot_precision_by_radius(by_radius),
    "precision_by_rank": visualize.plot_precision_by_rank(by_rank),
    "distances": visualize.plot_distances(*sides["32 bits"]),
    "bits": visualize.plot_bits(bits),
    "pca": visualize.plot_embedding(bits, labels),
    "tsne": visualize.plot_embedding(bits, labels, projection="tsne"),
}.items():
    figure.savefig(folder / f"{name}.png")
