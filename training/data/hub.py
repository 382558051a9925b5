"""Data sets on the Hub as lists of files at one commit, and patience with the network on the way to them."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ATTEMPTS = 14  # the waits between them add up to a quarter of an hour
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 120.0
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
    if is_commit(revision):
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
    from datasets.exceptions import DatasetsError
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.errors import OfflineModeIsEnabled

    def describe():
        try:
            return load_dataset_builder(repository, config, revision=revision)
        except ConnectionError as error:
            if is_offline_mode():  # which `datasets` reports like a network that is down for a while
                raise OfflineModeIsEnabled(str(error)) from error
            raise
        except (DatasetsError, FileNotFoundError, ValueError) as error:
            if failed := _failed_download_behind(error):
                raise failed from failed.__cause__
            raise ValueError(
                f"the files of data set '{repository}' cannot be listed: {brief(error)}; correct hub, config or "
                "revision of the source"
            ) from error

    builder = with_patience(describe, f"listing the files of {repository}")
    files = builder.config.data_files or {}
    if split not in files:
        raise ValueError(f"data set '{repository}' has no split '{split}'; it has {', '.join(map(str, files))}")
    return sorted(str(file) for file in files[split])


def open_remote(address: str, download: bool):
    """Open a file of the Hub for reading: in place by ranges, or as a whole file in the Hub's cache."""
    from huggingface_hub import HfFileSystem, hf_hub_download

    if not download:
        # Sixteen megabytes a request: a text column is read from its beginning to its end.
        return HfFileSystem().open(address, "rb", block_size=2**24)
    # Taken apart here, for HfFileSystem would ask the Hub, and a downloaded file needs no network.
    place = re.fullmatch(r"hf://datasets/(?P<repository>[^@]+)@(?P<commit>[0-9a-f]{40})/(?P<path>.+)", address)
    assert place is not None, address
    local = hf_hub_download(place["repository"], place["path"], repo_type="dataset", revision=place["commit"])
    return open(local, "rb")


def with_patience(
    work: Callable[[], Result], what: str, report: Callable[[str], None] = print, sleep: Callable = time.sleep
) -> Result:
    """Do the work, and again after a wait that doubles each time while the network fails.

    What another try cannot mend comes through at once. Raises `ValueError` with what to do for an error of the Hub,
    and for the network when it fails the last of `ATTEMPTS` times.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except Exception as error:
            reason = _reason(error)
            if not is_transient(reason):
                if advice := _advice(reason):
                    raise ValueError(f"{what} failed: {brief(reason)}; {advice}") from error
                raise
            if attempt == ATTEMPTS:
                raise ValueError(
                    f"{what} failed {ATTEMPTS} times, in the end with {brief(reason)}; what is finished is kept, "
                    "give the same command again when the network is back"
                ) from error
            wait = min(FIRST_WAIT_SECONDS * 2 ** (attempt - 1), LONGEST_WAIT_SECONDS)
            report(f"{what} failed: {brief(reason)}; trying again in {wait:.0f} s ({attempt} of {ATTEMPTS - 1})")
            sleep(wait)
    raise AssertionError("the loop returns or raises")


def is_transient(error: BaseException) -> bool:
    """Return whether an error comes from the network or an overloaded server, so that another try may succeed."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, (OfflineModeIsEnabled, BrokenPipeError)):  # the latter is no network, but a reader of ours
        return False
    # The base of the Hub's errors is that of the HTTP client, whichever the installed release uses.
    client_error = HfHubHTTPError.__bases__[0]
    if isinstance(error, client_error):
        status = getattr(getattr(error, "response", None), "status_code", None)
        return status is None or status in RETRIED_STATUS
    return isinstance(error, (ConnectionError, TimeoutError, LocalEntryNotFoundError))


def _reason(error: BaseException) -> BaseException:
    """Return why a download could not even begin, which its error keeps behind itself; any other error as it is."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    return error.__cause__ or error if isinstance(error, LocalEntryNotFoundError) else error


def _failed_download_behind(error: BaseException | None) -> BaseException | None:
    """Return the failed download that an error goes back to: `datasets` reports it as a data set that is not there."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    while error is not None and not isinstance(error, LocalEntryNotFoundError):
        error = error.__cause__ or error.__context__
    return error


def _advice(error: BaseException) -> str | None:
    """Return what to do about an error of the Hub that stays, None for an error that is not the Hub's."""
    from huggingface_hub import errors

    remedies = {
        errors.OfflineModeIsEnabled: "unset HF_HUB_OFFLINE, or give the files as a source with `path`",
        errors.HFValidationError: "hub is the name of a data set, such as owner/name, or a folder",
        errors.GatedRepoError: "ask for access on the data set's page, and log in with `hf auth login`",
        errors.RepositoryNotFoundError: "correct hub, or log in with `hf auth login` if the data set is private",
        errors.RevisionNotFoundError: "correct revision, a branch, tag or commit of the data set",
        errors.HfHubHTTPError: "open that address in a browser to see whether the data set is still there for you",
        errors.FileMetadataError: "check HF_ENDPOINT and the proxy settings",
    }
    return next((advice for kind, advice in remedies.items() if isinstance(error, kind)), None)


def brief(error: BaseException) -> str:
    """Return an error's kind and the beginning of its text in one line; the Hub's texts have paragraphs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "more information" not in line]
    return f"{type(error).__name__}: {' '.join(lines[:2])}".rstrip(":. ")


def remember_commit(repository: str, revision: str | None, commit: str) -> None:
    """Let `commit_of` give this commit for as long as the process lives: the one that a corpus was begun with."""
    _commits[repository, revision] = commit


def is_commit(revision: str | None) -> bool:
    """Return whether a revision is a whole commit hash, and not a branch or a tag, which may move."""
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


def commit_in(address: str) -> str | None:
    """Return the commit that an address of the Hub names, None for a path."""
    found = re.match(r"hf://datasets/[^@]+@([0-9a-f]{40})/", address)
    return found and found[1]


def is_folder(repository: str) -> bool:
    """Return whether a data set's name is a local folder of files."""
    return Path(repository).is_dir()
