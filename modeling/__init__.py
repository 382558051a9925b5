"""The GPT-2-class language model of the experiment, readable by every program that reads GPT-2."""

from modeling.configuration_domain_gpt2 import DomainGPT2Config
from modeling.modeling_domain_gpt2 import DomainGPT2ForCausalLM, DomainGPT2Model, DomainGPT2PreTrainedModel

__all__ = ["DomainGPT2Config", "DomainGPT2ForCausalLM", "DomainGPT2Model", "DomainGPT2PreTrainedModel"]
