"""The keys of a recipe that publish a run on the Hub while it trains."""

import re

from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy

LICENSE = "mit"
# How Transformers would push the run's folder; here every checkpoint becomes a branch, whenever one is saved.
_WITHOUT_EFFECT = {"hub_strategy": HubStrategy.EVERY_SAVE, "hub_revision": None, "hub_always_push": False}
_REPOSITORY = re.compile(r"[A-Za-z0-9](?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII)


def check_hub_arguments(args: TrainingArguments) -> None:
    """Fill in that a repository is private unless said otherwise, and refuse what would publish something else.

    Raises `ValueError`; a token is refused without being shown.
    """
    if args.hub_token is not None:
        raise ValueError(
            "hub_token is set, and recipes and command lines can be read by others; remove it, set HF_TOKEN or log in "
            "with `hf auth login` instead, and revoke the token if anybody may have seen it"
        )
    for key, required in _WITHOUT_EFFECT.items():
        if getattr(args, key) != required:
            raise ValueError(f"{key} is {getattr(args, key)!r}, which has no effect here; remove it")
    if not args.push_to_hub:
        return
    repository = args.hub_model_id or ""
    # What stands for the arm and the seed is filled in later.
    check_repository(repository.replace("{condition}", "baseline").replace("{seed}", "0"), "hub_model_id")
    check_license(args.hub_license, "hub_license")
    if args.hub_private_repo is None:
        args.hub_private_repo = True


def check_repository(name: str, key: str) -> None:
    """Raise `ValueError` for what is no name of a repository, such as `you/name`."""
    if _REPOSITORY.fullmatch(name) is None or len(name) > 96 or ".." in name or "--" in name:
        raise ValueError(f"{key} is {name!r}; name a repository on the Hub, such as you/baseline-s0")


def check_license(name: str, key: str) -> None:
    """Raise `ValueError` for what cannot be the Hub's name of a licence."""
    if re.fullmatch(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", name) is None:
        raise ValueError(f"{key} is {name!r}; name a licence as the Hub does, such as mit, apache-2.0 or cc-by-4.0")
