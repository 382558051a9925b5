import pytest
import torch

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM

DOCUMENT_LENGTHS = (9, 14, 5)


@pytest.fixture
def small_config() -> DomainGPT2Config:
    """Two layers and 300 tokens: 300 is not a multiple of 128, so the head is padded as it is for the real one."""
    return DomainGPT2Config(
        vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, pad_token_id=1
    )


@pytest.fixture
def model(small_config) -> DomainGPT2ForCausalLM:
    """A model in evaluation, with weights large enough for attention to matter to the logits."""
    torch.manual_seed(0)
    model = DomainGPT2ForCausalLM(small_config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def input_ids() -> torch.Tensor:
    return torch.randint(2, 300, (3, 16), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def documents() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(2, 300, (1, length), generator=generator) for length in DOCUMENT_LENGTHS]


@pytest.fixture
def packed_position_ids() -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in DOCUMENT_LENGTHS]).unsqueeze(0)


@pytest.fixture
def ragged_labels(input_ids) -> torch.Tensor:
    """Labels of `input_ids` with a different number of ignored positions in each row."""
    labels = input_ids.clone()
    labels[0, :3] = labels[1, :11] = labels[2, 5:7] = -100
    return labels
