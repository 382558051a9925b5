"""The model's configuration: a `GPT2Config` that refuses what the model does not compute."""

from typing import Any, ClassVar

from transformers import GPT2Config

DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")

# Both names mean the tanh approximation; GPT-2's folders say gelu_new.
TANH_GELU_NAMES = ("gelu_new", "gelu_pytorch_tanh")

# Options of GPT2Config that change the computation, with the only value that this model implements.
IMPLEMENTED_VALUES = {
    "add_cross_attention": False,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}


class DomainGPT2Config(GPT2Config):
    """Describe a GPT-2-class model without dropout; the defaults are the experiment's 124M parameters.

    The saved `config.json` says `model_type: gpt2` and `architectures: ["GPT2LMHeadModel"]`, so plain Transformers,
    vLLM and lm-eval load the folder as the stock model; it also holds `n_ctx`, which llama.cpp's converter reads.

    A stock GPT-2 folder loads too. It is read with GPT-2's own defaults (50,257 tokens, no pad token), and its dropout
    rates become 0: they do not change what the trained model computes, and this model trains without dropout.

    Raises ValueError where an option asks for an architecture that the model does not implement.
    """

    model_type = "gpt2"
    attribute_map: ClassVar = {**GPT2Config.attribute_map, "n_ctx": "n_positions"}

    vocab_size: int = 50349
    pad_token_id: int | None = 50257
    resid_pdrop: float | int = 0.0
    embd_pdrop: float | int = 0.0
    attn_pdrop: float | int = 0.0

    def __post_init__(self, **kwargs):
        # An alias of n_positions: a file in which the two differ must not change the number of positions.
        kwargs.pop("n_ctx", None)
        super().__post_init__(**kwargs)
        self.check_architecture()

    def check_architecture(self) -> None:
        """Raise ValueError if an option asks for something that the model does not compute.

        The model calls this again, because attributes may have been set since the configuration was built.
        """
        for name, implemented in IMPLEMENTED_VALUES.items():
            value = getattr(self, name)
            if value != implemented:
                raise ValueError(f"{name}={value} is not implemented; this model has {name}={implemented}")
        for name in DROPOUTS:
            if getattr(self, name) != 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} is not implemented; the model has no dropout, set it to 0"
                )
        if self.activation_function not in TANH_GELU_NAMES:
            raise ValueError(
                f"activation_function={self.activation_function!r} is not implemented; use one of {TANH_GELU_NAMES}"
            )
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.n_embd % self.n_head != 0:
            raise ValueError(
                f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head}); change one of them"
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Read a saved configuration, ours or a stock GPT-2's, with GPT-2's meaning for absent keys and no dropout."""
        stock = {"vocab_size": GPT2Config.vocab_size, "pad_token_id": GPT2Config.pad_token_id}
        return super().from_dict({**stock, **config_dict, **dict.fromkeys(DROPOUTS, 0.0)}, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain values, in the form that programs for GPT-2 expect."""
        # Every way of saving passes here, while `architectures` itself is overwritten with the Python class name.
        return {**super().to_dict(), "n_ctx": self.n_positions, "architectures": ["GPT2LMHeadModel"]}

    def flops_per_token(self, sequence_length: int) -> int:
        """Return the floating-point operations that training spends on one token, forward and backward.

        6 per weight of each matrix product (2 forward, 4 backward), head included, embedding look-ups excluded:
        Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1. Attention scores and their weighted
        sum add 12 * n_layer * sequence_length * n_embd (PaLM, Chowdhery et al. 2022, appendix B), of which a causal
        model needs half. At GPT-2's inner width this is 6 * (12 L d^2 + d V) + 6 L T d.
        """
        inner = self.n_inner if self.n_inner is not None else 4 * self.n_embd
        matrix_weights = self.n_layer * self.n_embd * (4 * self.n_embd + 2 * inner) + self.n_embd * self.vocab_size
        return 6 * matrix_weights + 6 * self.n_layer * sequence_length * self.n_embd
