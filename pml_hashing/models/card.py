"""The card of a model: what stands on its page on the hub."""

import math
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, TypedDict, Unpack

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pml_hashing._checks import check_options

LIBRARY = "pml-hashing"
TAGS = (
    "hashing",
    "image-retrieval",
    "metric-learning",
    "pytorch-metric-learning",
    "timm",
    "model_hub_mixin",
)
PACKAGES = (LIBRARY, "pytorch-metric-learning", "timm", "torch")
TASK = "image-feature-extraction"
OF_IMAGES = ("input_size", "mean", "std", "interpolation", "crop_pct")


class CardOptions(TypedDict, total=False):
    """What a card says of a model beyond what the model knows of itself."""

    figures: Mapping[str, float | str]
    """Measured figures by their names, such as `{"mAP@5000": 0.931}`."""
    dataset: str
    """What they were measured on: data set, split, queries and database."""
    license: str
    """Name of the license as the hub has it, such as `mit`."""
    description: str
    """Markdown about the model: its training images, the loss, what it is not for."""


def write_card(
    kind: str, config: dict[str, Any], name: str, **options: Unpack[CardOptions]
) -> ModelCard:
    """Return the card of a model.

    Args:
        kind: Name of its class.
        config: That of the model, or of each of its networks by the name of the network.
        name: Of the model on the hub, `user/model`.
        **options: What else it says.

    Raises:
        TypeError: If there is no such option.
        ValueError: If a figure has no name, or is not finite.
    """
    check_options(options, CardOptions, "of a card")
    networks = {"network": config} if "options" in config else config
    figures, dataset = options.get("figures", {}), options.get("dataset", "")
    _check_figures(figures)
    results = [
        EvalResult(TASK, dataset, dataset, metric_type=metric, metric_value=value)
        for metric, value in figures.items()
        if dataset and not isinstance(value, str)
    ]
    data = ModelCardData(
        library_name=LIBRARY,
        license=options.get("license"),
        pipeline_tag=TASK,
        tags=[*TAGS, LIBRARY],
        model_name=name if results else None,
        eval_results=results or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        options.get("description", "").strip(),
        _use(kind, networks, name),
        "## Measured",
        _measured(figures, dataset),
        "## The model",
        *(_facts(network, of) for network, of in networks.items()),
        "## Versions",
        _table(("Package", "Version"), ((package, version(package)) for package in PACKAGES)),
    ]
    return ModelCard("\n\n".join(part for part in parts if part) + "\n")


def _check_figures(figures: Mapping[str, float | str]) -> None:
    for name, value in figures.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not name.strip() or not (isinstance(value, str) or (is_number and math.isfinite(value))):
            raise ValueError(
                f"Expected `figures` with finite numbers or text by their names, got {name!r}: "
                f"{value!r}."
            )


def _use(kind: str, networks: Mapping[str, dict[str, Any]], name: str) -> str:
    options = [config["options"] for config in networks.values()]
    arguments = ("backbone", "database_backbone")
    own = [a for a, of in zip(arguments, options, strict=False) if of["backbone"] is None]
    needed = "".join(f", {argument}={argument}" for argument in own)
    note = "\n\nIts backbone is a module of its authors', not of timm: pass it." if own else ""
    return (
        f"Codes of {options[0]['code_length']} bits for images, compared by Hamming distance.\n\n"
        "## Use\n\n"
        f"```python\nfrom pml_hashing import {kind}\n\n"
        f'model = {kind}.from_pretrained("{name}"{needed})\n'
        'codes = model.encode(["photo.jpg"])  # packed bits, uint8\n```' + note
    )


def _measured(figures: Mapping[str, float | str], dataset: str) -> str:
    if not figures:
        return "No figures were given."
    where = f"On {dataset}:\n\n" if dataset else ""
    return where + _table(("Figure", "Value"), figures.items())


def _facts(network: str, config: dict[str, Any]) -> str:
    options, images = config["options"], config["data_config"] or {}
    facts = {
        "Backbone": options["backbone"] or "a module of its authors'",
        "Bits": options["code_length"],
        "Hash layer": f"{options['head']}, bound by {options['bound']}",
        "Numbers": config["dtype"],
    }
    facts |= {name: images[name] for name in OF_IMAGES if name in images}
    return _table((network, ""), facts.items())


def _table(head: tuple[str, str], rows: Iterable[tuple[str, object]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
