"""The base of all miners: a PML miner that also takes multi-hot labels."""

import torch
from pytorch_metric_learning.distances import BaseDistance
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor

from pml_hashing._checks import check_codes, check_finite, check_labels
from pml_hashing.distances import HammingDistance
from pml_hashing.pairs import IndicesTuple, check_indices_tuple


class BaseHashingMiner(BaseMiner):
    """Base class of all miners. A subclass implements `mine` and is not subclassed again.

    Labels are class ids `(batch_size,)`, as in PML, or multi-hot rows `(batch_size, num_classes)`.
    """

    def mine(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
    ) -> IndicesTuple:
        """Return pairs or triplets: anchors index `embeddings`, all else indexes `ref_emb`."""
        raise NotImplementedError

    def get_default_distance(self) -> BaseDistance:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the distance used where the caller gives none."""
        return HammingDistance(binarize=False)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> IndicesTuple:
        """Return the pairs `(anchors, positives, anchors, negatives)`, or triplets, of the batch.

        Args:
            embeddings: Codes of the batch, `(batch_size, code_length)`, before binarization.
            labels: Class ids or multi-hot rows.
            ref_emb: Codes to pair the batch with. The batch itself if `None`.
            ref_labels: Labels of `ref_emb`. The same object as `labels` if the samples are the
                same: none is then paired with itself.

        Raises:
            TypeError: If class ids are no integers, or `mine` returns no tensors of them.
            ValueError: If a shape is wrong, `mine` returns neither pairs nor triplets of the batch,
                `ref_emb` comes without `ref_labels`, or codes on the
                CPU are NaN or infinite, or 0 and 1 alone.
        """
        # The steps of BaseMiner.forward, less its demand that labels be 1-D.
        self.reset_stats()
        check_codes(embeddings, "embeddings")
        check_labels(labels, embeddings, "labels")
        if ref_emb is None:
            ref_emb, ref_labels = embeddings, labels
        check_codes(ref_emb, "ref_emb", embeddings.shape[1])
        if ref_labels is None:
            raise ValueError("Expected `ref_labels` together with `ref_emb`, got `ref_emb` alone.")
        check_labels(ref_labels, ref_emb, "ref_labels")
        for name, codes in (("embeddings", embeddings), ("ref_emb", ref_emb)):
            if codes.device.type == "cpu":  # reading values back from a GPU would stop it
                check_finite(codes, name)
        same_samples = ref_labels is labels
        labels = labels.to(embeddings.device)
        ref_labels = labels if same_samples else ref_labels.to(embeddings.device)
        with torch.no_grad():
            chosen = self.mine(embeddings, labels, ref_emb, ref_labels)
        what = f"what `mine` of {type(self).__name__} returns"
        indices_tuple = check_indices_tuple(chosen, what, len(embeddings), len(ref_emb))
        self.output_assertion(indices_tuple)
        return indices_tuple
