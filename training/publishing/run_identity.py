"""What a published run says of itself, and whether two of them are one run."""

import json
import re
from pathlib import Path
from typing import Any

from training.core.files import end_of_path
from training.core.provenance import RUN_FILE, first_difference

# An absolute path inside a text: a slash that neither goes on a word nor belongs to an address.
_PATH_IN_TEXT = re.compile(r"""(?<![\w.:/~+-])/[^\s"',;:=()]+""")


def published_facts(run: Path) -> dict[str, Any]:
    """Return a run's `run.json` as it is published: the folders above a run and its data are left out of it.

    Raises `FileNotFoundError` and `ValueError` with what to do where there is none.
    """
    path = run / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"'{run}' has no {RUN_FILE}; name the folder of a run, which holds {RUN_FILE} and checkpoint-N"
        )
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts["recipe"], dict):
            raise TypeError("its recipe is no mapping")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not the file of a run ({error!r}); put it back from the run's first copy"
        ) from error
    return without_folders(facts)


def difference(before: dict[str, Any], facts: dict[str, Any]) -> str | None:
    """Return in what two runs differ, with both values, or None: by the keys and hashes that a resumption compares."""
    from training.core.grpo_recipe import FREE_KEYS  # of all programs; TRL takes seconds to import

    found = first_difference(before, {key: value for key, value in facts.items() if key != "starts"}, FREE_KEYS)
    return found and f"{found[0]} is {found[1]!r} there and {found[2]!r} here"


def commands_of(facts: dict[str, Any]) -> list[list[str]]:
    """Return the different command lines of a run's starts, the first one first, programs as `training/….py`."""
    found: list[list[str]] = []
    for start in facts.get("starts", []):
        program, *arguments = start["command"]
        place = Path(program)
        command = ["training/" + place.name if place.parent.name == "training" else place.name, *arguments]
        if command not in found:
            found.append(command)
    return found


def without_folders(value: Any) -> Any:
    """Return JSON values in which absolute paths are cut down to their last names; the rest is nobody's business."""
    if isinstance(value, dict):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    if not isinstance(value, str):
        return value
    option, equals, path = value.rpartition("=") if value.startswith("-") else ("", "", value)
    if Path(path).is_absolute():
        return option + equals + end_of_path(path)
    return _PATH_IN_TEXT.sub(lambda found: end_of_path(found[0]), value)
