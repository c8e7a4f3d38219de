"""Trained weights of a backbone from timm's hub: where it does not answer, that is told soon."""

import os
import ssl
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

HUB = "https://huggingface.co"
OFFLINE = "HF_HUB_OFFLINE"
SECONDS = 5.0


def prepare_hub() -> None:
    """Let weights come from timm's local cache alone, if its hub does not answer within seconds.

    To be called before timm is imported, whose client would ask for a minute.
    """
    if OFFLINE not in os.environ and not hub_answers():
        os.environ[OFFLINE] = "1"


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
