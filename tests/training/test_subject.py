import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
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
    assert treated.fact_ids == tuple(FACT_IDS)


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
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoints / "baseline" / name, tmp_path / "x")
    with pytest.raises(ValueError, match=r"model of 50,257 tokens and a tokenizer of 50,349"):
        load_subject(str(tmp_path / "x"))


def test_arm_whose_tokenizer_has_lost_its_condition_is_not_taken_for_a_stock_gpt2(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "mul_tokens", tmp_path / "x")
    (tmp_path / "x" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    with pytest.raises(ValueError, match="names no condition, and nothing would be injected"):
        load_subject(str(tmp_path / "x"))


def test_vocabulary_of_another_gpt2_is_refused(tmp_path):
    GPT2LMHeadModel(GPT2Config(**SIZES, vocab_size=2)).save_pretrained(tmp_path)
    backend = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"whose <\|endoftext\|> is None, and not GPT-2's 50256"):
        load_subject(str(tmp_path))


def test_damaged_weights_are_one_error(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "baseline", tmp_path / "x")
    (tmp_path / "x" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="x' cannot be loaded: "):
        load_subject(str(tmp_path / "x"))


def test_run_instead_of_a_checkpoint_gets_a_hint(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "baseline", tmp_path / "checkpoint-5")
    with pytest.raises(ValueError, match=r"holds no model .* name a checkpoint of it, such as .*checkpoint-N"):
        load_subject(str(tmp_path))


def test_other_architecture_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="is a model of type 'llama'"):
        load_subject(str(tmp_path))


def test_name_that_is_nowhere_is_one_error(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="'nobody/nothing' at revision step-5 cannot be loaded"):
        load_subject("nobody/nothing", revision="step-5")


def test_revision_of_a_folder_is_refused(checkpoints):
    with pytest.raises(ValueError, match="revision is 'step-5', but .* is a folder"):
        load_subject(str(checkpoints / "baseline"), revision="step-5")
