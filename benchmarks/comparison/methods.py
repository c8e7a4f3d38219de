"""All methods by name, each with how it is made. Add a method as a line of `METHODS`."""

from dataclasses import replace
from functools import partial

from torch import nn

from comparison.baselines import fit_baseline, float_features
from comparison.fixed_codes import FixedCodesLoss
from comparison.networks import Recipe, continuation, crh_centers, dcwh_stages
from comparison.outside import load_loss
from comparison.task import Method
from pml_hashing import baselines, losses

FLOAT_FEATURES = "float features"
MEMORY_SIZE = 1024


def assigned(recipe: Recipe) -> Recipe:
    """Return the recipe with class codes by which confused classes are near each other.

    With the same seed, they are the same for all losses.
    """
    return replace(recipe, arguments={**recipe.arguments, "class_codes": "assigned"})


def with_memory(code_length: int) -> nn.Module:
    """Return DPSH's loss of a batch and the codes of the last batches, where batches are small."""
    return losses.CrossBatchMemory(losses.DPSHLoss(), code_length, MEMORY_SIZE)


FROM_CLASS_CODES: dict[str, Recipe] = {
    "ADSH": Recipe(losses.ADSHLoss),
    "CSQ": Recipe(losses.CSQLoss),
    "DADH": Recipe(losses.DADHLoss, networks=2),
    "DAPH": Recipe(losses.DAPHLoss, networks=2, sum_codes=False),
    "DSDH": Recipe(losses.DSDHLoss),
    "OrthoHash": Recipe(losses.OrthoHashLoss, bound="none"),
    "fixed codes": Recipe(FixedCodesLoss),
}
"""Losses that start from class codes in no order, each of which has a row with assigned ones too.
DSAH assigns them by default."""

METHODS: dict[str, Method] = {
    FLOAT_FEATURES: float_features,
    "ITQ": partial(fit_baseline, baselines.ITQ),
    "KSH": partial(fit_baseline, baselines.KSH),
    "SDH": partial(fit_baseline, baselines.SDH),
    "FastHash": partial(fit_baseline, baselines.FastHash),
    "ADSQ": Recipe(losses.ADSQLoss, networks=2),
    "CRH": Recipe(losses.CRHLoss, bound="none", schedules=crh_centers),
    "DCWH": Recipe(losses.DCWHLoss, bound="none", schedules=dcwh_stages),
    "DFH": Recipe(losses.DFHLoss),
    "DHN": Recipe(losses.DHNLoss),
    "DNNH": Recipe(losses.DNNHLoss),
    "DPSH": Recipe(losses.DPSHLoss, bound="none"),
    "DSAHA": Recipe(losses.DSAHALoss),
    "DPSH memory": Recipe(with_memory, bound="none"),
    "DSAH": Recipe(losses.DSAHLoss),
    "DSAH two networks": Recipe(losses.DSAHLoss, networks=2),
    "DTSH": Recipe(losses.DTSHLoss, bound="none"),
    "GreedyHash": Recipe(losses.GreedyHashLoss, bound="none"),
    "HashNet": Recipe(losses.HashNetLoss, bound="scaled_tanh", schedules=continuation),
    "HyP2": Recipe(losses.HyP2Loss),
    "DSAH kappa=10 rho=0": Recipe(
        losses.DSAHLoss,
        arguments={"inner_product_weight": 10.0, "class_share": 0.0, "class_codes": "spread"},
    ),
    "DSAH spread": Recipe(losses.DSAHLoss, arguments={"class_codes": "spread"}),
    **FROM_CLASS_CODES,
    **{f"{name} assigned": assigned(recipe) for name, recipe in FROM_CLASS_CODES.items()},
}
"""Methods of the library. A `Recipe` trains networks; the others take features as they are."""

NETWORKS = [name for name, method in METHODS.items() if isinstance(method, Recipe)]


def find_method(name: str) -> Method:
    """Return a method of `METHODS`, or the recipe of an outside loss, given as `module:Loss`.

    Raises:
        ValueError: If there is no such method, module or loss.
    """
    return METHODS[name] if name in METHODS else Recipe(load_loss(name))
