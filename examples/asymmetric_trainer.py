"""Train DSAH with two networks and the codes of the whole database: data-set mode.

Handwritten digits of scikit-learn and timm's smallest ResNet: seconds on a CPU. Run it again, and
it resumes from `outputs/asymmetric_trainer`.
"""

import torch
from pytorch_metric_learning.utils import logging_presets
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.optim import AdamW
from torch.utils.data import Subset, TensorDataset

from pml_hashing import AsymmetricTrainer, CodeBank, DSAHLoss, HashingModel, TwoNetworkHammingTester

FOLDER, METRIC = "outputs/asymmetric_trainer", "hamming_mean_average_precision"

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), size=32)
labels = torch.tensor(digits.target)
validation, database = torch.randperm(len(labels)).split([297, 1500])  # trained on the database
dataset = TensorDataset(images, labels)
splits = {"val": Subset(dataset, validation), "database": Subset(dataset, database)}

first, second = (HashingModel("test_resnet", 32, in_chans=1, img_size=32) for _ in range(2))
models = {"trunk": first.trunk, "embedder": first.embedder}
models |= {"database_trunk": second.trunk, "database_embedder": second.embedder}
code_bank = CodeBank(labels[database], code_length=32, num_networks=2).to(device)
for model in models.values():
    model.to(device)

record_keeper, _, _ = logging_presets.get_record_keeper(f"{FOLDER}/logs", f"{FOLDER}/tensorboard")
hooks = logging_presets.get_hook_container(
    record_keeper, primary_metric=METRIC, validation_split_name="val"
)
tester = TwoNetworkHammingTester(  # all codes: the sign of the sum of both networks
    second.trunk, second.embedder, end_of_testing_hook=hooks.end_of_testing_hook
)
trainer = AsymmetricTrainer(
    models=models | {"code_bank": code_bank},
    optimizers={f"{k}_optimizer": AdamW(m.parameters(), 3e-3) for k, m in models.items()},
    batch_size=64,
    loss_funcs={"metric_loss": DSAHLoss(10, 32, code_bank=code_bank).to(device)},
    dataset=splits["database"],
    dataloader_num_workers=0,
    end_of_iteration_hook=hooks.end_of_iteration_hook,
    end_of_epoch_hook=hooks.end_of_epoch_hook(
        tester, splits, f"{FOLDER}/models", splits_to_eval=[("val", ["database"])]
    ),
)
start_epoch = hooks.load_latest_saved_models(trainer, f"{FOLDER}/models")  # 1 where there is none
trainer.train(start_epoch, num_epochs=4)
history = hooks.get_accuracy_history(tester, "val")
for epoch, score in zip(history["epoch"], history[f"{METRIC}_level0"], strict=True):
    print(f"round {epoch}: mAP {score:.3f}")
