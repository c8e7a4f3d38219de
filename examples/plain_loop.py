"""Train DSAH in a plain PyTorch loop: mini-batch mode, a loss like any other.

Handwritten digits of scikit-learn and timm's smallest ResNet: seconds on a CPU.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pml_hashing import DSAHLoss, HammingKNN, HashingModel
from pml_hashing.evaluation import mean_average_precision

CODE_LENGTH = 32

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), size=32)
labels = torch.tensor(digits.target)
queries, database = torch.randperm(len(labels)).split([297, 1500])  # trained on the database

model = HashingModel("test_resnet", CODE_LENGTH, in_chans=1, img_size=32).to(device)
loss_func = DSAHLoss(num_classes=10, code_length=CODE_LENGTH).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
loader = DataLoader(TensorDataset(images[database], labels[database]), 64, shuffle=True)


def evaluate() -> float:
    packed_codes = model.encode(images, progress=False)
    return mean_average_precision(
        packed_codes[queries], labels[queries], packed_codes[database], labels[database]
    )


print(f"before training: mAP {evaluate():.3f}")
for epoch in range(4):
    model.train()
    for batch, batch_labels in loader:
        loss = loss_func(model(batch.to(device)), batch_labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss {loss.item():.3f}")
print(f"after training: mAP {evaluate():.3f}")

# --8<-- [start:file]
path = Path("outputs/plain_loop/codes.safetensors")
packed_codes = model.encode(images, path=path)  # goes on where it was stopped
knn = HammingKNN()
knn.load(path, memory_map=True)
distances, neighbors = knn(packed_codes[:5], k=10)
# --8<-- [end:file]
