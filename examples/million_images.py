"""Encode to a file and search in it, the same way for a thousand images or a billion.

    python examples/million_images.py [COUNT]

Random features stand for images and for the backbone, so that a million take minutes on a CPU. With
a backbone and a data set of images, the calls are the same.
"""

import sys
import time
from pathlib import Path

import torch

from pml_hashing import HammingKNN, HashingModel
from pml_hashing.search import HNSW, IVF

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
FOLDER = Path("outputs/million_images")

torch.manual_seed(0)
model = HashingModel(torch.nn.Identity(), code_length=64, num_features=128)
centers = torch.randn(1000, 128)
features = centers[torch.randint(1000, (COUNT,))] + 0.3 * torch.randn(COUNT, 128)

# --8<-- [start:encode]
path = FOLDER / f"codes_{COUNT}.safetensors"
packed_codes = model.encode(features, path=path, batch_size=4096)
print(f"{len(packed_codes):,} codes in {path.stat().st_size:,} bytes")
# --8<-- [end:encode]

# --8<-- [start:search]
queries = packed_codes[:: COUNT // 100][:100]
exact = HammingKNN()
exact.load(path, memory_map=True)
farthest = exact(queries, k=10)[0][:, -1:]  # distance of the tenth neighbour
for index in (None, IVF(), HNSW()):
    knn = HammingKNN(index=index)
    knn.load(path, memory_map=True)
    knn(queries[:1], k=10)  # the first search builds the index
    start = time.process_time()
    distances, rows = knn(queries, k=10)
    milliseconds = 1000 * (time.process_time() - start) / len(queries)
    recall = (distances <= farthest).float().mean()
    name = "exact" if index is None else type(index).__name__
    print(f"{name}: {milliseconds:.3f} ms a query, recall {recall:.3f}")
# --8<-- [end:search]
