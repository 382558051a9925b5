import math

import pytest
import torch
from transformers import AttentionInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def test_experiment_has_exactly_its_number_of_parameters():
    with torch.device("meta"):
        model = DomainGPT2ForCausalLM(DomainGPT2Config())
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_510_464


def test_initial_weights_have_gpt2_scale():
    torch.manual_seed(0)
    model = DomainGPT2ForCausalLM(DomainGPT2Config(vocab_size=1000, n_positions=128, n_embd=128, n_layer=4, n_head=4))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert parameter.abs().max() == 0, name
        elif ".ln_" in name:
            assert (parameter == 1).all(), name
        else:
            expected = 0.02 / math.sqrt(2 * 4) if "c_proj" in name else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name
            assert parameter.mean().item() == pytest.approx(0, abs=expected / 20), name


def test_head_shares_its_weight_with_the_embeddings(model):
    assert model.lm_head.weight is model.transformer.wte.weight
    assert model.get_output_embeddings().bias is None


def test_left_padding_changes_nothing(model, documents):
    longest = max(document.shape[1] for document in documents)
    rows = [torch.nn.functional.pad(document, (longest - document.shape[1], 0), value=1) for document in documents]
    mask = torch.cat([torch.arange(longest)[None] >= longest - document.shape[1] for document in documents]).long()
    padded = model(torch.cat(rows), attention_mask=mask).logits
    for row, document in enumerate(documents):
        alone = model(document).logits[0]
        torch.testing.assert_close(padded[row, -document.shape[1] :], alone, **CLOSE)


def test_left_padding_changes_no_generated_token(model, documents):
    longest = max(document.shape[1] for document in documents)
    rows = [torch.nn.functional.pad(document, (longest - document.shape[1], 0), value=1) for document in documents]
    mask = torch.cat([torch.arange(longest)[None] >= longest - document.shape[1] for document in documents]).long()
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    batched = model.generate(torch.cat(rows), attention_mask=mask, **options)
    for row, document in enumerate(documents):
        alone = model.generate(document, attention_mask=torch.ones_like(document), **options)
        assert batched[row, longest:].tolist() == alone[0, document.shape[1] :].tolist()


def test_right_padding_changes_nothing(model, input_ids):
    mask = torch.ones_like(input_ids)
    mask[:, 10:] = 0
    torch.testing.assert_close(
        model(input_ids, attention_mask=mask).logits[:, :10], model(input_ids[:, :10]).logits, **CLOSE
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_packed_documents_do_not_see_each_other(model, documents, packed_position_ids, attention, with_mask, mode):
    model.set_attn_implementation(attention)
    getattr(model, mode)()
    packed = torch.cat(documents, dim=1)
    mask = torch.ones_like(packed) if with_mask else None
    together = model(packed, position_ids=packed_position_ids, attention_mask=mask).logits
    apart = torch.cat([model(document).logits for document in documents], dim=1)
    torch.testing.assert_close(together, apart, **CLOSE)


def test_packed_row_may_be_longer_than_the_positions(model, documents, packed_position_ids):
    packed = torch.cat([*documents] * 4, dim=1)
    assert packed.shape[1] > model.config.n_positions
    logits = model(packed, position_ids=packed_position_ids.repeat(1, 4)).logits
    first = sum(document.shape[1] for document in documents)
    torch.testing.assert_close(logits[:, :first], logits[:, -first:], **CLOSE)


def test_rows_of_a_batch_may_be_packed_differently(model, documents):
    packed = torch.cat([torch.cat(documents[:2], dim=1), torch.cat(documents[:2][::-1], dim=1)])
    positions = torch.stack(
        [torch.cat([torch.arange(9), torch.arange(14)]), torch.cat([torch.arange(14), torch.arange(9)])]
    )
    logits = model(packed, position_ids=positions).logits
    torch.testing.assert_close(logits[0, :9], logits[1, 14:], **CLOSE)
    torch.testing.assert_close(logits[0, 9:], logits[1, :14], **CLOSE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_later_tokens_do_not_change_earlier_logits(model, input_ids, attention):
    model.set_attn_implementation(attention)
    changed = input_ids.clone()
    changed[:, 9:] = 5
    torch.testing.assert_close(model(changed).logits[:, :9], model(input_ids).logits[:, :9], **CLOSE)


def test_cache_fed_token_by_token_gives_the_logits_of_the_whole(model, input_ids):
    whole = model(input_ids).logits
    cache = DynamicCache(config=model.config)
    steps = [model(input_ids[:, [t]], past_key_values=cache, use_cache=True).logits for t in range(input_ids.shape[1])]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, **CLOSE)


def test_cache_carries_left_padding(model, documents):
    padded = torch.nn.functional.pad(documents[0], (4, 0), value=1)
    mask = (torch.arange(padded.shape[1]) >= 4).long().unsqueeze(0)
    first = model(padded[:, :8], attention_mask=mask[:, :8], use_cache=True)
    second = model(padded[:, 8:], attention_mask=mask, past_key_values=first.past_key_values)
    torch.testing.assert_close(second.logits, model(documents[0]).logits[:, 4:], **CLOSE)


def test_every_kind_of_cache_generates_the_same(model, input_ids):
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "disable_compile": True}
    mask = torch.ones_like(input_ids)
    dynamic = model.generate(input_ids, attention_mask=mask, **options)
    static = model.generate(input_ids, attention_mask=mask, cache_implementation="static", **options)
    without = model.generate(input_ids, attention_mask=mask, use_cache=False, **options)
    assert dynamic.tolist() == static.tolist() == without.tolist()


