import functools

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from training.core import fused_head
from training.core.fused_head import score_supervised_positions_on_cpu

VOCABULARY = 301  # the head pads its logits to 384 columns
OUTPUTS = ("log_probs", "entropy", "is_top1")
FIELDS = ("loss", *OUTPUTS, "label_mask")


def model_of(*patches):
    """A model with large weights, so that its probabilities are far from even."""
    torch.manual_seed(2)
    size = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 32, "pad_token_id": 0}
    model = DomainGPT2ForCausalLM(DomainGPT2Config(vocab_size=VOCABULARY, **size)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    for patch in patches:
        patch(model)
    return model


add_trl_head = functools.partial(add_fused_lm_head, outputs=OUTPUTS)


@pytest.fixture
def batch():
    """Two packed rows, of which some positions are learnt."""
    torch.manual_seed(3)
    ids = torch.randint(0, VOCABULARY, (2, 24))
    positions = torch.cat([torch.arange(10), torch.arange(14)]).expand(2, -1)
    return {"input_ids": ids, "labels": ids.where(torch.rand(2, 24) < 0.4, -100), "position_ids": positions}


def outputs_and_gradients(model, batch):
    outputs = model(**batch, fused_lm_head=True)
    # TRL's trainer forms its loss of these, and sums over micro-batches.
    (-outputs.log_probs.sum() / 7).backward()
    return outputs, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("learnt", ["some", "all", "none"])
def test_numbers_and_gradients_are_those_of_trls_own_head(batch, learnt, temperature):
    if learnt != "some":
        batch["labels"] = batch["input_ids"] if learnt == "all" else torch.full_like(batch["labels"], -100)
    trl_head = functools.partial(add_trl_head, temperature=temperature)
    our_head = functools.partial(score_supervised_positions_on_cpu, temperature=temperature)
    expected, expected_gradients = outputs_and_gradients(model_of(trl_head), batch)
    ours, gradients = outputs_and_gradients(model_of(trl_head, our_head), batch)
    for field in FIELDS:
        theirs, value = getattr(expected, field), getattr(ours, field)
        assert value.dtype == theirs.dtype or field == "is_top1"
        torch.testing.assert_close(value.float(), theirs.float(), rtol=1e-5, atol=1e-5, msg=field)
    assert gradients.keys() == expected_gradients.keys()
    assert all(gradient is not None for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-5, atol=1e-6, msg=name)
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients.values()) == (learnt != "none")


def test_temperature_flattens_the_probabilities_and_leaves_the_likeliest_token(batch):
    sharp, flat = (
        model_of(add_trl_head, functools.partial(score_supervised_positions_on_cpu, temperature=temperature))(
            **batch, fused_lm_head=True
        )
        for temperature in (0.5, 2.0)
    )
    assert (flat.entropy > sharp.entropy)[sharp.label_mask].all()
    assert torch.equal(flat.is_top1, sharp.is_top1)


def test_outputs_that_are_not_asked_for_are_left_out(batch):
    model = model_of(add_trl_head, functools.partial(score_supervised_positions_on_cpu, outputs=("log_probs",)))
    outputs = model(**batch, fused_lm_head=True)
    assert (outputs.entropy, outputs.is_top1) == (None, None)
    everything = model_of(add_trl_head, score_supervised_positions_on_cpu)(**batch, fused_lm_head=True)
    assert torch.equal(outputs.log_probs, everything.log_probs)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradient_of_an_entropy_bonus_is_that_of_trls_own_head(batch, temperature):
    trl_head = functools.partial(add_trl_head, temperature=temperature)
    our_head = functools.partial(score_supervised_positions_on_cpu, temperature=temperature, entropy_has_gradient=True)
    gradients = []
    for model in (model_of(trl_head), model_of(trl_head, our_head)):
        outputs = model(**batch, fused_lm_head=True)
        (-outputs.log_probs.sum() - 0.1 * outputs.entropy.sum()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for theirs, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_batch_without_a_label_has_no_loss_but_a_gradient_of_zero(batch):
    batch["labels"] = torch.full_like(batch["labels"], -100)
    outputs, gradients = outputs_and_gradients(model_of(add_trl_head, score_supervised_positions_on_cpu), batch)
    assert outputs.loss.item() == 0
    assert not any(gradient.any() for gradient in gradients.values())


def test_blocks_of_positions_change_nothing(batch, monkeypatch):
    model = model_of(add_trl_head, score_supervised_positions_on_cpu)
    in_one = model(**batch, fused_lm_head=True)
    monkeypatch.setattr(fused_head, "_BLOCK", 3)
    in_many = model(**batch, fused_lm_head=True)
    for field in FIELDS:
        torch.testing.assert_close(getattr(in_many, field), getattr(in_one, field), msg=field)


def test_forward_without_the_fused_head_is_untouched(batch):
    expected, ours = model_of(), model_of(add_trl_head, score_supervised_positions_on_cpu)
    for keys in (batch.keys(), ("input_ids",)):
        inputs = {key: batch[key] for key in keys}
        one, other = expected(**inputs), ours(**inputs)
        assert torch.equal(one.logits, other.logits)
        assert (one.loss is None and other.loss is None) or torch.equal(one.loss, other.loss)


def test_model_still_generates(batch):
    prompt = {"input_ids": batch["input_ids"][:1, :5], "max_new_tokens": 4, "do_sample": False}
    expected = model_of().eval().generate(**prompt)
    assert torch.equal(model_of(add_trl_head, score_supervised_positions_on_cpu).eval().generate(**prompt), expected)


def test_probabilities_are_single_precision_under_autocast(batch):
    model = model_of(add_trl_head, score_supervised_positions_on_cpu)
    expected = model(**batch, fused_lm_head=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**batch, fused_lm_head=True)
    assert outputs.loss.dtype == outputs.log_probs.dtype == outputs.entropy.dtype == torch.float32
    torch.testing.assert_close(outputs.loss, expected.loss, rtol=2e-2, atol=0)


def test_of_equal_logits_the_first_is_the_models_choice():
    logits = torch.zeros(70, 5).bfloat16()
    logits[:, 3:] = 1.5
    logits[40:, 1] = 2.0
    targets = torch.tensor([3, 4] * 35)
    targets[60:] = 1
    assert torch.equal(fused_head._is_top1(logits, targets), logits.argmax(-1) == targets)
    assert fused_head._is_top1(logits, targets).tolist() == [True, False] * 20 + [False] * 20 + [True] * 10
