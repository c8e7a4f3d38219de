"""All methods by name, each with how it is made. Add a method as a line of `METHODS`."""

from functools import partial

from comparison.baselines import fit_baseline, float_features
from comparison.networks import Recipe, continuation, crh_centers, dcwh_stages
from comparison.outside import load_loss
from comparison.task import Method
from pml_hashing import baselines, losses

FLOAT_FEATURES = "float features"

METHODS: dict[str, Method] = {
    FLOAT_FEATURES: float_features,
    "ITQ": partial(fit_baseline, baselines.ITQ),
    "KSH": partial(fit_baseline, baselines.KSH),
    "SDH": partial(fit_baseline, baselines.SDH),
    "FastHash": partial(fit_baseline, baselines.FastHash),
    "ADSH": Recipe(losses.ADSHLoss),
    "ADSQ": Recipe(losses.ADSQLoss, networks=2),
    "CSQ": Recipe(losses.CSQLoss),
    "CRH": Recipe(losses.CRHLoss, bound="none", schedules=crh_centers),
    "DADH": Recipe(losses.DADHLoss, networks=2),
    "DAPH": Recipe(losses.DAPHLoss, networks=2, sum_codes=False),
    "DCWH": Recipe(losses.DCWHLoss, bound="none", schedules=dcwh_stages),
    "DFH": Recipe(losses.DFHLoss),
    "DHN": Recipe(losses.DHNLoss),
    "DNNH": Recipe(losses.DNNHLoss),
    "DPSH": Recipe(losses.DPSHLoss, bound="none"),
    "DSAHA": Recipe(losses.DSAHALoss),
    "DSAH": Recipe(losses.DSAHLoss),
    "DSDH": Recipe(losses.DSDHLoss),
    "DTSH": Recipe(losses.DTSHLoss, bound="none"),
    "GreedyHash": Recipe(losses.GreedyHashLoss, bound="none"),
    "HashNet": Recipe(losses.HashNetLoss, bound="scaled_tanh", schedules=continuation),
    "HyP2": Recipe(losses.HyP2Loss),
    "OrthoHash": Recipe(losses.OrthoHashLoss, bound="none"),
    "DSAH kappa=10 rho=0": Recipe(
        losses.DSAHLoss, arguments={"inner_product_weight": 10.0, "class_share": 0.0}
    ),
}
"""Methods of the library. A `Recipe` trains networks; the others take features as they are."""

NETWORKS = [name for name, method in METHODS.items() if isinstance(method, Recipe)]


def find_method(name: str) -> Method:
    """Return a method of `METHODS`, or the recipe of an outside loss, given as `module:Loss`.

    Raises:
        ValueError: If there is no such method, module or loss.
    """
    return METHODS[name] if name in METHODS else Recipe(load_loss(name))
