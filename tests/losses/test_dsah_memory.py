"""DSAHLoss never makes a matrix of samples by samples."""

import sys
from pathlib import Path

import pytest
import torch
from processes import run_script

from pml_hashing import CodeBank, DSAHLoss

SCRIPT = Path(__file__)
NUM_SAMPLES = 200_000


@pytest.mark.skipif(sys.platform == "win32", reason="no peak of memory there")
@pytest.mark.parametrize("inner_product_weight", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_memory_of_200_000_samples(inner_product_weight):
    """In a process of its own, whose peak is nobody else's."""
    done = run_script(SCRIPT, inner_product_weight)
    assert done.returncode == 0, done.stderr


def take_step(n, labels, num_classes, inner_product_weight, code_length=48):
    """Return the memory that is allowed: 8 floats for each bit and class of each sample.

    These are 0.4 GB (multi-hot) and 0.9 GB (class ids); a byte for each pair would be 40 GB.
    """
    bank = CodeBank(labels[:n], code_length, num_classes=num_classes)
    options = {"warm_start": 1, "inner_product_weight": inner_product_weight}
    loss_func = DSAHLoss(num_classes, code_length, code_bank=bank, **options)
    codes = torch.zeros(64, code_length, requires_grad=True)
    loss_func(codes, sample_indices=torch.arange(64)).backward()
    before, after = loss_func.update_codes()
    assert after <= before + 1e-6
    return 8 * 4 * n * (code_length + num_classes)


def main(inner_product_weight):
    import resource  # noqa: PLC0415 - Windows has none

    def peak():
        of_process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return of_process * (1 if sys.platform == "darwin" else 1024)

    torch.manual_seed(0)
    multi_hot = torch.rand(NUM_SAMPLES, 20) < 0.1
    class_ids = torch.randint(100, (NUM_SAMPLES,))
    take_step(1000, multi_hot, 20, inner_product_weight)
    start = peak()
    for arguments in ((multi_hot, 20, inner_product_weight), (class_ids, 100, 1.0)):
        limit = take_step(NUM_SAMPLES, *arguments)
        assert peak() - start < limit, f"{peak() - start} of {limit} bytes"


if __name__ == "__main__":
    main(float(sys.argv[1]))
