"""Runs with `push_to_hub: true`: the same branches as training/push.py makes, and a training that needs no network."""

import json
import shutil

import pytest

from tests.loopback_hub_writes import READ_TOKEN, TOKEN, WritableHub
from tests.training.small_grpo import reinforce, save_starts
from tests.training.small_publishing import push, train_run
from training.core.checkpoint import list_checkpoints
from training.core.grpo_recipe import GrpoArguments
from training.core.pretrain_recipe import PretrainArguments
from training.core.sft_recipe import SftArguments
from training.publishing.during_training import UPLOADS
from training.publishing.on_request import publisher_of

REPOSITORY = "you/mul_tokens-s0"
PUBLISH = ("--push_to_hub", "true", "--hub_model_id", "you/{condition}-s{seed}")
BRANCHES = {"main", "step-1", "step-2"}
SHORT = ("--max_steps", 2, "--save_steps", 1, "--eval_strategy", "no")


@pytest.fixture
def hub(tmp_path):
    with WritableHub(REPOSITORY, tmp_path / "hub") as hub, hub.as_client(tmp_path / "cache"):
        yield hub


def test_run_publishes_what_push_would_with_the_results_measured_on_the_way(hub, recipe, tmp_path, capfd):
    run = train_run(recipe, tmp_path, *PUBLISH)
    said = "".join(capfd.readouterr())
    assert f"hub: published checkpoint-4, checkpoint-8 in {hub.url}/{REPOSITORY}" in said
    assert TOKEN not in said + (run / "run.json").read_text()
    assert json.loads((run / "run.json").read_text())["recipe"]["hub_model_id"] == REPOSITORY
    assert set(hub.branches) == {"main", "step-4", "step-8"} and hub.private
    assert not (run / UPLOADS).exists()
    before = len(hub.commits)
    assert push(run, "--repo_id", REPOSITORY) == 0
    assert len(hub.commits) == before
    published = [name for branch in hub.branches for name in hub.files(branch)]
    assert not any(name.startswith(("optimizer", "scheduler", "rng", "training", "checkpoint")) for name in published)
    assert b"model-index" in hub.files("step-4")["README.md"]


@pytest.mark.deep
def test_checkpoints_that_the_run_does_not_keep_are_published_too(hub, pretrain, tmp_path):
    assert pretrain(*PUBLISH, *SHORT, "--max_steps", 3, "--save_total_limit", 1) == 0
    assert set(hub.branches) == {*BRANCHES, "step-3"}
    assert all("model.safetensors" in hub.files(branch) for branch in hub.branches)
    assert [folder.name for folder in list_checkpoints(tmp_path / "run")] == ["checkpoint-3"]


def test_fine_tuning_publishes_its_best_checkpoint(hub, tune, tmp_path):
    assert tune(*PUBLISH) == 0
    assert set(hub.branches) == {"main", "step-4", "step-8", "best"}
    best = tmp_path / "run" / "best" / "model.safetensors"
    assert hub.files("best")["model.safetensors"] == best.read_bytes()
    assert "optimizer.pt" not in hub.files("main")


@pytest.mark.deep
def test_reinforcement_publishes_its_checkpoints(hub, tmp_path):
    few = ("--max_steps", 1, "--episode_steps", 1, "--filter_prompts", "false")
    assert reinforce(save_starts(tmp_path), tmp_path / "run", *PUBLISH, *SHORT, *few) == 0
    assert set(hub.branches) == {"main", "step-1", "best"}
    assert b"Decontamination: none" in hub.files("main")["README.md"]


@pytest.mark.deep
def test_network_that_fails_in_between_is_made_up_for_at_the_end(hub, pretrain, capfd):
    hub.fail("POST .*/commit/step-1", 500, times=1)
    assert pretrain(*PUBLISH, *SHORT) == 0
    assert "hub: checkpoint-1 could not be published: publishing step-1" in capfd.readouterr().out
    assert all("model.safetensors" in hub.files(branch) for branch in BRANCHES)


