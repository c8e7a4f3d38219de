"""Train DSAH with PML's own MetricLossOnly trainer, hooks and tester.

Handwritten digits of scikit-learn and timm's smallest ResNet: seconds on a CPU. Logs and models go
to a temporary folder.
"""

import tempfile

import torch
from pytorch_metric_learning.trainers import MetricLossOnly
from pytorch_metric_learning.utils import logging_presets
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import Subset, TensorDataset

from pml_hashing import DSAHLoss, HammingTester, HashingModel

METRIC = "hamming_mean_average_precision"

torch.manual_seed(0)
digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), size=32)
dataset = TensorDataset(images, torch.tensor(digits.target))
validation, database = torch.randperm(len(dataset)).split([297, 1500])  # trained on the database
splits = {"val": Subset(dataset, validation), "database": Subset(dataset, database)}

model = HashingModel("test_resnet", code_length=32, in_chans=1, img_size=32)
model.to("cuda" if torch.cuda.is_available() else "cpu")
models = {"trunk": model.trunk, "embedder": model.embedder}
who = [("val", ["database"])]  # queries, and what they are scored against

with tempfile.TemporaryDirectory() as folder:
    record_keeper, _, _ = logging_presets.get_record_keeper(f"{folder}/logs")
    hooks = logging_presets.get_hook_container(
        record_keeper, primary_metric=METRIC, validation_split_name="val"
    )
    tester = HammingTester(end_of_testing_hook=hooks.end_of_testing_hook, dataloader_num_workers=0)
    tester.test(splits, 0, model.trunk, model.embedder, who)  # before training
    trainer = MetricLossOnly(
        models=models,
        optimizers={f"{k}_optimizer": AdamW(m.parameters(), 3e-3) for k, m in models.items()},
        batch_size=64,
        loss_funcs={"metric_loss": DSAHLoss(num_classes=10, code_length=32)},
        dataset=splits["database"],
        dataloader_num_workers=0,
        end_of_iteration_hook=hooks.end_of_iteration_hook,
        end_of_epoch_hook=hooks.end_of_epoch_hook(
            tester, splits, f"{folder}/models", splits_to_eval=who
        ),
    )
    trainer.train(num_epochs=4)
    history = hooks.get_accuracy_history(tester, "val", metrics=[METRIC])
for epoch, score in zip(history["epoch"], history[f"{METRIC}_level0"], strict=True):
    print(f"epoch {epoch}: mAP {score:.3f}")
