"""Write losses of your own: one composed of terms, with a term of your own, and a plain one."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from pml_hashing import CodeBank, HashingModel
from pml_hashing.evaluation import mean_average_precision
from pml_hashing.losses import BaseHashingLoss, DiscreteLoss, terms
from pml_hashing.pairs import similarity


# --8<-- [start:term]
class Saturation(terms.Term):
    """The mean distance of the bits of a code from -1 and 1."""

    def losses(self, batch: terms.Batch, variables: dict[str, Tensor]) -> Tensor:
        distances = [(codes.abs() - 1).abs().mean(dim=1) for codes in batch.codes]
        return torch.stack(distances).sum(dim=0)  # of one or two networks


# --8<-- [end:term]
# --8<-- [start:plain]
class SimilarityLoss(BaseHashingLoss):
    """The squared difference of the cosine of two codes from 1 if similar, and else -1."""

    def compute_loss(
        self, embeddings: Any, labels: Any, indices_tuple: Any, ref_emb: Any, ref_labels: Any
    ) -> dict[str, Any]:
        cosines = F.cosine_similarity(embeddings[:, None], ref_emb[None], dim=2)
        wanted = 2.0 * similarity(labels, ref_labels) - 1
        return {"loss": self.element_loss((cosines - wanted).square().mean(dim=1))}


# --8<-- [end:plain]


digits = load_digits()
images = F.interpolate(torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), size=32)
labels, train = torch.tensor(digits.target), slice(0, 1500)

# --8<-- [start:composition]
bank = CodeBank(labels[train], code_length=32)
parts = {
    "inner_product": (1.0, terms.InnerProduct()),
    "quantization": (0.1, terms.ClassStructureQuantization()),
    "saturation": (0.1, Saturation()),
}
discrete_loss = DiscreteLoss(num_classes=10, code_length=32, terms=parts, code_bank=bank)
# --8<-- [end:composition]

for name, loss_func in {"plain": SimilarityLoss(), "composed": discrete_loss}.items():
    torch.manual_seed(0)
    model = HashingModel("test_resnet", code_length=32, in_chans=1, img_size=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for round_ in range(5):
        codes = model.encode(images, progress=False)
        score = mean_average_precision(codes[1500:], labels[1500:], codes[train], labels[train])
        print(f"{name}, round {round_}: mAP {score:.3f}")
        for rows in torch.randperm(1500).split(64):
            places = {"sample_indices": rows} if loss_func is discrete_loss else {}
            loss = loss_func(model.train()(images[rows]), labels[rows], **places)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if loss_func is discrete_loss:
            loss_func.update_codes()
