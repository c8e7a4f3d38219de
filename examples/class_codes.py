"""Give confused classes near codes, then train CSQ towards these.

Handwritten digits of scikit-learn and timm's smallest ResNet: seconds on a CPU.
"""

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pml_hashing import HashingModel
from pml_hashing.centers import gather_features
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.losses import CSQLoss

CODE_LENGTH = 32

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"

digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), size=32)
labels = torch.tensor(digits.target)
queries, database = torch.randperm(len(labels)).split([297, 1500])  # trained on the database

model = HashingModel("test_resnet", CODE_LENGTH, in_chans=1, img_size=32).to(device)
loader = DataLoader(TensorDataset(images[database], labels[database]), 64, shuffle=True)

# --8<-- [start:assign]
loss_func = CSQLoss(10, CODE_LENGTH, class_codes="assigned").to(device)
loss_func.use_features(*gather_features(model.trunk, loader))  # one pass, before training
# --8<-- [end:assign]

optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)


def evaluate() -> float:
    packed_codes = model.encode(images, progress=False)
    return mean_average_precision(
        packed_codes[queries], labels[queries], packed_codes[database], labels[database]
    )


print(f"before training: mAP {evaluate():.3f}")
for _ in range(4):
    model.train()
    for batch, batch_labels in loader:
        optimizer.zero_grad()
        loss_func(model(batch.to(device)), batch_labels).backward()
        optimizer.step()
print(f"after training: mAP {evaluate():.3f}")
