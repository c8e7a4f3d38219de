"""The hub of models: what is fetched from it, and how it is told soon that it does not answer."""

import os
import re
import ssl
import tempfile
from abc import abstractmethod
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import ClassVar, TypedDict, Unpack
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from huggingface_hub import HfApi, ModelCard, ModelHubMixin, constants, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import nn

from pml_hashing._checks import check_options, to_path
from pml_hashing.models import card, saving
from pml_hashing.models._errors import shortened

SECONDS = 5.0
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
NOT_THERE = (
    EntryNotFoundError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


class HubOptions(TypedDict, total=False):
    """How a model is fetched from the hub, in the words of `huggingface_hub`."""

    revision: str | None
    """A branch, a tag or a commit. The latest commit of `main` if `None`."""
    token: str | bool | None
    """For a private model. That of `hf auth login` if `None`."""
    cache_dir: str | Path | None
    """Where the hub's client keeps what it fetches."""
    force_download: bool
    """Whether to fetch again what is there."""
    local_files_only: bool
    """Whether to take only what was fetched before."""


def endpoint() -> str:
    """Return the address of the hub: that of the variable `HF_ENDPOINT`, or Hugging Face's."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT


def is_offline() -> bool:
    """Return whether the hub is not to be asked, by the variable `HF_HUB_OFFLINE`."""
    values = (os.environ.get(name, "") for name in OFFLINE)
    return any(value.upper() in {"1", "ON", "TRUE", "YES"} for value in values)


def does_answer(address: str, seconds: float = SECONDS) -> bool:
    """Return whether a server answers, within so many seconds: its client would ask for a minute.

    Args:
        address: Of the server, or of a page of it.
        seconds: How long to wait.
    """
    answers: list[bool] = []
    # Looking up a name cannot be given a limit: a thread can be left alone.
    thread = Thread(target=lambda: answers.append(_answers(address, seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    return any(answers)


def _answers(address: str, seconds: float) -> bool:
    try:
        with urlopen(address, timeout=seconds):
            return True
    except HTTPError as error:
        return error.code < 500  # a proxy's 503 is no answer
    except URLError as error:  # another client may know the certificate
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, HTTPException, ValueError):  # HTTPException: another protocol, or no address
        return False


def find_model(folder: str | os.PathLike[str], **options: Unpack[HubOptions]) -> Path:
    """Return the folder of a saved model: the folder given, or where the hub's was fetched to.

    All that is fetched is the one file that holds the model.

    Args:
        folder: A folder, or the name of a model on the hub, `user/model`. What is there as a folder
            is one.
        **options: For a model on the hub.

    Raises:
        FileNotFoundError: If the hub, or the local cache where the hub does not answer, has no such
            model.
        OSError: If it cannot be fetched for another reason.
        TypeError: If there is no such option, also for a folder.
        ValueError: If `folder` is empty.
    """
    check_options(options, HubOptions, "of a model on the hub")
    if not isinstance(folder, str) or not NAME.fullmatch(folder) or Path(folder).exists():
        return to_path(folder, "folder")
    address = endpoint()
    asked = not options.get("local_files_only")
    options["local_files_only"] = not (asked and not is_offline() and does_answer(address))
    try:
        path = hf_hub_download(folder, saving.WEIGHTS_NAME, endpoint=address, **options)
    except Exception as error:  # its client has errors of many kinds, in each version others
        kind = FileNotFoundError if isinstance(error, NOT_THERE) else OSError
        reason = shortened(error)
        if options["local_files_only"]:
            reason = why_not(address) if asked else "`local_files_only`"
        raise kind(
            "Expected `folder` to hold a saved model, or to be the name of one on the hub, got "
            f"{folder!r}: there is no such folder, and none came from the hub or its local cache "
            f"({reason})."
        ) from error
    return Path(path).parent


def why_not(address: str) -> str:
    """Return why a server was not asked, for an error."""
    if is_offline():
        return "it was not asked, by the variable HF_HUB_OFFLINE"
    return f"{address} did not answer within {SECONDS:g} seconds"


class HubModel(nn.Module, ModelHubMixin, library_name=card.LIBRARY, pipeline_tag=card.TASK):
    """What `HashingModel` and `TwoNetworkHashingModel` have of `huggingface_hub`'s mixin."""

    form: ClassVar[dict[str, str]]
    """Name and version of the format of its file."""

    @abstractmethod
    def config(self) -> saving.Config:
        """Return how the model was made and how its images are preprocessed, as it is saved."""

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write `model.safetensors` and `config.json` into a folder.

        `from_pretrained` reads only the first file, which replaces an older one in one step:
        whenever this is interrupted, the folder holds one save or the other. A backbone that is not
        a timm name is saved as weights only.

        Args:
            folder: Where to write. Made where it does not exist.

        Raises:
            OSError: If the folder cannot be written, or is full.
            ValueError: If a `data_config` was changed, and no transform can be made from it.
        """
        saving.save(self, self.config(), folder, self.form)

    def generate_model_card(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, name: str, **about: Unpack[card.CardOptions]
    ) -> ModelCard:
        """Return the card of the model: how to use it, what was measured, and what it is made of.

        Args:
            name: Of the model on the hub, `user/model`.
            **about: What the model does not know: `figures`, measured ones by their names;
                `dataset`, what they were measured on; `license`; `description`, in Markdown.

        Raises:
            TypeError: If a card says nothing of that name.
            ValueError: If a figure has no name, or is not finite.
        """
        return card.write_card(type(self).__name__, self.config(), name, **about)

    def push_to_hub(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        name: str,
        *,
        commit_message: str = "Model of pml-hashing",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        **about: Unpack[card.CardOptions],
    ) -> str:
        """Write what `save_pretrained` does and a card to the hub, and return the commit's address.

        Args:
            name: Of the model, `user/model`. Made where there is none.
            commit_message: Of the commit.
            private: Whether a model that is made is hidden from others.
            token: Your own, with the right to write. That of `hf auth login` if `None`.
            branch: Where to. `main` if `None`.
            create_pr: Whether to ask for the commit to be merged.
            **about: What the card says: see `generate_model_card`.

        Raises:
            OSError: If the hub does not answer within seconds, or refuses.
            TypeError: If a card says nothing of that name.
            ValueError: If a figure has no name, or is not finite, or if the model cannot be saved.
        """
        address = endpoint()
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            self.save_pretrained(folder)
            self.generate_model_card(name, **about).save(folder / "README.md")
            if is_offline() or not does_answer(address):
                raise OSError(f"Expected the hub to take {name!r}, got none: {why_not(address)}.")
            try:
                api = HfApi(endpoint=address, token=token)
                made = api.create_repo(name, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=made.repo_id,
                    folder_path=folder,
                    commit_message=commit_message,
                    revision=branch,
                    create_pr=create_pr,
                )
                return commit.commit_url
            except Exception as error:  # of the hub's client
                raise OSError(
                    f"Expected the hub at {address} to take {name!r}, got an error "
                    f"({shortened(error)})."
                ) from error
