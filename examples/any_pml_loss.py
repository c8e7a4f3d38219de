"""Turn any PML loss into a hashing loss: measure it in bits, and pull the codes towards -1 and 1.

Handwritten digits of scikit-learn and a small network: seconds on a CPU.
"""

import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pml_hashing.distances import HammingDistance
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.models import HashLayer
from pml_hashing.regularizers import QuantizationRegularizer

CODE_LENGTH = 32

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32, device=device)
labels = torch.tensor(digits.target, device=device)
train, database, queries = torch.randperm(len(labels), device=device).split([797, 800, 200])

model = nn.Sequential(
    nn.Linear(64, 128),
    nn.ReLU(),
    HashLayer(128, CODE_LENGTH, batch_norm=True),  # else many bits are the same for all images
).to(device)
loss_func = TripletMarginLoss(
    margin=CODE_LENGTH / 4,  # in bits
    distance=HammingDistance(binarize=False),  # bits have no gradient, their relaxation has
    embedding_regularizer=QuantizationRegularizer(),
    embedding_reg_weight=1.0,
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
loader = DataLoader(TensorDataset(images[train], labels[train]), 64, shuffle=True, drop_last=True)


@torch.no_grad()
def evaluate() -> float:
    codes = model.eval()(images)
    return mean_average_precision(
        codes[queries], labels[queries], codes[database], labels[database]
    )


print(f"before training: mAP {evaluate():.3f}")
for _ in range(15):
    model.train()
    for batch, batch_labels in loader:
        loss = loss_func(model(batch), batch_labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(f"after training: mAP {evaluate():.3f}")
