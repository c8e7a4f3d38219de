"""The options of every script that takes a backbone."""

from argparse import ArgumentParser
from pathlib import Path


def add_backbone(parser: ArgumentParser, default: str | None, weights: str = "timm's hub") -> None:
    """Add `--backbone` and `--checkpoint`.

    Args:
        parser: Of the script.
        default: Name of the backbone.
        weights: Where its weights come from without a file of them.
    """
    said = f" ({default})" if default else ""
    parser.add_argument("--backbone", default=default, help=f"any name of timm.list_models(){said}")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help=f"a file of weights of the backbone, in place of {weights}",
    )
