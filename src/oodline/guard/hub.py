"""Guards on the Hugging Face Hub: a repository or a folder with `guard.safetensors` and a model card."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Protocol

from oodline._util.checked import checked
from oodline._util.files import check_writable, write_atomically
from oodline.errors import ArtifactError, DataError, OodlineError, missing_extra
from oodline.guard.graph import Guarded
from oodline.guard.model_card import Tabulated, section, with_section

FILE, CARD = "guard.safetensors", "README.md"
"""What a repository or folder holds."""


class Saved(Guarded, Protocol):
    """A guard that can be written."""

    def save(self, path: str | Path) -> Path:
        """Write its file."""
        ...


def save_pretrained(
    guard: Saved, folder: str | Path, *, data: str | None = None, table: Tabulated | None = None
) -> Path:
    """Write `guard.safetensors` and a model card to a folder, such as one that holds the classifier already.

    Parameters
    ----------
    guard : Guard
        Calibrated, if it is to promise something.
    folder : str or Path
        Made where it does not exist. A `README.md` in it keeps what it says, and gets a section.
    data : str, optional
        What it was fitted and calibrated on, in words, for the card.
    table : Table, optional
        Of `oodline.evaluate`, for the card.

    Raises
    ------
    MissingExtraError
        huggingface_hub is not installed.
    ArtifactError, DataError
        As `Guard.save`; or the card that is there cannot be read or written, and then nothing is written.

    Examples
    --------
    >>> import oodline as ol
    >>> from oodline.testing import toy_problem
    >>> classifier, loader = toy_problem()
    >>> guard = ol.Guard(classifier, ol.Energy()).calibrate(loader)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = guard.save_pretrained(folder, data="toy data")
    ...     sorted(file.name for file in path.iterdir()), ol.Guard.from_pretrained(folder, classifier).detector.name
    (['README.md', 'guard.safetensors'], 'energy')
    """
    folder = Path(folder)
    card = folder / CARD
    try:
        text = with_section(
            card.read_text(encoding="utf-8") if card.is_file() else None, section(guard, data=data, table=table)
        )
    except UnicodeDecodeError as error:
        raise DataError(f"the model card {card} must be UTF-8; got {error.reason}. Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"the model card {card} cannot be read: {error.strerror or error}.") from error
    except DataError as error:
        raise DataError(f"{card}: {error}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"could not make the folder {folder}: {error.strerror or error}. Name another one.") from error
    check_writable(card)
    guard.save(folder / FILE)
    write_atomically(card, lambda file: file.write(text.encode()))
    return folder


@checked
def push_to_hub(
    guard: Saved,
    repo_id: str,
    *,
    data: str | None = None,
    table: Tabulated | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Add a guard of oodline",
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload the guard and its card in one commit; what else the repository holds stays, its card's other text too.

    Parameters
    ----------
    guard : Guard
        As in `save_pretrained`, and so `data` and `table`.
    repo_id : str
        `NAME/REPOSITORY`; made where it does not exist.
    private : bool, optional
        Of a repository that is made.
    revision : str, optional
        The branch; the main one if omitted.
    commit_message : str
        Of the commit.
    token : str, optional
        As everywhere in huggingface_hub; if omitted, that of `hf auth login`.
    endpoint : str, optional
        Of another server than the public one.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    DataError
        The server refused or cannot be reached, or the card that is there cannot be read. No repository is made
        before guard and card are written.
    """
    hub = _hub()
    api = hub.HfApi(endpoint=endpoint, token=token)
    with tempfile.TemporaryDirectory() as folder:
        try:
            there, card = _existing_card(hub, repo_id, revision, token, endpoint)
            if card is not None:
                (Path(folder) / CARD).write_bytes(card)
            save_pretrained(guard, folder, data=data, table=table)
            # where it seemed to be missing and is not, its card would be lost
            api.create_repo(repo_id, private=private, exist_ok=there)
            done = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, commit_message=commit_message
            )
        except OodlineError:
            raise
        except Exception as error:  # of the network, of the server, or a name that cannot be one
            raise DataError(f"could not push to {repo_id}: {_words(error)} Check name, token and network.") from error
    return str(done.commit_url)


def guard_file(
    repo_or_folder: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Path:
    """Path of the guard file of a folder, or of a repository, which is downloaded to the cache of huggingface_hub.

    Raises
    ------
    ArtifactError
        The folder holds none, or the repository has none or cannot be reached.
    MissingExtraError
        It is a repository, and huggingface_hub is not installed.
    """
    if Path(repo_or_folder).is_dir():
        path = Path(repo_or_folder) / FILE
        if not path.is_file():
            raise ArtifactError(f"the folder {repo_or_folder} has no {FILE}. Write one with guard.save_pretrained.")
        return path
    hub = _hub()
    try:
        return Path(_download(hub, str(repo_or_folder), FILE, revision, token, endpoint))
    except Exception as error:
        raise ArtifactError(
            f"no guard could be read from {repo_or_folder}. There is no such folder, and the Hub answered: "
            f"{_words(error)} Check name, revision, token and network."
        ) from error


def _download(
    hub: Any,
    repo_id: str,
    name: str,
    revision: str | None,
    token: str | None,
    endpoint: str | None,
) -> Any:
    return hub.hf_hub_download(repo_id, name, revision=revision, token=token, endpoint=endpoint)


def _existing_card(
    hub: Any, repo_id: str, revision: str | None, token: str | None, endpoint: str | None
) -> tuple[bool, bytes | None]:
    """Whether there is a repository, and its card, None where it has none."""
    from huggingface_hub import errors

    try:
        return True, Path(_download(hub, repo_id, CARD, revision, token, endpoint)).read_bytes()
    except (errors.LocalEntryNotFoundError, errors.GatedRepoError):  # no network, no access: there may be a card
        raise
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError):
        return True, None
    except errors.RepositoryNotFoundError:
        return False, None


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_extra("huggingface_hub", "hub", "guards on the Hub") from error
    return huggingface_hub


def _words(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].rstrip('.') if lines else 'no reason given'}."
