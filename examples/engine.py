"""Train DSAH with the codes of the whole database by the engine, without PML's trainers and hooks.

Handwritten digits of scikit-learn and timm's smallest ResNet: seconds on a CPU. Run it again, and
it resumes from `outputs/engine`. It also runs under `torchrun`.
"""

import os

import torch
from sklearn.datasets import load_digits
from torch import distributed
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import Subset, TensorDataset

from pml_hashing import CodeBank, DSAHLoss, HashingModel
from pml_hashing.distributed import rank, world_size
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.trainers import Engine

if "RANK" in os.environ:  # set by torchrun
    distributed.init_process_group()
torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), size=32)
labels = torch.tensor(digits.target)
queries, database = torch.randperm(len(labels)).split([297, 1500])  # trained on the database

# --8<-- [start:engine]
model = HashingModel("test_resnet", 32, in_chans=1, img_size=32).to(device)
loss_func = DSAHLoss(10, 32, code_bank=CodeBank(labels[database], 32)).to(device)
optimizer = AdamW(model.parameters(), 3e-3)
engine = Engine(
    model,  # or two networks: (model, database_model)
    loss_func,
    optimizer,
    Subset(TensorDataset(images, labels), database.tolist()),
    batch_size=64 // world_size(),  # of each process
    lr_schedulers=CosineAnnealingLR(optimizer, T_max=4),
    checkpoint_folder="outputs/engine",
)


def evaluate(engine: Engine) -> None:
    codes = model.encode(images, progress=False)
    split = codes[queries], labels[queries], codes[database], labels[database]
    print(f"round {engine.round}: loss {engine.loss:.3f}, mAP {mean_average_precision(*split):.3f}")


engine.resume()  # the latest checkpoint, if there is one
if engine.round == 0 and rank() == 0:
    evaluate(engine)
engine.fit(4, on_round=evaluate)  # stops where the function returns False
# --8<-- [end:engine]
if distributed.is_initialized():
    distributed.destroy_process_group()
