"""Publish a run: all of its checkpoints as branches of one repository, or the words for what that would be."""

from collections.abc import Callable, Iterable
from pathlib import Path

from training.publishing.contents import MAIN, Branch, branches_of
from training.publishing.repository import Repository
from training.publishing.run_identity import published_facts


def publish_run(
    run: Path,
    repository: Repository,
    license: str,
    say: Callable[[str], None],
    checkpoints: Iterable[Path] | None = None,
) -> None:
    """Bring the branches of a run's checkpoints up to date, and say of each what was done.

    checkpoints: these instead of all that the run's folder holds. Raises `ValueError` where the run cannot be
    published, and `HubError`, of which what is published so far stays.
    """
    branches = branches_of(
        run, repository.name, license, checkpoints
    )  # a damaged file is found before anything is sent
    repository.open(published_facts(run))
    newest = repository.newest_step()
    for branch in branches:
        if branch.name == MAIN and branch.step < newest:
            say(f"{MAIN}: stays at step {newest:,}, which is later than the last one here ({branch.step:,})")
        elif repository.publish(branch):
            say(f"{branch.name}: published, {len(branch.files)} files, {in_bytes(branch.size)} (step {branch.step:,})")
        else:
            say(f"{branch.name}: is there already, nothing to do")


def plan_in_words(branches: list[Branch], repository: str, private: bool) -> str:
    """Return what would be published: the branches, their files and sizes."""
    lines = [f"{repository} ({'private' if private else 'public'}), {len(branches)} branches:"]
    for branch in branches:
        lines.append(f"{branch.name}: {len(branch.files)} files, {in_bytes(branch.size)} (step {branch.step:,})")
        lines += [f"  {file.size:>15,}  {name}" for name, file in sorted(branch.files.items())]
    return "\n".join(lines)


def in_bytes(size: int) -> str:
    """Return a number of bytes as `1.4 kB`, `13.7 MB`."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
