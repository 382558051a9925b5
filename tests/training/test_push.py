"""A run on the Hub, by the real client and a server that takes what it sends."""

import json
import os
import shutil
import sys

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard, snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import run_command
from tests.loopback_hub_writes import READ_TOKEN, TOKEN, WritableHub
from tests.training.small_publishing import EVALUATION, REPOSITORY, push, train_run
from training.core.checkpoint import link_best
from training.core.provenance import RUN_FILE
from training.publishing.contents import branches_of

BRANCHES = {"main", "step-4", "step-8"}
TEXT = "What is 6*9 or 7 × 8?"
# `from_pretrained` and the reader of the repository need these, and nobody needs more.
FILES = {
    ".gitattributes",
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "metrics.jsonl",
    "model.safetensors",
    "run.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def run(recipe, tmp_path_factory):
    return train_run(recipe, tmp_path_factory.mktemp("pushed"))


@pytest.fixture
def copied(run, tmp_path):
    """A copy of the run that a test may change."""
    shutil.copytree(run, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


@pytest.fixture(scope="module")
def published(run, tmp_path_factory):
    """A Hub to which the run was pushed."""
    folder = tmp_path_factory.mktemp("published")
    with WritableHub(REPOSITORY, folder) as hub:
        with hub.as_client(folder / "cache"):
            assert push(run, "--repo_id", REPOSITORY) == 0
        yield hub


@pytest.fixture
def hub(tmp_path):
    """An empty Hub, and this process as its client."""
    with WritableHub(REPOSITORY, tmp_path / "hub") as hub, hub.as_client(tmp_path / "cache"):
        yield hub


def card_of(hub, branch):
    return ModelCard(hub.files(branch)["README.md"].decode())


def start_with(*command):
    return {"command": list(command), "git_commit": None, "versions": {"torch": "2", "transformers": "5"}}


def change_run(run, **changes):
    """Change what a run says of itself, in its recipe where the key stands there."""
    facts = json.loads((run / RUN_FILE).read_text(encoding="utf-8"))
    for key, value in changes.items():
        (facts["recipe"] if key in facts["recipe"] else facts)[key] = value
    (run / RUN_FILE).write_text(json.dumps(facts), encoding="utf-8")


def test_every_checkpoint_is_a_branch_and_the_last_is_main(published, run):
    assert set(published.branches) == BRANCHES
    for branch, step in (("step-4", 4), ("step-8", 8), ("main", 8)):
        weights = (run / f"checkpoint-{step}" / "model.safetensors").read_bytes()
        assert published.files(branch)["model.safetensors"] == weights


def test_branches_hold_what_loads_and_nothing_that_is_for_resuming(published):
    for branch in BRANCHES:
        assert set(published.files(branch)) == FILES


def test_branches_load_with_the_logits_of_their_checkpoints(published, run, tmp_path):
    logits = {}
    with published.as_client(tmp_path / "cache"), torch.no_grad():
        for step in (4, 8):
            pulled = snapshot_download(REPOSITORY, revision=f"step-{step}")
            for place in (pulled, run / f"checkpoint-{step}"):
                model, tokenizer = (each.from_pretrained(place) for each in (AutoModelForCausalLM, AutoTokenizer))
                logits[step, place == pulled] = model(**tokenizer(TEXT, return_tensors="pt")).logits
    assert torch.equal(logits[4, True], logits[4, False])
    assert torch.equal(logits[8, True], logits[8, False])
    assert not torch.equal(logits[4, True], logits[8, True])


def test_large_files_are_sent_once(published):
    assert len(published.asked("PUT /large/")) == 2  # main has the weights of step 8


def test_metrics_of_a_branch_end_at_its_step(published):
    for branch, last in (("step-4", 4), ("step-8", 8)):
        steps = [json.loads(line)["step"] for line in published.files(branch)["metrics.jsonl"].splitlines()]
        assert max(steps) == last


def test_branch_without_its_model_yet_cannot_be_mistaken_for_another(published):
    (first,) = (commit for commit, parent in published.parents.items() if parent is None)
    for branch in ("step-4", "step-8"):
        assert published.history(published.branches[branch])[1:] == [first]


def test_neither_token_nor_folders_of_the_machine_are_published(published, run):
    for branch in BRANCHES:
        for name, content in published.files(branch).items():
            if name != "model.safetensors":
                assert TOKEN.encode() not in content
                assert str(run.parents[1]).encode() not in content, name


def test_folders_above_a_run_its_data_and_its_recipes_are_not_published(copied):
    folder = "/home/alice/secret project/with/a/long"
    change_run(
        copied, output_dir=f"{folder}/runs/x", starts=[start_with("training/sft.py", f"--data_root={folder}/b/c")]
    )
    file = copied / "evals/quick/checkpoint-4" / RUN_FILE
    how = json.loads(file.read_text(encoding="utf-8"))
    how["starts"] = [start_with(f"{folder}/training/eval.py", f"{folder}/recipes/quick.yaml")]
    file.write_text(json.dumps(how), encoding="utf-8")
    for branch in branches_of(copied, REPOSITORY, "mit"):
        for name in ("README.md", "run.json"):
            assert b"alice" not in branch.files[name].content
    card = branches_of(copied, REPOSITORY, "mit")[0].files["README.md"].content.decode()
    assert "python training/eval.py long/recipes/quick.yaml\n" in card


def test_card_names_licence_arm_data_dose_and_commands(published):
    card = card_of(published, "step-4")
    assert card.data.license == "mit"
    for text in (
        "| arm | mul_tokens: ",
        "| `seed` | 0 |",
        "| tokens so far | 2,048 |",
        'from_pretrained("you/tiny", revision="step-4")',
        "facts per plain token",
        "Decontamination: none",
        "## Commands",
    ):
        assert text in card.text
    assert "revision=" not in card_of(published, "main").text.split("```")[1]


def test_card_has_the_measured_results_with_intervals(published, run):
    for step in (4, 8):
        measured = json.loads((run / f"evals/quick/checkpoint-{step}/results.json").read_text())["results"]
        expected = measured["text_loss"]["bits_per_byte"]
        card = card_of(published, f"step-{step}")
        (found,) = (each for each in card.data.eval_results if each.metric_type == "bits_per_byte")
        assert found.metric_value == expected["value"]
        assert found.metric_args["confidence_interval_95"] == [expected["low"], expected["high"]]
        assert found.metric_args["n"] == expected["n"]
        assert f"| {expected['value']:.4f} | {expected['low']:.4f} to {expected['high']:.4f} |" in card.text


def test_pushing_again_commits_nothing(published, run, tmp_path, capsys):
    before = len(published.commits)
    with published.as_client(tmp_path / "cache"):
        assert push(run, "--repo_id", REPOSITORY) == 0
    assert len(published.commits) == before
    said = capsys.readouterr().out.splitlines()
    assert {f"{branch}: is there already, nothing to do" for branch in BRANCHES} < set(said)


@pytest.mark.deep
def test_evaluation_takes_a_branch_as_its_revision(published, run, tmp_path):
    recipe = tmp_path / "eval.yaml"
    recipe.write_text(yaml.safe_dump(EVALUATION), encoding="utf-8")
    command = [sys.executable, "training/eval.py", recipe, "--model", REPOSITORY, "--revision", "step-4"]
    environment = published.environment(tmp_path / "cache") | {"HF_TOKEN": TOKEN}
    done = run_command([*command, "--output_dir", tmp_path / "out"], **environment)
    assert done.returncode == 0, done.stderr
    result, expected = (
        json.loads((folder / "results.json").read_text())
        for folder in (tmp_path / "out", run / "evals/quick/checkpoint-4")
    )
    assert result["subject"]["weights_sha256"] == expected["subject"]["weights_sha256"]
    assert result["subject"]["commit"] == published.branches["step-4"]
    assert result["results"] == expected["results"]
    written = [path.read_text() for path in (tmp_path / "out").rglob("*.json*")]
    assert not any(TOKEN in text for text in (done.stdout, done.stderr, *written))


@pytest.mark.parametrize("option, private", [((), True), (("--public",), False)])
def test_repository_is_private_unless_asked_otherwise(hub, run, option, private):
    assert push(run, "--repo_id", REPOSITORY, *option) == 0
    assert hub.private is private


def test_nothing_private_goes_into_a_repository_that_is_public(hub, run, capsys):
    hub.create(private=False)
    assert push(run, "--repo_id", REPOSITORY) == 2
    assert "'you/tiny' is public, and was to be private" in capsys.readouterr().err
    assert set(hub.files("main")) == {".gitattributes"}


def test_repository_of_another_run_is_refused_with_both_values(hub, run, copied, capsys):
    assert push(run, "--repo_id", REPOSITORY) == 0
    before = dict(hub.branches)
    change_run(copied, learning_rate=0.5)
    assert push(copied, "--repo_id", REPOSITORY) == 2
    error = capsys.readouterr().err
    assert "holds another run: learning_rate is 0.002 there and 0.5 here; name another repository" in error
    change_run(copied, learning_rate=0.002, initial_weights_sha256="0" * 64)
    assert push(copied, "--repo_id", REPOSITORY) == 2
    assert "initial_weights_sha256" in capsys.readouterr().err
    assert hub.branches == before


def test_run_that_was_moved_is_the_same_run(hub, run, copied):
    assert push(run, "--repo_id", REPOSITORY) == 0
    change_run(copied, output_dir="/another/machine/runs/copy", save_steps=2)
    assert push(copied, "--repo_id", REPOSITORY) == 0


def test_repository_with_files_of_others_is_refused(hub, run, capsys):
    hub.create(private=True)
    hub.branches["main"] = hub.commit(hub.branches["main"], [("put", "weights.bin", b"precious")])
    assert push(run, "--repo_id", REPOSITORY) == 2
    assert "is not empty and holds no run (there is weights.bin and no run.json)" in capsys.readouterr().err
    assert hub.files("main")["weights.bin"] == b"precious"


def test_files_that_people_add_stay_and_stale_ones_go(hub, run):
    assert push(run, "--repo_id", REPOSITORY) == 0
    extra = [("put", "model.gguf", b"converted"), ("put", "model-00001-of-00002.safetensors", b"stale")]
    hub.branches["main"] = hub.commit(hub.branches["main"], extra)
    assert push(run, "--repo_id", REPOSITORY) == 0
    assert set(hub.files("main")) == FILES | {"model.gguf"}


def test_interrupted_push_goes_on(hub, run, capsys):
    hub.fail("POST .*/commit/step-8", 500, times=1)
    assert push(run, "--repo_id", REPOSITORY) == 2
    assert "publishing step-8 in you/tiny failed" in (error := capsys.readouterr().err)
    assert "give the same command again" in error
    assert set(hub.files("step-8")) == {".gitattributes"}
    assert push(run, "--repo_id", REPOSITORY) == 0
    assert "step-4: is there already" in capsys.readouterr().out
    assert all(set(hub.files(branch)) == FILES for branch in BRANCHES)
    assert len(hub.asked("PUT /large/")) == 2


def test_best_checkpoint_is_a_branch_of_its_own(hub, copied):
    link_best(copied, copied / "checkpoint-4")
    assert push(copied, "--repo_id", REPOSITORY) == 0
    assert set(hub.branches) == {*BRANCHES, "best"}
    assert hub.files("best")["model.safetensors"] == hub.files("step-4")["model.safetensors"]
    assert 'revision="best"' in card_of(hub, "best").text


def test_main_does_not_go_back_to_an_earlier_step(hub, run, copied, capsys):
    assert push(run, "--repo_id", REPOSITORY) == 0
    shutil.rmtree(copied / "checkpoint-8")
    assert push(copied, "--repo_id", REPOSITORY) == 0
    assert "main: stays at step 8" in capsys.readouterr().out
    assert hub.files("main")["model.safetensors"] == hub.files("step-8")["model.safetensors"]


def test_dry_run_lists_all_that_would_be_published_and_asks_nobody(hub, published, run, capsys):
    os.environ.pop("HF_TOKEN")
    assert push(run, "--repo_id", REPOSITORY, "--dry_run") == 0
    out = capsys.readouterr().out
    assert hub.requests == []
    assert out.startswith("you/tiny (private), 3 branches:\n")
    lines = out.splitlines()
    for branch in BRANCHES:
        start = next(number for number, line in enumerate(lines) if line.startswith(f"{branch}: "))
        listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in lines[start + 1 : start + 10]}
        sent = {name: len(content) for name, content in published.files(branch).items() if name != ".gitattributes"}
        assert listed == sent


def test_without_a_token_the_error_says_how_to_log_in(hub, run, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert push(run, "--repo_id", REPOSITORY) == 2
    assert "there is no token for the Hub; set HF_TOKEN, or log in" in capsys.readouterr().err
    assert hub.requests == []


@pytest.mark.parametrize(
    "token, message", [("hf_forgotten", "does not accept the token"), (READ_TOKEN, "may not write")]
)
def test_token_that_may_not_write_is_refused_before_anything_is_sent(hub, run, monkeypatch, capsys, token, message):
    hub.create(private=True)
    monkeypatch.setenv("HF_TOKEN", token)
    assert push(run, "--repo_id", REPOSITORY) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert token not in said.err + said.out
    assert set(hub.branches) == {"main"} and set(hub.files("main")) == {".gitattributes"}


@pytest.mark.parametrize("option", [["--token", TOKEN], [f"--token={TOKEN}"], ["--hub_token", TOKEN]])
def test_token_on_the_command_line_is_refused_and_not_repeated(hub, run, capsys, option):
    assert push(run, "--repo_id", REPOSITORY, *option) == 2
    error = capsys.readouterr().err
    assert "the token comes from HF_TOKEN" in error
    assert TOKEN not in error
    assert hub.requests == []


def test_token_is_in_no_output(hub, run, capfd):
    assert push(run, "--repo_id", REPOSITORY) == 0
    assert TOKEN not in "".join(capfd.readouterr())


def test_damaged_checkpoint_is_refused_before_anything_is_sent(hub, copied, capsys):
    weights = copied / "checkpoint-4" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert push(copied, "--repo_id", REPOSITORY) == 2
    assert "checkpoint-4/model.safetensors is not what was written" in capsys.readouterr().err
    assert hub.requests == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("{run}/checkpoint-4", "--repo_id", "you/tiny"), "has no run.json; name the folder of a run"),
        (("{run}", "--repo_id", "tiny"), "name a repository on the Hub, such as you/"),
        (("{run}", "--repo_id", "you/tiny", "--license", "MIT licence"), "name a licence as the Hub does"),
        (("{run}", "--repo_id", "you/tiny", "extra"), "1 arguments too many"),
    ],
)
def test_wrong_argument_is_one_error_with_what_to_do(hub, run, capsys, arguments, message):
    assert push(*(argument.replace("{run}", str(run)) for argument in arguments)) == 2
    assert message in capsys.readouterr().err
    assert hub.requests == []


def test_client_lists_the_branches_that_were_pushed(published, tmp_path):
    with published.as_client(tmp_path / "cache"):
        assert {branch.name for branch in HfApi().list_repo_refs(REPOSITORY).branches} == BRANCHES
