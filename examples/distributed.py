"""Train DSAH in two processes: `torchrun --nproc-per-node 2 examples/distributed.py`.

One process per GPU, or several on a CPU; `python examples/distributed.py` is one process.
Handwritten digits of scikit-learn and timm's smallest ResNet: less than a minute on a CPU.
"""

import os

import torch
from sklearn.datasets import load_digits
from torch import distributed
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import Subset, TensorDataset

from pml_hashing import AsymmetricTrainer, CodeBank, DSAHLoss, HashingModel
from pml_hashing.distributed import gather_rows, parts, rank, shard, world_size
from pml_hashing.evaluation import average_precision
from pml_hashing.trainers import EveryRank

if "RANK" in os.environ:  # set by torchrun
    distributed.init_process_group()  # NCCL on GPUs, Gloo on CPUs
device = "cuda" if torch.cuda.is_available() else "cpu"
if device == "cuda":
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
torch.manual_seed(0)
digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), size=32)
labels = torch.tensor(digits.target)
queries, database = torch.randperm(len(labels)).split([297, 1500])  # trained on the database

model = HashingModel("test_resnet", 32, in_chans=1, img_size=32).to(device)
models = {"trunk": model.trunk, "embedder": model.embedder}
code_bank = CodeBank(labels[database], 32).to(device)


# --8<-- [start:evaluate]
def evaluate(_: AsymmetricTrainer | None = None) -> None:
    packed_codes = gather_rows(model.encode(shard(TensorDataset(images)), progress=False))
    mine = queries[parts(len(queries))[rank()]]
    searched = packed_codes[database], labels[database]
    scores = gather_rows(average_precision(packed_codes[mine], labels[mine], *searched))
    if rank() == 0:
        print(f"{world_size()} ranks: mAP {scores.mean():.3f}")
        # --8<-- [end:evaluate]


evaluate()
AsymmetricTrainer(
    models=models | {"code_bank": code_bank},
    optimizers={f"{k}_optimizer": AdamW(m.parameters(), 3e-3) for k, m in models.items()},
    batch_size=64 // world_size(),  # of each process
    loss_funcs={"metric_loss": DSAHLoss(10, 32, code_bank=code_bank).to(device)},
    dataset=Subset(TensorDataset(images, labels), database.tolist()),
    dataloader_num_workers=0,
    end_of_epoch_hook=EveryRank(evaluate),
).train(num_epochs=6)
if distributed.is_initialized():
    distributed.destroy_process_group()
