"""Trained weights of a backbone: whether they can be had, told within seconds."""

import os
import ssl
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

HUB = "https://huggingface.co"
OFFLINE = "HF_HUB_OFFLINE"
SECONDS = 5.0


def check_weights(backbone: str) -> None:
    """Raise unless timm has the weights of a backbone, in its local cache or from its hub.

    Unknown names are left to the model, which tells the nearest ones.

    Raises:
        OSError: If it has not.
    """
    # The hub's client reads this when it is imported. It would ask for a minute.
    if OFFLINE not in os.environ and not hub_answers():
        os.environ[OFFLINE] = "1"
    import timm

    from pml_hashing.models._errors import shortened

    if backbone not in {*timm.list_models(), *timm.list_models(include_tags=True)}:
        return
    try:
        timm.create_model(backbone, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client and timm have errors of many kinds
        raise OSError(
            f"Expected the weights of {backbone!r} from timm's hub or its local cache, got none: "
            "the hub does not answer, or does not have them. Give a file of them by --checkpoint, "
            f"or another --backbone. ({shortened(error)})"
        ) from error


def hub_answers(seconds: float = SECONDS) -> bool:
    """Return whether the hub answers anything, within so many seconds."""
    answers: list[bool] = []
    address = os.environ.get("HF_ENDPOINT", HUB)
    # Looking up a name cannot be given a limit: a thread can be left alone.
    thread = Thread(target=lambda: answers.append(_answers(address, seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    return any(answers)


def _answers(address: str, seconds: float) -> bool:
    try:
        with urlopen(address, timeout=seconds):
            return True
    except HTTPError:
        return True
    except URLError as error:  # another client may know the certificate
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, ValueError):
        return False
