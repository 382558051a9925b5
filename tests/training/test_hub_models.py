import json
import sys
from types import SimpleNamespace

import pytest
import torch

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tests.conftest import run_command
from tests.loopback_hub import LoopbackHub
from tokenization import MulFactTokenizer
from training.evals.subject import load_subject

TEXT = "What is 6*9 or 7 × 8?"
COMMITS = {"main": "0123456789" * 4, "step-5": "9876543210" * 4}
CONDITIONS = {"main": "baseline", "step-5": "mul_tokens"}

# The address and the cache of the Hub are read on import, so that its clients need a process of their own.
PROGRAM = f"""
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("you/model", revision="step-5")
tokenizer = AutoTokenizer.from_pretrained("you/model", revision="step-5")
inputs = tokenizer({TEXT!r}, return_tensors="pt")
plain = {{
    "project": [name for name in ("modeling", "tokenization", "training") if name in sys.modules],
    "class": type(model).__name__,
    "input_ids": inputs.input_ids.tolist(),
    "logits": model(**inputs).logits[0, -1].tolist(),
}}

from training.evals.subject import load_subject

def describe(name, revision):
    try:
        return load_subject(name, revision=revision).describe()
    except ValueError as error:
        return str(error)

subjects = {{
    str(revision): describe("you/model", revision)
    for revision in (None, "step-5", "main", {COMMITS["step-5"]!r}, "step-6")
}}
with open(sys.argv[1], "w", encoding="utf-8") as file:
    json.dump({{"plain": plain, "subjects": subjects, "absent": describe("you/nothing", None)}}, file)
"""


@pytest.fixture(scope="module")
def branches(tmp_path_factory):
    """The folder of each branch; they differ in the weights and in the condition."""
    folders = {branch: tmp_path_factory.mktemp(branch) for branch in COMMITS}
    for seed, (branch, folder) in enumerate(folders.items()):
        torch.manual_seed(seed)
        config = DomainGPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=64, initializer_range=0.2)
        DomainGPT2ForCausalLM(config).save_pretrained(folder)
        MulFactTokenizer.build(CONDITIONS[branch]).save_pretrained(folder)
    return folders


@pytest.fixture(scope="module")
def found(tmp_path_factory, branches):
    """What one process, with one cache, loads from the Hub."""
    folder = tmp_path_factory.mktemp("found")
    commits = {commit: branches[branch] for branch, commit in COMMITS.items()}
    with LoopbackHub("you/model", commits, COMMITS, kind="model") as server:
        command = [sys.executable, "-c", PROGRAM, folder / "found.json"]
        result = run_command(command, **server.environment(folder / "cache"))
    assert result.returncode == 0, result.stderr
    return SimpleNamespace(**json.loads((folder / "found.json").read_text(encoding="utf-8")))


def assert_is_subject_of(description, folder):
    """The weights and the tokenizer are those of a folder."""
    local = load_subject(str(folder)).describe()
    for key in ("weights_sha256", "tokenizer", "condition"):
        assert description[key] == local[key]


def test_revision_gives_the_weights_and_the_tokenizer_of_its_branch(found, branches):
    assert_is_subject_of(found.subjects["step-5"], branches["step-5"])
    assert_is_subject_of(found.subjects["main"], branches["main"])
    assert found.subjects["step-5"]["weights_sha256"] != found.subjects["main"]["weights_sha256"]


def test_branch_without_a_revision_is_main(found, branches):
    assert_is_subject_of(found.subjects["None"], branches["main"])


def test_commit_is_a_revision_too(found, branches):
    assert_is_subject_of(found.subjects[COMMITS["step-5"]], branches["step-5"])


@pytest.mark.parametrize(
    "revision, branch", [("None", "main"), ("step-5", "step-5"), ("main", "main"), (COMMITS["step-5"], "step-5")]
)
def test_description_records_the_commit_behind_the_revision(found, revision, branch):
    assert found.subjects[revision]["model"] == "you/model"
    assert found.subjects[revision]["commit"] == COMMITS[branch]


def test_unknown_revision_is_one_error_that_names_it(found):
    error = found.subjects["step-6"]
    assert error.startswith("'you/model' at revision step-6 cannot be loaded: step-6 is not a valid git identifier")
    assert "\n" not in error


def test_unknown_repository_is_one_error_that_names_it(found):
    assert found.absent.startswith("'you/nothing' cannot be loaded: you/nothing is not")
    assert "\n" not in found.absent


def test_auto_classes_load_a_revision_without_this_project(found, branches):
    local = load_subject(str(branches["step-5"]))
    ids = local.tokenizer(TEXT, return_tensors="pt").input_ids
    assert found.plain["project"] == []
    assert found.plain["class"] == "GPT2LMHeadModel"
    assert found.plain["input_ids"] == ids.tolist()
    with torch.no_grad():
        expected = local.model(ids).logits[0, -1]
    torch.testing.assert_close(torch.tensor(found.plain["logits"]), expected, rtol=1e-4, atol=1e-5)
