"""Shallow hashing of features, beside random hyperplanes: four scikit-learn estimators.

The features here are pixels of scikit-learn's handwritten digits; use a network's in their place.
"""

import time

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.random_projection import GaussianRandomProjection

from pml_hashing.baselines import ITQ, KSH, SDH, FastHash
from pml_hashing.codes import pack
from pml_hashing.evaluation import mean_average_precision

CODE_LENGTH = 16

features, labels = load_digits(return_X_y=True)
database, queries, database_labels, query_labels = train_test_split(
    features - features.mean(axis=0), labels, test_size=297, random_state=0, stratify=labels
)
hashers = [
    GaussianRandomProjection(CODE_LENGTH, random_state=0),  # its signs are a code
    ITQ(CODE_LENGTH, random_state=0),
    FastHash(CODE_LENGTH, num_trees=20, random_state=0),
    SDH(CODE_LENGTH, random_state=0),
    KSH(CODE_LENGTH, random_state=0),
]
for hasher in hashers:
    start = time.perf_counter()
    hasher.fit(database, database_labels)
    seconds = time.perf_counter() - start
    query_codes, database_codes = (
        pack(torch.from_numpy(hasher.transform(x))) for x in (queries, database)
    )
    score = mean_average_precision(
        query_codes, torch.tensor(query_labels), database_codes, torch.tensor(database_labels)
    )
    print(f"{type(hasher).__name__:24} mAP {score:.3f}, fitted in {seconds:.1f} s")
