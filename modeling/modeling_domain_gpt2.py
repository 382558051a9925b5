"""A GPT-2 in Transformers' idiom, with `GPT2LMHeadModel`'s parameter names and layouts."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.pytorch_utils import Conv1D
from transformers.utils import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from modeling.configuration_domain_gpt2 import DomainGPT2Config
from modeling.head_loss import IGNORED
from modeling.layers import DomainGPT2Attention, DomainGPT2Block, ResidualProjection, TokenHead
from modeling.positions import check_length, check_position_ids, default_positions, same_document


class DomainGPT2PreTrainedModel(PreTrainedModel):
    """Hold what the model tells Transformers about itself, and GPT-2's initialisation."""

    config: DomainGPT2Config
    base_model_prefix = "transformer"
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar = ["DomainGPT2Block"]
    _skip_keys_device_placement: ClassVar = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs: ClassVar = {"hidden_states": DomainGPT2Block, "attentions": DomainGPT2Attention}
    # Causal masks, stored as buffers by old GPT-2 folders.
    _keys_to_ignore_on_load_unexpected: ClassVar = [r"attn\.bias$", r"attn\.masked_bias$"]

    def __init__(self, config: DomainGPT2Config, *args, **kwargs):
        if not isinstance(config, DomainGPT2Config):
            raise ValueError(
                f"config is a {type(config).__name__}, which may ask for what this model does not implement; "
                "pass DomainGPT2Config.from_dict(config.to_dict())"
            )
        config.check_architecture()
        super().__init__(config, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # One leaf at a time: Transformers asks custom models only about modules that own parameters themselves, so a
        # rule for "the c_proj of an attention" would never run.
        super()._init_weights(module)
        if isinstance(module, Conv1D):
            std = self.config.initializer_range
            if isinstance(module, ResidualProjection):
                # Each layer adds two terms to the residual stream; GPT-2 keeps their sum at the same scale
                # (Radford et al. 2019, section 2.3).
                std /= math.sqrt(2 * self.config.n_layer)
            init.normal_(module.weight, mean=0.0, std=std)
            init.zeros_(module.bias)


class DomainGPT2Model(DomainGPT2PreTrainedModel):
    """The transformer without its head."""

    def __init__(self, config: DomainGPT2Config):
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(DomainGPT2Block(config, layer_idx) for layer_idx in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.wte

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.wte = value

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,  # (B, T)
        past_key_values: Cache | None = None,
        attention_mask: torch.Tensor | None = None,  # (B, past + T), 0 at padding
        position_ids: torch.LongTensor | None = None,  # (B, T) or (1, T)
        inputs_embeds: torch.FloatTensor | None = None,  # (B, T, C), instead of input_ids
        use_cache: bool | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Return the hidden states (B, T, C) after the last layer norm.

        Without `position_ids`, positions count from the first token that `attention_mask` shows, so that a row padded
        on the left gives what it gives alone. With `position_ids` and no cache, a position that does not follow the
        one before it starts a new document, and the documents of a row do not see each other.

        `use_cache` defaults to the configuration's in evaluation, and to False in training.

        Raises ValueError if a position is not below `n_positions`. Values on a GPU are only looked at when the length
        makes an error likely, because looking waits for the GPU.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass either input_ids or inputs_embeds, and not both")
        if inputs_embeds is None:
            inputs_embeds = self.wte(input_ids)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if self.gradient_checkpointing and self.training:
            use_cache, past_key_values = False, None  # the backward pass would write the same keys a second time

        past_length = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            check_length(inputs_embeds.shape[1], past_length, self.config.n_positions)
            positions = default_positions(inputs_embeds, attention_mask, past_length)
        else:
            check_position_ids(position_ids, past_length, self.config.n_positions)
            positions = position_ids
        hidden_states = inputs_embeds + self.wpe(positions)

        # Made before a cache of our own, and from the caller's position_ids only: so the documents of packed rows are
        # kept apart in evaluation too, and plain rows need neither a mask nor a look at values on the device.
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
            and_mask_function=same_document(position_ids, attention_mask, past_key_values, inputs_embeds.shape[0]),
        )
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        for block in self.h:
            hidden_states = block(
                hidden_states,
                attention_mask=causal_mask,
                past_key_values=past_key_values,
                position_ids=position_ids,
                **kwargs,
            )
        return BaseModelOutputWithPast(
            last_hidden_state=self.ln_f(hidden_states), past_key_values=past_key_values if use_cache else None
        )


class DomainGPT2ForCausalLM(DomainGPT2PreTrainedModel, GenerationMixin):
    """The language model: the transformer and a head that shares its weight with the token embeddings."""

    _tied_weights_keys: ClassVar = {"lm_head.weight": "transformer.wte.weight"}
    accepts_loss_kwargs = True  # the Trainer then hands over num_items_in_batch and does not rescale the loss

    def __init__(self, config: DomainGPT2Config):
        super().__init__(config)
        self.transformer = DomainGPT2Model(config)
        self.lm_head = TokenHead(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,  # (B, T)
        past_key_values: Cache | None = None,
        attention_mask: torch.Tensor | None = None,  # (B, past + T), 0 at padding
        position_ids: torch.LongTensor | None = None,  # (B, T) or (1, T)
        inputs_embeds: torch.FloatTensor | None = None,  # (B, T, C), instead of input_ids
        labels: torch.LongTensor | None = None,  # (B, T), shifted here
        shift_labels: torch.LongTensor | None = None,  # (B, T), shifted already
        num_items_in_batch: torch.Tensor | int | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        loss_rows: int | None = None,
        **kwargs,
    ) -> CausalLMOutputWithPast:
        """Return logits (B, T, V), and the loss if `labels` or `shift_labels` are given.

        The loss is the cross-entropy in nats over the positions whose label is not -100: their mean, or their sum
        divided by `num_items_in_batch`, so that the losses of micro-batches add up to the loss of the whole batch.
        `shift_labels[:, t]` is the token that follows position t, and takes the place of `labels`.

        In training with labels the logits are a view of a wider tensor (see `TokenHead`): not contiguous.

        `logits_to_keep` computes only the last so many logits, or those at the given positions.

        `loss_rows` returns the loss without logits, of which so many rows are held at a time: less memory, and on a
        CPU less time (see `HeadLoss`).

        Raises ValueError if labels come with `logits_to_keep`, if `loss_rows` comes without labels or is below 1, or
        if a position is not below `n_positions`.
        """
        with_loss = labels is not None or shift_labels is not None
        if loss_rows is not None and (not with_loss or loss_rows < 1):
            raise ValueError(f"loss_rows ({loss_rows}) needs labels or shift_labels, and is at least 1")
        if with_loss and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("a loss needs the logits of every position; leave out logits_to_keep or the labels")

        outputs = self.transformer(
            input_ids=input_ids,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        if loss_rows is not None:
            targets = _shifted(labels) if shift_labels is None else shift_labels
            divisor = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
            loss = self.lm_head(outputs.last_hidden_state, loss_of=(targets, divisor, loss_rows))
            return CausalLMOutputWithPast(
                loss=loss,
                past_key_values=outputs.past_key_values,
                hidden_states=outputs.hidden_states,
                attentions=outputs.attentions,
            )
        hidden_states = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        if with_loss and self.training and isinstance(self.lm_head, TokenHead):
            logits = self.lm_head(hidden_states, padded=True)
        else:
            logits = self.lm_head(hidden_states)

        loss = None
        if with_loss:
            loss = self.loss_function(
                logits=logits,
                labels=labels,
                vocab_size=logits.shape[-1],
                num_items_in_batch=num_items_in_batch,
                # The loss flattens them, which it cannot do with columns cut out of longer rows.
                shift_labels=None if shift_labels is None else shift_labels.contiguous(),
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits[..., : self.config.vocab_size],
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def _shifted(labels: torch.Tensor) -> torch.Tensor:
    """Return the label that follows each position, (B, T), and none after the last."""
    return F.pad(labels[..., 1:], (0, 1), value=IGNORED)
