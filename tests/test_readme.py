"""The Python code of the README runs."""

import re
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

README = Path(__file__).parents[1] / "README.md"


def test_python_of_the_readme():
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    dataset = TensorDataset(torch.randn(130, 3, 32, 32), torch.arange(130) % 10)
    names = {"dataset": dataset}
    code = code.replace("batch_size=64", "batch_size=64, dataloader_num_workers=0")
    exec(code, names)
    assert names["packed_codes"].shape == (130, 4)
    assert names["packed_codes"].dtype == torch.uint8