def test_network_that_stays_away_leaves_the_run_finished_and_the_rest_to_push(hub, pretrain, tmp_path, capfd):
    hub.fail("POST .*/commit/", 500, after=1)  # the repository is still made
    assert pretrain(*PUBLISH, *SHORT) == 0
    said = capfd.readouterr().out
    run = tmp_path / "run"
    assert f"finished: {run / 'checkpoint-2'}" in said
    assert f"hub: checkpoint-2 is not published; python training/push.py {run} --repo_id {REPOSITORY}" in said
    hub.heal()
    assert push(run, "--repo_id", REPOSITORY) == 0
    assert all("model.safetensors" in hub.files(branch) for branch in BRANCHES)


def test_resumed_run_goes_on_without_a_network_and_publishes_what_it_missed(hub, pretrain, tmp_path, capfd):
    assert pretrain(*SHORT) == 0
    last = tmp_path / "run" / "checkpoint-2"
    unpublished = (last / "model.safetensors").read_bytes()
    shutil.rmtree(last)
    hub.fail("POST /api/repos/create", 503, times=1)
    assert pretrain(*PUBLISH, *SHORT) == 0
    assert "The run goes on, and tries again at the next checkpoint" in capfd.readouterr().out
    assert all("model.safetensors" in hub.files(branch) for branch in BRANCHES)
    assert (last / "model.safetensors").read_bytes() == unpublished  # publishing changes nothing


def test_new_run_does_not_begin_without_the_hub(hub, pretrain, tmp_path):
    hub.fail("POST /api/repos/create", 503)
    with pytest.raises(ValueError, match="opening the repository you/mul_tokens-s0 failed: .*503"):
        pretrain(*PUBLISH)
    assert not list_checkpoints(tmp_path / "run")


@pytest.mark.parametrize("token", [None, "hf_forgotten", READ_TOKEN])
def test_token_that_will_not_do_is_an_error_before_the_first_step(hub, pretrain, tmp_path, monkeypatch, token):
    hub.create(private=True)
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(ValueError, match="no token for the Hub|does not accept the token|may not write"):
        pretrain(*PUBLISH)
    assert not list_checkpoints(tmp_path / "run")


def test_repository_of_another_run_is_an_error_before_the_first_step(hub, pretrain, tmp_path):
    assert pretrain(*PUBLISH, *SHORT) == 0
    before = dict(hub.branches)
    with pytest.raises(ValueError, match="holds another run: learning_rate is 0.002 there and 0.003 here"):
        pretrain(*PUBLISH, *SHORT, "--output_dir", tmp_path / "other", "--learning_rate", 3e-3)
    assert not list_checkpoints(tmp_path / "other")
    assert hub.branches == before


@pytest.mark.parametrize("arguments", [PretrainArguments, SftArguments, GrpoArguments])
class TestKeys:
    def test_token_in_a_recipe_is_refused_and_not_shown(self, arguments):
        with pytest.raises(ValueError, match="hub_token is set") as error:
            arguments(hub_token=TOKEN)
        assert TOKEN not in str(error.value)

    def test_repository_is_private_unless_said_otherwise(self, arguments):
        for asked, private in ((None, True), (False, False)):
            args = arguments(push_to_hub=True, hub_model_id="you/model", hub_private_repo=asked, bf16=False)
            assert publisher_of(args).repository.private is private

    @pytest.mark.parametrize("name", [None, "", "model", "you/", "you/a b", "you/a/b", "../b"])
    def test_repository_needs_an_owner_and_a_name(self, arguments, name):
        with pytest.raises(ValueError, match="name a repository on the Hub, such as you/baseline-s0"):
            arguments(push_to_hub=True, hub_model_id=name)

    @pytest.mark.parametrize("key, value", [("hub_strategy", "end"), ("hub_always_push", True), ("hub_revision", "x")])
    def test_keys_that_would_do_nothing_are_refused(self, arguments, key, value):
        with pytest.raises(ValueError, match=f"{key} is .*, which has no effect here; remove it"):
            arguments(**{key: value})

    def test_nothing_is_published_unasked(self, arguments):
        assert publisher_of(arguments(hub_model_id="you/model", bf16=False)) is None
