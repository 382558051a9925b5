"""Publish a run on the Hugging Face Hub: every checkpoint as a branch, the last one as main.

    python training/push.py runs/baseline-s0 --repo_id you/baseline-s0 --dry_run
    python training/push.py runs/baseline-s0 --repo_id you/baseline-s0
    python training/push.py runs/baseline-s0 --repo_id you/baseline-s0 --public --license mit

Branches are `step-N`, `best` where the run has one, and `main`. Each holds what `from_pretrained` reads, `run.json`,
`metrics.jsonl` and a model card with data, results and commands; nothing that is only for resuming. The repository is
private unless `--public` is given. Give the same command again to go on after an interruption, or with what is new:
what is there already is not sent again. A repository that holds anything but this run is refused. The token comes from
HF_TOKEN or from `hf auth login`. `--dry_run` prints what would be published, and contacts nobody.
"""

import argparse
import sys
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars

from training.core.hub_arguments import LICENSE, check_license, check_repository
from training.core.recipe import is_about_input
from training.publishing.contents import branches_of
from training.publishing.publish import plan_in_words, publish_run
from training.publishing.repository import Repository


def main(run: str, repo_id: str, public: bool, license: str, dry_run: bool) -> None:
    check_repository(repo_id, "repo_id")
    check_license(license, "license")
    if dry_run:
        print(plan_in_words(branches_of(Path(run), repo_id, license), repo_id, private=not public))
        return
    if not sys.stderr.isatty():
        disable_progress_bars()
    repository = Repository(repo_id, private=not public)
    publish_run(Path(run), repository, license, say=lambda line: print(line, flush=True))
    print(f"published: {repository.url}")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Publish a run on the Hugging Face Hub.", allow_abbrev=False)
    parser.add_argument("run", help="folder of a run, with run.json and checkpoint-N")
    parser.add_argument("--repo_id", required=True, help="repository, such as you/baseline-s0")
    parser.add_argument("--public", action="store_true", help="for all to see; private unless set")
    parser.add_argument("--license", default=LICENSE, help=f"of the weights, by the Hub's name; {LICENSE} unless set")
    parser.add_argument("--dry_run", action="store_true", help="only say what would be published")
    values, unknown = parser.parse_known_args(arguments)
    if unknown:
        # Without their values, of which one may be a token.
        names = [each.split("=", 1)[0] for each in unknown if each.startswith("-")]
        hint = "; the token comes from HF_TOKEN or `hf auth login`, and never from a command line"
        named = f"unknown option {', '.join(names)}" if names else f"{len(unknown)} arguments too many"
        parser.error(f"{named}{hint if any('token' in name for name in names) else ''}; see --help")
    return values


if __name__ == "__main__":
    try:
        main(**vars(parse()))
    except (ValueError, FileNotFoundError) as error:
        if not is_about_input(error):
            raise
        print(f"push.py: error: {error}", file=sys.stderr)
        sys.exit(2)
