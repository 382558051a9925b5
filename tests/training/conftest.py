"""What tests of fine-tuning share. The imports stand inside, because most other tests do without these libraries."""

import functools

import pytest


@pytest.fixture(scope="session")
def sft_sources(tmp_path_factory):
    """A folder of both arms' checkpoints, rows and a recipe, from which `training/sft.py` trains in a second."""
    from tests.training.small_sft import save_sources

    return save_sources(tmp_path_factory.mktemp("sft_sources"))


@pytest.fixture(scope="session")
def finished_sft(sft_sources, tmp_path_factory):
    """A finished run of the shared recipe: finished_sft("baseline")."""
    from tests.training.small_sft import fine_tune

    @functools.cache
    def run_of(arm):
        run = tmp_path_factory.mktemp("finished_sft") / arm
        assert fine_tune(sft_sources, run, arm=arm) == 0
        return run

    return run_of


@pytest.fixture
def tune(sft_sources, tmp_path):
    """Run the shared recipe into `run` in this process: tune("--seed", 1, arm="baseline") returns the exit code."""
    from tests.training.small_sft import fine_tune

    return functools.partial(fine_tune, sft_sources, tmp_path / "run")
