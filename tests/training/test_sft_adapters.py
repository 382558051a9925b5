"""Fine-tuning of an adapter, whose checkpoints are models like any other."""

import json

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from modeling import DomainGPT2ForCausalLM
from tests.conftest import assert_same_run, rows_with
from tests.training.small_sft import (
    CONVERSATIONS,
    SHORT,
    fine_tune,
    held_out_of,
    only_checkpoint,
    plain_ids,
    plain_nats,
)
from tests.training.tiny_subjects import tokenizer_of
from training.core.provenance import sha256_of_weights
from training.core.recipe import parse_recipe
from training.core.sft_recipe import SftModelArguments

LORA = ("--use_peft", "true", "--lora_r", 4, "--lora_dropout", 0.1, "--learning_rate", "2e-2")


@pytest.fixture(scope="module")
def adapted(sft_sources, tmp_path_factory):
    """A finished run that trained an adapter."""
    run = tmp_path_factory.mktemp("adapted") / "run"
    assert fine_tune(sft_sources, run, *LORA) == 0
    return run


def test_merged_checkpoint_computes_what_the_adapter_does(adapted, sft_sources):
    folder = adapted / "checkpoint-8"
    ids = torch.tensor([plain_ids(CONVERSATIONS[1], tokenizer_of("mul_tokens"))[0]])
    base = DomainGPT2ForCausalLM.from_pretrained(sft_sources / "mul_tokens")
    with torch.no_grad():
        start = base(ids).logits
        merged = DomainGPT2ForCausalLM.from_pretrained(folder).eval()(ids).logits
        with_adapter = PeftModel.from_pretrained(base, folder / "adapter").eval()(ids).logits
    torch.testing.assert_close(merged, with_adapter, rtol=1e-5, atol=1e-5)
    assert (merged - start).abs().max() > 0.1


def test_merged_checkpoint_is_one_like_any_other(adapted, finished_sft):
    runs = (adapted, finished_sft("mul_tokens"))
    one, other = ({path.name for path in (run / "checkpoint-8").iterdir()} for run in runs)
    assert one == other | {"adapter"}
    AutoModelForCausalLM.from_pretrained(adapted / "checkpoint-8")
    keys = [load_file(run / "checkpoint-8" / "model.safetensors").keys() for run in runs]
    assert keys[0] == keys[1]


def test_model_card_is_ours(adapted):
    card = (adapted / "checkpoint-8" / "README.md").read_text()
    assert "| `use_peft` | True |" in card and "base_model" not in card


def test_only_the_matrices_with_an_adapter_change(adapted, sft_sources):
    before, after = (
        load_file(folder / "model.safetensors") for folder in (sft_sources / "mul_tokens", adapted / "checkpoint-8")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))}


def test_evaluation_of_an_adapter_is_that_of_its_checkpoint(adapted):
    tokenizer = tokenizer_of("mul_tokens")
    rows = held_out_of(adapted, tokenizer)
    with torch.no_grad():
        nats, tokens = plain_nats(DomainGPT2ForCausalLM.from_pretrained(adapted / "checkpoint-8"), rows, tokenizer)
    assert rows_with(adapted, "eval_loss")[8] == pytest.approx(nats.item() / tokens, rel=1e-5)


def test_evaluation_recipe_finds_the_weights_of_the_merged_checkpoint(tune, tmp_path):
    """Or training/eval.py would take the results for those of another model."""
    recipe = tmp_path / "eval.yaml"
    task = {"task": "word_problems", "synthetic": "word_problems", "documents": 2}
    recipe.write_text(yaml.safe_dump({"name": "quick", "tasks": [task], "max_new_tokens": 2}))
    assert tune(*LORA, *SHORT, "--eval_recipe", recipe) == 0
    measured = json.loads((tmp_path / "run" / "evals" / "quick" / "checkpoint-1" / "run.json").read_text())
    model = DomainGPT2ForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-1")
    assert measured["subject"]["weights_sha256"] == sha256_of_weights(model)
    assert measured["subject"]["parameters"] == model.num_parameters()


def test_modules_of_an_adapter_can_be_named_on_the_command_line():
    arguments = ["--model_name_or_path", "x", "--lora_target_modules", "c_attn", "c_fc"]
    (parsed,) = parse_recipe([SftModelArguments], arguments)
    assert list(parsed.lora_target_modules) == ["c_attn", "c_fc"]


def test_adapter_of_a_run_that_died_goes_on_to_the_same_bits(adapted, tune, tmp_path):
    run = only_checkpoint(adapted, tmp_path / "run", 4)
    assert tune(*LORA) == 0
    assert_same_run(adapted, run, 8)
    name = "checkpoint-8/adapter/adapter_model.safetensors"
    assert (run / name).read_bytes() == (adapted / name).read_bytes()
