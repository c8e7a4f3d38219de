"""Train float embeddings with PML alone: what pml_metric_loss_only.py turns into codes.

Handwritten digits of scikit-learn and timm's smallest ResNet: seconds on a CPU.
"""

import tempfile

import timm
import torch
from pytorch_metric_learning import losses, testers
from pytorch_metric_learning.trainers import MetricLossOnly
from pytorch_metric_learning.utils import logging_presets
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import Subset, TensorDataset

METRIC = "mean_average_precision"

torch.manual_seed(0)
digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), size=32)
dataset = TensorDataset(images, torch.tensor(digits.target))
validation, database = torch.randperm(len(dataset)).split([297, 1500])  # trained on the database
splits = {"val": Subset(dataset, validation), "database": Subset(dataset, database)}

device = "cuda" if torch.cuda.is_available() else "cpu"
trunk = timm.create_model("test_resnet", num_classes=0, in_chans=1).to(device)
models = {"trunk": trunk, "embedder": torch.nn.Linear(trunk.num_features, 32).to(device)}
who = [("val", ["database"])]  # queries, and what they are scored against

with tempfile.TemporaryDirectory() as folder:
    record_keeper, _, _ = logging_presets.get_record_keeper(f"{folder}/logs")
    hooks = logging_presets.get_hook_container(
        record_keeper, primary_metric=METRIC, validation_split_name="val"
    )
    tester = testers.GlobalEmbeddingSpaceTester(
        end_of_testing_hook=hooks.end_of_testing_hook,
        dataloader_num_workers=0,
        accuracy_calculator=AccuracyCalculator(include=(METRIC,), k=1499),
    )
    tester.test(splits, 0, *models.values(), who)  # before training
    trainer = MetricLossOnly(
        models=models,
        optimizers={f"{k}_optimizer": AdamW(m.parameters(), 3e-3) for k, m in models.items()},
        batch_size=64,
        loss_funcs={"metric_loss": losses.TripletMarginLoss()},
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
