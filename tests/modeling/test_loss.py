import pytest
import torch
from transformers import GPT2LMHeadModel
from transformers.loss.loss_utils import ForCausalLMLoss

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM


@pytest.fixture
def stock(model) -> GPT2LMHeadModel:
    """The same weights in Transformers' own class."""
    stock = GPT2LMHeadModel(model.config)
    stock.load_state_dict(model.state_dict())
    return stock.eval()


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_loss_is_that_of_transformers(model, input_ids, ragged_labels, mode):
    outputs = getattr(model, mode)()(input_ids, labels=ragged_labels)
    expected = ForCausalLMLoss(outputs.logits.contiguous(), ragged_labels, vocab_size=300)
    torch.testing.assert_close(outputs.loss, expected)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_loss_and_gradients_equal_those_of_stock_gpt2(model, stock, input_ids, ragged_labels, mode):
    ours = getattr(model, mode)()(input_ids, labels=ragged_labels)
    theirs = getattr(stock, mode)()(input_ids, labels=ragged_labels)
    torch.testing.assert_close(ours.loss, theirs.loss)
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
    ours.loss.backward()
    theirs.loss.backward()
    expected = gradients(stock)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_shifted_labels_give_the_loss_of_labels(model, input_ids, ragged_labels):
    shift_labels = torch.nn.functional.pad(ragged_labels, (0, 1), value=-100)[:, 1:]
    expected = model(input_ids, labels=ragged_labels).loss
    torch.testing.assert_close(model(input_ids, shift_labels=shift_labels).loss, expected)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_losses_of_micro_batches_add_up_to_the_whole(model, input_ids, ragged_labels, as_tensor):
    model.train()
    whole = model(input_ids, labels=ragged_labels).loss
    whole.backward()
    expected = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()

    items = (ragged_labels[:, 1:] != -100).sum()
    parts = [
        model(ids, labels=labels, num_items_in_batch=items if as_tensor else items.item()).loss
        for ids, labels in zip(input_ids.split(1), ragged_labels.split(1), strict=True)
    ]
    for part in parts:
        part.backward()
    torch.testing.assert_close(sum(parts), whole)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_loss_needs_every_logit(model, input_ids):
    with pytest.raises(ValueError, match="logits_to_keep"):
        model(input_ids, labels=input_ids, logits_to_keep=1)


@pytest.fixture(scope="module")
def full_vocabulary_model() -> DomainGPT2ForCausalLM:
    torch.manual_seed(0)
    return DomainGPT2ForCausalLM(DomainGPT2Config(n_positions=16, n_embd=16, n_layer=1, n_head=2))


def test_padded_head_spreads_probability_over_the_true_vocabulary(full_vocabulary_model):
    logits = full_vocabulary_model.lm_head(torch.randn(4, 16), padded=True)
    assert logits.shape == (4, 50432)  # 394 * 128
    probabilities = logits.softmax(dim=-1)
    torch.testing.assert_close(probabilities[:, :50349].sum(dim=-1), torch.ones(4))
    assert (probabilities[:, 50349:] == 0).all()


def test_padded_head_gives_the_logits_of_the_plain_one(full_vocabulary_model):
    hidden_states = torch.randn(4, 16)
    padded = full_vocabulary_model.lm_head(hidden_states, padded=True)
    torch.testing.assert_close(padded[:, :50349], full_vocabulary_model.lm_head(hidden_states))


def test_padding_of_the_head_shows_nowhere(full_vocabulary_model):
    model = full_vocabulary_model.train()
    input_ids = torch.tensor([[5, 50348, 50257, 0]])
    outputs = model(input_ids, labels=input_ids)
    outputs.loss.backward()
    assert outputs.logits.shape == (1, 4, 50349)
    assert model.transformer.wte.weight.grad.shape == (50349, 16)
    assert model.state_dict()["lm_head.weight"].shape == (50349, 16)
    assert outputs.logits.isfinite().all()
    assert model.transformer.wte.weight.grad.isfinite().all()


def test_head_of_an_aligned_vocabulary_is_not_padded():
    model = DomainGPT2ForCausalLM(DomainGPT2Config(vocab_size=256, n_positions=8, n_embd=16, n_layer=1, n_head=2))
    assert model.lm_head(torch.randn(1, 16), padded=True).shape == (1, 256)
