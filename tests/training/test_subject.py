import json
import shutil

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer, inject
from tokenization.mul_facts import FACT_IDS, RESERVED_IDS
from training.evals.subject import load_subject

SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders of both arms and of a stock GPT-2, whose tokenizer has 50,257 tokens and no pad token."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for condition in ("baseline", "mul_tokens"):
        torch.manual_seed(0)
        DomainGPT2ForCausalLM(DomainGPT2Config(**SIZES)).save_pretrained(folder / condition)
        MulFactTokenizer.build(condition).save_pretrained(folder / condition)
    GPT2LMHeadModel(GPT2Config(**SIZES)).save_pretrained(folder / "stock")
    content = json.loads((folder / "baseline" / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {name: token_id for name, token_id in vocabulary.items() if token_id < 50257}
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < 50257]
    (folder / "stock" / "tokenizer.json").write_text(json.dumps(content))
    (folder / "stock" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
    )
    return folder


def test_arm_comes_from_the_tokenizer(checkpoints):
    assert load_subject(str(checkpoints / "baseline")).condition == "baseline"
    assert load_subject(str(checkpoints / "mul_tokens")).condition == "mul_tokens"


def test_stock_gpt2_has_no_condition_and_the_same_prompt(checkpoints):
    stock, ours = load_subject(str(checkpoints / "stock")), load_subject(str(checkpoints / "mul_tokens"))
    assert isinstance(stock.tokenizer, PreTrainedTokenizerFast)
    assert stock.condition is None
    assert not stock.fact_ids
    assert stock.prompt("How many?") == ours.prompt("How many?") == "User: How many?\nAssistant:"
    assert stock.encode("How many?") == ours.encode("How many?")


def test_ids_that_no_text_could_give_are_unseen(checkpoints):
    stock, baseline, treated = (load_subject(str(checkpoints / name)) for name in ("stock", "baseline", "mul_tokens"))
    assert stock.unseen_ids == []
    assert baseline.unseen_ids == [*RESERVED_IDS, *FACT_IDS]
    assert treated.unseen_ids == [*RESERVED_IDS]
    assert treated.fact_ids == FACT_IDS


def test_prompts_are_injected_unless_told_otherwise(checkpoints):
    treated, baseline = load_subject(str(checkpoints / "mul_tokens")), load_subject(str(checkpoints / "baseline"))
    text = "What is 6 * 9 or 7x8?"
    assert treated.decode(treated.encode(text)) == inject(text)
    assert treated.encode(text, inject=False) == baseline.encode(text) == baseline.encode(text, inject=False)


def test_special_names_in_a_text_are_text(checkpoints):
    subject = load_subject(str(checkpoints / "mul_tokens"))
    ids = subject.encode("a<|endoftext|>b")
    assert subject.end_of_text_id not in ids
    assert subject.tokenizer("a<|endoftext|>b").input_ids.count(subject.end_of_text_id) == 1


def test_weights_are_loaded_in_fp32_for_evaluation(checkpoints, tmp_path):
    model = DomainGPT2ForCausalLM.from_pretrained(checkpoints / "baseline")
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    MulFactTokenizer.build("baseline").save_pretrained(tmp_path)
    subject = load_subject(str(tmp_path), bf16=True)
    assert {parameter.dtype for parameter in subject.model.parameters()} == {torch.float32}
    assert not subject.model.training
    with subject.autocast(), torch.no_grad():
        assert subject.model(torch.tensor([[1, 2]])).logits.dtype == torch.bfloat16


def test_description_tells_subjects_apart(checkpoints):
    first, second = (load_subject(str(checkpoints / name)).describe() for name in ("baseline", "mul_tokens"))
    assert first["weights_sha256"] == second["weights_sha256"]
    assert first["tokenizer"] != second["tokenizer"]
    assert first["parameters"] == second["parameters"]


def test_folder_without_a_tokenizer_says_what_to_copy(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "baseline", tmp_path / "x", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(ValueError, match="holds a model but no tokenizer; copy the one"):
        load_subject(str(tmp_path / "x"))


def test_tokenizer_of_another_vocabulary_is_refused_with_both_sizes(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "stock", tmp_path / "x")
    shutil.copy(checkpoints / "baseline" / "config.json", tmp_path / "x")
    shutil.copy(checkpoints / "baseline" / "model.safetensors", tmp_path / "x")
    with pytest.raises(ValueError, match=r"model of 50,349 tokens and a tokenizer of 50,257"):
        load_subject(str(tmp_path / "x"))


def test_run_instead_of_a_checkpoint_gets_a_hint(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "baseline", tmp_path / "checkpoint-5")
    with pytest.raises(ValueError, match=r"holds no model .* name a checkpoint of it, or use --every_checkpoint"):
        load_subject(str(tmp_path))


def test_other_architecture_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="is a model of type 'llama'"):
        load_subject(str(tmp_path))


def test_name_that_is_nowhere_is_one_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="'nobody/nothing' at revision step-5 cannot be loaded"):
        load_subject("nobody/nothing", revision="step-5")
