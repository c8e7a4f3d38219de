"""Put a trained model on the hub, with what was measured, and take it from there.

    hf auth login
    python examples/push_to_hub.py outputs/quickstart/model USER/NAME

The figures are those of the quickstart: write your own.
"""

import sys

from pml_hashing import HashingModel

folder, name = sys.argv[1:]
model = HashingModel.from_pretrained(folder)

# --8<-- [start:push]
address = model.push_to_hub(
    name,
    figures={"mAP@all": 0.98, "precision within radius 2": 0.97},
    dataset="digits of scikit-learn: 300 queries, 1,497 images, all of them trained on",
    license="mit",
    description="Trained with DSAH for 12 epochs from random weights.",
)
# --8<-- [end:push]
print(address)

# --8<-- [start:fetch]
model = HashingModel.from_pretrained(name)  # or with revision="v1", token="hf_..."
# --8<-- [end:fetch]
print(model.code_length, "bits")
