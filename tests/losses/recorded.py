"""Runs of the losses with learned codes whose results are kept, to show that they stay the same.

    python tests/losses/recorded.py

writes `recorded.safetensors` anew: where results change on purpose, and only then.
"""

import copy
import io
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pml_hashing import CodeBank, losses

FILE = Path(__file__).with_name("recorded.safetensors")
SAMPLES, CLASSES, BITS, BATCH = 40, 5, 16, 10
PUBLISHED = {"similar_weight": 1}
"""The likelihood of pairs as in the papers: all of them weigh the same."""
OF_DADH = PUBLISHED | {"balance_weight": 10.0}
OPTIONS = {
    "ADSH": {"default": {}, "hard": {"quantization_weight": 3.0, "soft_similarity": False}},
    "ADSQ": {"pairs": {"bank_samples": 64, "agreement_weight": 5.0} | OF_DADH},
    "DADH": {"pairs": {"bank_samples": 64, "quantization_weight": 2.0} | OF_DADH},
    "DAPH": {"pairs": {"bank_samples": 64, "quantization_weight": 20.0} | PUBLISHED},
    "DFH": {"centers": {"center_weight": 3.0, "separation_weight": 0.1, "sweeps": 2} | PUBLISHED},
    "DSAH": {
        "default": {},
        "all": {"class_share": 0.4, "inner_product_weight": 1.0, "quantization_weight": 4.0},
        "to_code": {"inter_label": "simplex", "regression": "label_to_code"},
    },
    "DSAHA": {"agreement": {"agreement_weight": 30.0} | PUBLISHED},
    "DSDH": {"pairs": {"bank_samples": 64, "quantization_weight": 1.0} | PUBLISHED},
}
for loss in ("ADSQ", "DADH", "DAPH", "DFH", "DSAHA", "DSDH"):
    published = OF_DADH if loss in {"ADSQ", "DADH"} else PUBLISHED
    OPTIONS[loss] |= {"default": {}, "published": published}
"""Of every loss, by the names of the runs."""
LED_BY_LABELS = {"ADSQ": {"label_widths": (24, 12)}, "DSAHA": {"label_widths": (24, 12)}}


def runs():
    """Yield the name of every run, and what `record` takes."""
    for loss, options in OPTIONS.items():
        for name, chosen in options.items():
            for kind in ("class_ids", "multi_hot"):
                for networks in (1, 2):
                    yield f"{loss}-{name}-{kind}-{networks}", (loss, chosen, kind, networks)


def labels_of(kind, generator):
    if kind == "class_ids":
        return torch.randint(CLASSES, (SAMPLES,), generator=generator)
    return (torch.rand(SAMPLES, CLASSES, generator=generator) < 0.35).long()


def step(loss_func, generator, networks, **places):
    """Return the loss of random codes, and its gradients."""
    codes = [
        torch.tanh(torch.randn(BATCH, BITS, generator=generator)).requires_grad_()
        for _ in range(networks)
    ]
    ref = {"ref_emb": codes[1]} if networks == 2 else {}
    torch.manual_seed(0)  # of the samples drawn from the bank
    loss = loss_func(codes[0], **ref, **places)
    loss.backward()
    return [loss.detach()[None, None].expand(1, BITS), *(c.grad for c in codes)]


def make_bank(labels, networks):
    return CodeBank(labels, BITS, num_classes=CLASSES, num_networks=networks)


def record(loss, options, kind, networks, *, resumed=False):
    """Return losses, gradients, objectives and codes of one batch, then of three rounds.

    Args:
        resumed: The training is saved in the middle of its second round, and goes on in new parts.
    """
    generator = torch.Generator().manual_seed(1)
    labels = labels_of(kind, generator)
    loss_class, options = getattr(losses, f"{loss}Loss"), options | LED_BY_LABELS.get(loss, {})

    def make():
        bank = make_bank(labels, networks)
        return bank, loss_class(CLASSES, BITS, code_bank=bank, **options)

    floats = step(loss_class(CLASSES, BITS, **options), generator, networks, labels=labels[:BATCH])
    binary_codes, objectives = [], []
    bank, loss_func = make()
    for number in range(3):
        order = torch.randperm(SAMPLES, generator=generator)
        for place, rows in enumerate(order.split(BATCH)):
            if resumed and (number, place) == (1, 2):
                file = io.BytesIO()
                torch.save((bank.state_dict(), loss_func.state_dict()), file)
                file.seek(0)
                bank, loss_func = make()
                for part, state in zip((bank, loss_func), torch.load(file), strict=True):
                    part.load_state_dict(copy.deepcopy(state))
            floats += step(loss_func, generator, networks, sample_indices=rows)[:: 3 - number]
        objectives += loss_func.update_codes()
        binary_codes.append(bank.binary_codes.clone())
    return {
        "floats": torch.cat(floats),
        "objectives": torch.tensor(objectives, dtype=torch.float64),
        "binary_codes": torch.stack(binary_codes),
    }


def recorded():
    """Return the kept results by the names of the runs."""
    kept, results = load_file(FILE), {}
    for key, value in kept.items():
        name, part = key.split("/")
        results.setdefault(name, {})[part] = value
    return results


if __name__ == "__main__":
    found = {f"{n}/{part}": v for n, run in runs() for part, v in record(*run).items()}
    save_file({key: value.contiguous() for key, value in found.items()}, FILE)
