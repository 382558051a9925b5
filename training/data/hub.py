"""Data sets on the Hub as lists of files at one commit, and patience with the network on the way to them."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ATTEMPTS = 8
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}

Result = TypeVar("Result")
_commits: dict[tuple[str, str | None], str] = {}


def is_remote(file: str) -> bool:
    """Return whether a file name is the address of one on the Hub."""
    return file.startswith("hf://")


def commit_of(repository: str, revision: str | None) -> str:
    """Return the commit behind a revision (or behind main), asked once per process.

    A branch that moves between two questions would mix two corpora.
    """
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    if (repository, revision) not in _commits:
        from huggingface_hub import HfApi

        _commits[repository, revision] = with_patience(
            lambda: HfApi().dataset_info(repository, revision=revision).sha, f"asking for {repository}"
        )
    return _commits[repository, revision]


def data_files(repository: str, config: str | None, split: str, revision: str | None) -> list[str]:
    """Return the files of one split, sorted, as `hf://datasets/…@commit/…` or as paths where `repository` is a folder.

    Raises `ValueError` for a configuration or split that does not exist, with those that do.
    """
    from datasets import load_dataset_builder

    builder = with_patience(
        lambda: load_dataset_builder(repository, config, revision=revision), f"listing the files of {repository}"
    )
    files = builder.config.data_files or {}
    if split not in files:
        raise ValueError(f"data set '{repository}' has no split '{split}'; it has {', '.join(map(str, files))}")
    return sorted(str(file) for file in files[split])


def open_remote(address: str, download: bool):
    """Open a file of the Hub for reading: in place by ranges, or as a whole file in the Hub's cache."""
    from huggingface_hub import HfFileSystem, hf_hub_download

    files = HfFileSystem()
    if not download:
        # Sixteen megabytes a request: a text column is read from its beginning to its end.
        return files.open(address, "rb", block_size=2**24)
    place = files.resolve_path(address)
    local = hf_hub_download(place.repo_id, place.path_in_repo, repo_type="dataset", revision=place.revision)
    return open(local, "rb")


def with_patience(
    work: Callable[[], Result], what: str, report: Callable[[str], None] = print, sleep: Callable = time.sleep
) -> Result:
    """Do the work, and again after a wait that doubles each time while the network fails.

    Errors that another try cannot mend come through at once, the last network error after `ATTEMPTS` tries.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except Exception as error:
            if not is_transient(error) or attempt == ATTEMPTS:
                raise
            wait = min(FIRST_WAIT_SECONDS * 2 ** (attempt - 1), LONGEST_WAIT_SECONDS)
            report(
                f"{what}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; trying again in "
                f"{wait:.0f} s ({attempt} of {ATTEMPTS - 1})"
            )
            sleep(wait)
    raise AssertionError("the loop returns or raises")


def is_transient(error: BaseException) -> bool:
    """Return whether an error comes from the network or an overloaded server, so that another try may succeed."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return False
    # The base of the Hub's errors is that of the HTTP client, whichever the installed release uses.
    client_error = HfHubHTTPError.__bases__[0]
    if isinstance(error, client_error):
        status = getattr(getattr(error, "response", None), "status_code", None)
        return status is None or status in RETRIED_STATUS
    return isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError))


def is_folder(repository: str) -> bool:
    """Return whether a data set's name is a local folder of files."""
    return Path(repository).is_dir()
