"""The loss that never holds all logits: the numbers of the plain one, and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM


@pytest.fixture
def model() -> DomainGPT2ForCausalLM:
    """A model in training whose vocabulary is no multiple of 128."""
    torch.manual_seed(0)
    model = DomainGPT2ForCausalLM(DomainGPT2Config(vocab_size=300, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 300, (7, 16), generator=torch.Generator().manual_seed(1))
    labels = ids.masked_fill(torch.arange(16) < torch.arange(7)[:, None], -100)
    labels[3] = -100
    return {"input_ids": ids, "labels": labels}


def loss_and_gradients(model, scale=1.0, **inputs):
    model.zero_grad()
    loss = model(**inputs).loss
    (scale * loss).backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(actual, expected, **tolerance):
    torch.testing.assert_close(actual[0], expected[0], **tolerance)
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            actual[1][name], gradient, msg=lambda text, name=name: f"{name}: {text}", **tolerance
        )


@pytest.mark.parametrize("rows", [1, 5, 64, 112, 1000])
@pytest.mark.parametrize("items", [None, 50])
def test_loss_and_gradients_are_those_of_the_plain_loss(model, batch, rows, items):
    expected = loss_and_gradients(model, **batch, num_items_in_batch=items)
    actual = loss_and_gradients(model, **batch, num_items_in_batch=items, loss_rows=rows)
    assert_same(actual, expected, rtol=1e-4, atol=1e-6)


def test_loss_in_bf16_is_that_of_the_plain_loss_in_bf16(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = loss_and_gradients(model, **batch)
        assert_same(loss_and_gradients(model, **batch, loss_rows=1000), expected, rtol=1e-4, atol=1e-6)
        # Sums over parts of the rows are rounded once each.
        assert_same(loss_and_gradients(model, **batch, loss_rows=32), expected, rtol=2e-2, atol=2e-3)


def test_what_comes_after_the_loss_reaches_the_gradients(model, batch):
    expected = loss_and_gradients(model, scale=3.0, **batch)
    actual = loss_and_gradients(model, scale=3.0, **batch, loss_rows=32)
    assert_same(actual, expected, rtol=1e-4, atol=1e-6)


def test_gradients_of_micro_batches_add_up(model, batch):
    items = (batch["labels"][:, 1:] != -100).sum()
    expected = loss_and_gradients(model, **batch, num_items_in_batch=items)
    model.zero_grad()
    for row in range(7):
        part = {name: values[row : row + 1] for name, values in batch.items()}
        model(**part, num_items_in_batch=items, loss_rows=6).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[1][name], rtol=1e-4, atol=1e-6)


def test_shifted_labels_are_not_shifted_again(model, batch):
    shift_labels = F.pad(batch["labels"], (0, 1), value=-100)[:, 1:]
    expected = loss_and_gradients(model, **batch, loss_rows=32)
    assert_same(
        loss_and_gradients(model, input_ids=batch["input_ids"], shift_labels=shift_labels, loss_rows=32), expected
    )


def test_a_token_that_is_never_a_target_is_pushed_down(model):
    ids = torch.full((2, 8), 7)
    _, gradients = loss_and_gradients(model, input_ids=ids, labels=ids, loss_rows=4)
    assert gradients["transformer.wte.weight"].isfinite().all()
    assert (gradients["transformer.wte.weight"][299] != 0).any()


def test_logits_are_not_returned(model, batch):
    assert model(**batch, loss_rows=4).logits is None


@pytest.mark.parametrize("inputs", [{"loss_rows": 4}, {"loss_rows": 0, "labels": torch.zeros(1, 4, dtype=torch.long)}])
def test_rows_of_a_loss_need_labels_and_a_number(model, inputs):
    with pytest.raises(ValueError, match="loss_rows"):
        model(torch.zeros(1, 4, dtype=torch.long), **inputs)
