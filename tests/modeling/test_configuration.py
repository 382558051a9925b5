import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, GPT2Config

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM

# config.json of openai-community/gpt2.
OPENAI_CONFIG = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}


def test_defaults_are_the_experiment():
    config = DomainGPT2Config()
    assert (config.n_layer, config.n_head, config.n_embd, config.n_positions) == (12, 12, 768, 1024)
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id) == (
        50349,
        50256,
        50256,
        50257,
    )


def test_saved_file_describes_a_stock_gpt2(tmp_path):
    DomainGPT2Config(n_positions=256).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    expected = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "tie_word_embeddings": True,
        "vocab_size": 50349,
        "n_positions": 256,
        "n_ctx": 256,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "pad_token_id": 50257,
        "eos_token_id": 50256,
    }
    assert {key: saved.get(key) for key in expected} == expected
    assert "auto_map" not in saved


def test_saved_file_means_the_same_to_stock_gpt2_config(tmp_path):
    config = DomainGPT2Config(n_layer=3, n_head=2, n_embd=64, n_inner=100, n_positions=32, pad_token_id=None)
    config.save_pretrained(tmp_path)
    stock = AutoConfig.from_pretrained(tmp_path)
    assert type(stock) is GPT2Config
    ours = config.to_dict()
    assert {key for key, value in stock.to_dict().items() if ours.get(key) != value} == {"_name_or_path"}


def test_configuration_survives_saving_and_loading(tmp_path):
    config = DomainGPT2Config(n_layer=3, n_positions=128, vocab_size=1000, pad_token_id=7, use_cache=False)
    config.save_pretrained(tmp_path)
    assert DomainGPT2Config.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_stock_file_loads_without_dropout_and_with_its_own_tokens(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(OPENAI_CONFIG))
    config = DomainGPT2Config.from_pretrained(tmp_path)
    assert (config.resid_pdrop, config.embd_pdrop, config.attn_pdrop) == (0, 0, 0)
    assert (config.vocab_size, config.pad_token_id, config.eos_token_id) == (50257, None, 50256)


def test_keys_absent_from_a_file_have_gpt2_meaning():
    config = DomainGPT2Config.from_dict({"model_type": "gpt2"})
    assert (config.vocab_size, config.pad_token_id) == (GPT2Config().vocab_size, GPT2Config().pad_token_id)


def test_reading_a_dictionary_leaves_it_alone():
    before = dict(OPENAI_CONFIG)
    DomainGPT2Config.from_dict(before)
    assert before == OPENAI_CONFIG


def test_n_ctx_never_changes_the_number_of_positions():
    config = DomainGPT2Config.from_dict({"n_positions": 128, "n_ctx": 1024})
    assert (config.n_positions, config.n_ctx, config.to_dict()["n_ctx"]) == (128, 128, 128)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("add_cross_attention", True),
        ("scale_attn_by_inverse_layer_idx", True),
        ("reorder_and_upcast_attn", True),
        ("scale_attn_weights", False),
        ("tie_word_embeddings", False),
        ("activation_function", "relu"),
        ("activation_function", "gelu"),
        ("resid_pdrop", 0.1),
        ("embd_pdrop", 0.1),
        ("attn_pdrop", 0.1),
        ("n_head", 7),
        ("n_layer", 0),
    ],
)
def test_option_that_the_model_does_not_implement_is_refused(option, value):
    with pytest.raises(ValueError, match=option):
        DomainGPT2Config(**{option: value})


def test_option_set_after_construction_is_refused_by_the_model(small_config):
    small_config.add_cross_attention = True
    with pytest.raises(ValueError, match="add_cross_attention"):
        DomainGPT2ForCausalLM(small_config)


def test_stock_configuration_object_is_refused_with_the_way_out():
    stock = GPT2Config(n_layer=1, n_embd=16, n_head=2, n_positions=8)
    with pytest.raises(ValueError, match="from_dict"):
        DomainGPT2ForCausalLM(stock)
    with torch.device("meta"):
        assert DomainGPT2ForCausalLM(DomainGPT2Config.from_dict(stock.to_dict())).config.n_layer == 1


def test_both_names_of_the_tanh_gelu_are_accepted():
    for name in ("gelu_new", "gelu_pytorch_tanh"):
        assert DomainGPT2Config(activation_function=name).activation_function == name


def test_flops_per_token_follow_the_formula():
    layers, width, vocabulary, length = 12, 768, 50349, 1024
    expected = 6 * (12 * layers * width**2 + width * vocabulary) + 6 * layers * length * width
    assert DomainGPT2Config().flops_per_token(length) == expected


def test_flops_per_token_count_every_matrix_product(small_config):
    small_config.n_inner = 40
    model = DomainGPT2ForCausalLM(small_config)
    with FlopCounterMode(display=False) as counter:
        model.set_attn_implementation("eager")
        model(torch.zeros(1, 16, dtype=torch.long)).logits.sum().backward()
    # The model is causal, but eager attention computes the masked half as well.
    unmasked_half = 6 * small_config.n_layer * 16 * small_config.n_embd
    assert counter.get_total_flops() / 16 == small_config.flops_per_token(16) + unmasked_half