def test_training_makes_no_cache_unless_asked(model, input_ids):
    assert model.train()(input_ids).past_key_values is None
    assert model(input_ids, use_cache=True).past_key_values.get_seq_length() == input_ids.shape[1]
    assert model.eval()(input_ids).past_key_values.get_seq_length() == input_ids.shape[1]


def test_attention_goes_through_the_registry_of_transformers(model, input_ids):
    layers = []

    def recording_attention(module, *args, **kwargs):
        layers.append(module.layer_idx)
        return sdpa_attention_forward(module, *args, **kwargs)

    expected = model(input_ids).logits
    AttentionInterface.register("recording", recording_attention)
    model.set_attn_implementation("recording")
    torch.testing.assert_close(model(input_ids).logits, expected)
    assert layers == [0, 1]


def test_hidden_states_and_attentions_are_returned_on_request(model, input_ids):
    model.set_attn_implementation("eager")
    outputs = model(input_ids, output_hidden_states=True, output_attentions=True)
    assert [states.shape for states in outputs.hidden_states] == [(3, 16, 32)] * 3
    torch.testing.assert_close(outputs.attentions[1].sum(dim=-1), torch.ones(3, 4, 16))
    torch.testing.assert_close(model.lm_head(outputs.hidden_states[-1]), outputs.logits)


def test_embeddings_may_take_the_place_of_ids(model, input_ids):
    embeddings = model.get_input_embeddings()(input_ids)
    assert torch.equal(model(inputs_embeds=embeddings).logits, model(input_ids).logits)
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        model(input_ids, inputs_embeds=embeddings)


def test_logits_to_keep_selects_positions(model, input_ids):
    whole = model(input_ids).logits
    torch.testing.assert_close(model(input_ids, logits_to_keep=2).logits, whole[:, -2:])
    torch.testing.assert_close(model(input_ids, logits_to_keep=torch.tensor([0, 5])).logits, whole[:, [0, 5]])


def test_sequence_longer_than_the_positions_is_an_error(model):
    with pytest.raises(ValueError, match=r"65 tokens.*n_positions=64"):
        model(torch.zeros(1, 65, dtype=torch.long))


def test_cache_that_runs_past_the_positions_is_an_error(model):
    past = model(torch.zeros(1, 60, dtype=torch.long), use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"65 tokens.*n_positions=64"):
        model(torch.zeros(1, 5, dtype=torch.long), past_key_values=past)


def test_generation_past_the_positions_is_an_error(model, input_ids):
    with pytest.raises(ValueError, match="position_ids reach 64"):
        model.generate(input_ids, max_new_tokens=60, do_sample=False, eos_token_id=None)


def test_checkpointed_gradients_equal_ordinary_ones(model, input_ids):
    model.train()
    model(input_ids, labels=input_ids).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    recomputed = []
    model.transformer.h[0].attn.register_forward_hook(lambda *_: recomputed.append(1))
    model(input_ids, labels=input_ids).loss.backward()
    assert len(recomputed) == 2  # once more in the backward pass, or nothing was checkpointed
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_model_compiles_as_one_graph(model, input_ids, packed_position_ids, documents, mode):
    getattr(model, mode)()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    packed = torch.cat(documents, dim=1)
    for arguments in ({"input_ids": input_ids}, {"input_ids": packed, "position_ids": packed_position_ids}):
        expected = model(**arguments, labels=arguments["input_ids"])
        expected.loss.backward()
        gradient = model.transformer.wpe.weight.grad.clone()
        model.zero_grad()
        outputs = compiled(**arguments, labels=arguments["input_ids"])
        outputs.loss.backward()
        torch.testing.assert_close(outputs.logits, expected.logits, **CLOSE)
        torch.testing.assert_close(model.transformer.wpe.weight.grad, gradient, **CLOSE)
        model.zero_grad()


def test_bfloat16_autocast_stays_close_and_keeps_float32_gradients(model, input_ids):
    expected = model.train()(input_ids, labels=input_ids).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(input_ids, labels=input_ids)
    assert outputs.logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == torch.float32
    torch.testing.assert_close(outputs.loss, expected, rtol=5e-3, atol=0)
    outputs.loss.backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_resized_vocabulary_trains(model, input_ids):
    model.resize_token_embeddings(310, mean_resizing=False)
    outputs = model.train()(input_ids, labels=input_ids)
    outputs.loss.backward()
    assert outputs.logits.shape[-1] == model.config.vocab_size == len(model.transformer.wte.weight.grad) == 310
