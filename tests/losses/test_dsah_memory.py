"""DSAHLoss never makes a matrix of samples by samples."""

import subprocess
import sys

import pytest

# Runs on its own, so that its peak is nobody else's. n x n bytes would be 40 GB; 8 floats for each
# bit and class of each sample are 0.4 GB (multi-hot) and 0.9 GB (class ids).
SCRIPT = """
import resource, sys, torch
from pml_hashing import CodeBank, DSAHLoss

def run(n, labels, num_classes, inner_product_weight, code_length=48):
    bank = CodeBank(labels[:n], code_length, num_classes=num_classes)
    options = {"warm_start": 1, "inner_product_weight": inner_product_weight}
    loss_func = DSAHLoss(num_classes, code_length, code_bank=bank, **options)
    codes = torch.zeros(64, code_length, requires_grad=True)
    loss_func(codes, sample_indices=torch.arange(64)).backward()
    before, after = loss_func.update_codes()
    assert after <= before + 1e-6
    return 8 * 4 * n * (code_length + num_classes)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )

torch.manual_seed(0)
torch.set_num_threads(1)
n = 200_000
multi_hot, class_ids = torch.rand(n, 20) < 0.1, torch.randint(100, (n,))
inner_product_weight = float(sys.argv[1])
run(1000, multi_hot, 20, inner_product_weight)
start = peak()
for arguments in ((multi_hot, 20, inner_product_weight), (class_ids, 100, 1.0)):
    limit = run(n, *arguments)
    assert peak() - start < limit, f"{peak() - start} of {limit} bytes"
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no peak of memory there")
@pytest.mark.parametrize("inner_product_weight", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_memory_of_200_000_samples(inner_product_weight):
    script = [sys.executable, "-c", SCRIPT, inner_product_weight]
    run = subprocess.run(script, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
