"""A run's repository on the Hub: opened for one run only, and brought up to date branch by branch."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

from training.core.provenance import RUN_FILE
from training.data.hub import brief, is_transient
from training.publishing.contents import MAIN, Branch, File, is_published
from training.publishing.run_identity import difference

_OF_THE_HUB = {".gitattributes"}  # which every new repository holds
_LOG_IN = "set HF_TOKEN, or log in with `hf auth login`"


class HubError(ValueError):
    """Something that could not be done on the Hub, in words; `transient` where another try may succeed."""

    def __init__(self, message: str, transient: bool = False):
        super().__init__(message)
        self.transient = transient


class Repository:
    """A repository on the Hub that holds one run.

    The token is that of the environment or of the Hub login.
    """

    def __init__(self, name: str, private: bool = True):
        self.name, self.private = name, private
        self._api: HfApi | None = None
        self._first_commit = ""
        self._branches: set[str] = set()

    @property
    def url(self) -> str:
        return f"{self._hub().endpoint}/{self.name}"

    def open(self, facts: dict[str, Any]) -> None:
        """Make the repository, or make sure that an existing one holds this run.

        facts: the run, as it is published. Raises `HubError` without a token that may write there, for another run's
        repository, and for a public one where a private one was asked for, or the other way round.
        """
        if get_token() is None:
            raise HubError(f"there is no token for the Hub; {_LOG_IN}")
        with self._in_words("opening the repository"):
            self._hub().create_repo(self.name, private=self.private, exist_ok=True)
            self._check_that_it_may_be_written()
            about = self._hub().repo_info(self.name)
            if bool(about.private) != self.private:
                now, asked = ("private", "public") if about.private else ("public", "private")
                raise HubError(
                    f"'{self.name}' is {now}, and was to be {asked}; change that in the repository's settings, or "
                    f"publish it as {now} (--public, or hub_private_repo in a recipe)"
                )
            self._branches = {branch.name for branch in self._hub().list_repo_refs(self.name).branches}
            self._first_commit = self._hub().list_repo_commits(self.name)[-1].commit_id
            self._claim(facts, about.sha)

    def publish(self, branch: Branch) -> bool:
        """Bring a branch up to date in one commit, and return whether there was anything to do.

        What others have put there beside it stays.
        """
        with self._in_words(f"publishing {branch.name} in"):
            if branch.name not in self._branches:
                # From the first commit, which is empty: a branch that was begun and not finished must not load as
                # the model of another step.
                self._hub().create_branch(self.name, branch=branch.name, revision=self._first_commit, exist_ok=True)
                self._branches.add(branch.name)
            there = self._files(branch.name)
            changed = {
                name: file for name, file in branch.files.items() if name not in there or not _same(there[name], file)
            }
            gone = [name for name in there if is_published(name) and name not in branch.files]
            if not changed and not gone:
                return False
            self._hub().create_commit(
                self.name,
                [CommitOperationAdd(name, file.content) for name, file in changed.items()]
                + [CommitOperationDelete(name) for name in gone],
                commit_message=f"Step {branch.step:,}",
                revision=branch.name,
            )
        return True

    def newest_step(self) -> int:
        """Return the largest N of the branches `step-N`, 0 where there is none."""
        steps = [branch.removeprefix("step-") for branch in self._branches]
        return max((int(step) for step in steps if step.isdecimal()), default=0)

    def _claim(self, facts: dict[str, Any], head: str) -> None:
        """Write the run into an empty main; raises `HubError` where main holds something else."""
        found = self._files(MAIN).keys() - _OF_THE_HUB
        if RUN_FILE in found:
            before = self._run_there()
            if other := difference(before, facts):
                raise HubError(
                    f"'{self.name}' holds another run: {other}; name another repository, or delete that one on the Hub"
                )
            return
        if found or self._branches - {MAIN}:
            held = sorted(found) or sorted(self._branches - {MAIN})
            raise HubError(
                f"'{self.name}' is not empty and holds no run (there is {', '.join(held[:4])} and no {RUN_FILE}); "
                "name another repository, or delete that one on the Hub"
            )
        # Whoever else claims it at the same moment makes this commit fail, for its parent is no longer the head.
        self._hub().create_commit(
            self.name,
            [CommitOperationAdd(RUN_FILE, json.dumps(facts, indent=1, ensure_ascii=False).encode() + b"\n")],
            commit_message=f"Begin {facts['recipe']['run_name']}",
            parent_commit=head,
        )

    def _run_there(self) -> dict[str, Any]:
        try:
            with open(self._hub().hf_hub_download(self.name, RUN_FILE), encoding="utf-8") as file:
                before = json.load(file)
            return before if isinstance(before["recipe"], dict) else {"recipe": {}}
        except (ValueError, KeyError, TypeError, EntryNotFoundError) as error:
            raise HubError(
                f"'{self.name}' has a {RUN_FILE} that is no run's ({error!r}); name another repository"
            ) from error

    def _check_that_it_may_be_written(self) -> None:
        """Raise the Hub's error for a token that may only read: making a repository that is there already does not."""
        try:
            self._hub().create_branch(self.name, branch=MAIN)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:  # it is there, as whoever may write is told
                raise

    def _files(self, branch: str) -> dict[str, RepoFile]:
        tree = self._hub().list_repo_tree(self.name, revision=branch, recursive=True)
        return {file.path: file for file in tree if isinstance(file, RepoFile)}

    def _hub(self) -> HfApi:
        self._api = self._api or HfApi()
        return self._api

    @contextlib.contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        """Turn the errors of the Hub and of the network into one line with what to do."""
        client_error = HfHubHTTPError.__bases__[0]
        try:
            yield
        except HubError:
            raise
        except (client_error, OSError, RuntimeError, ValueError) as error:  # the last for a card that the Hub refuses
            # An upload's own error says only which file it was.
            reason = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            status = getattr(getattr(reason, "response", None), "status_code", None)
            advice = {
                401: f"the Hub does not accept the token; {_LOG_IN}",
                403: f"the token may not write to '{self.name}'; use one with write access to it",
                409: "something else is writing there; give the same command again",
                412: "something else is writing there; give the same command again",
            }.get(status, "what is published stays; give the same command again")
            raise HubError(f"{what} {self.name} failed: {brief(reason)}; {advice}", is_transient(reason)) from error


def _same(there: RepoFile, file: File) -> bool:
    if there.lfs is not None:
        return there.lfs.sha256 == file.sha256
    return there.size == file.size and there.blob_id == file.git_sha1()
