"""Write a model as ONNX, and encode with onnxruntime alone: pip install "pml-hashing[onnx]".

    python examples/export_onnx.py outputs/quickstart/model model.onnx   # or USER/NAME of the hub
    python examples/export_onnx.py outputs/quickstart/model model.onnx photo.jpg

The second part needs numpy, Pillow and onnxruntime: copy it to where there is no PyTorch.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

from pml_hashing.models import HashingModel, export

source, path, *photos = sys.argv[1:]

# --8<-- [start:export]
export(HashingModel.from_pretrained(source), path)
# --8<-- [end:export]


# --8<-- [start:encode]
session = onnxruntime.InferenceSession(path)
config = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
channels, height, width = config["input_size"]


def preprocess(photo: str) -> np.ndarray:
    """Scale the shorter side, cut out the middle, and normalize, as the model was trained."""
    image = Image.open(photo).convert("L" if channels == 1 else "RGB")
    shorter = int(height / config["crop_pct"])
    sides = [side * shorter // min(image.size) for side in image.size]
    image = image.resize(sides, Image.Resampling[config["interpolation"].upper()])
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32) / 255
    values = (pixels.reshape(height, width, channels) - config["mean"]) / config["std"]
    return values.transpose(2, 0, 1).astype(np.float32)


for photo in photos:
    [codes] = session.run(["packed_codes"], {"images": preprocess(photo)[None]})
    print(f"{photo}: {codes[0].tobytes().hex()}")
# --8<-- [end:encode]
