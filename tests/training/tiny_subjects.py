"""Tiny subjects for tests of generation: with random weights, or with weights that read out a tape."""

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer, gpt2_bpe
from training.evals.subject import Subject

CONTEXT = 64
SUBJECTS = ("baseline", "mul_tokens", "stock")


@functools.cache
def tokenizer_of(name: str):
    if name != "stock":
        return MulFactTokenizer.build(name)
    backend = Tokenizer(models.BPE(vocab=gpt2_bpe.vocabulary(), merges=gpt2_bpe.merges()))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")


def subject_of(name: str, **changes) -> Subject:
    """A model whose few likely tokens depend on all that stands before."""
    torch.manual_seed(1)
    size = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": CONTEXT}
    model = DomainGPT2ForCausalLM(DomainGPT2Config(vocab_size=len(tokenizer_of(name)), **size)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Subject(model, tokenizer_of(name), **changes)


def tape(name: str, ids: list[int], prompt: int = 1) -> Subject:
    """A model that says these ids behind a prompt of so many tokens, whatever the prompt holds."""
    width = 2 * CONTEXT
    config = DomainGPT2Config(
        vocab_size=len(tokenizer_of(name)),
        n_layer=1,
        n_head=1,
        n_embd=width,
        n_positions=CONTEXT,
        initializer_range=0.0,
    )
    model = DomainGPT2ForCausalLM(config).eval()
    head = nn.Linear(width, config.vocab_size, bias=False)
    with torch.no_grad():
        model.transformer.wpe.weight.copy_(torch.eye(CONTEXT, width))
        head.weight.zero_()
        for position, token_id in enumerate(ids, prompt - 1):
            head.weight[token_id, position] = 1.0
    model.lm_head = head
    return Subject(model, tokenizer_of(name))


def pieces(*texts: str) -> list[int]:
    """The ids of tokens, each by its text."""
    ids = [tokenizer_of("baseline").encode_document(text) for text in texts]
    assert all(len(each) == 1 for each in ids), "each text must be one token"
    return [each[0] for each in ids]


def prompts_of_lengths(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 50_257, (length,), generator=generator).tolist() for length in lengths]
