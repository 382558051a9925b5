import json
import os
import subprocess
import sys
import sysconfig

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM

# Runs where this project cannot be imported, on a folder that holds a model and inputs.pt.
STRANGER = """
import importlib.util, sys, torch
from transformers import AutoModelForCausalLM

folder = sys.argv[1]
inputs = torch.load(f"{folder}/inputs.pt")
model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
outputs = model(inputs["input_ids"], labels=inputs["labels"])
options = dict(max_new_tokens=12, do_sample=False, eos_token_id=None)
torch.save(
    {
        "project": [name for name in ("modeling", "tokenization", "training") if importlib.util.find_spec(name)],
        "class": type(model).__module__ + "." + type(model).__name__,
        "problems": [key for keys in report.values() for key in keys],
        "logits": outputs.logits.detach(),
        "loss": outputs.loss.detach(),
        "greedy": model.generate(inputs["input_ids"], attention_mask=torch.ones_like(inputs["input_ids"]), **options),
        "padded": model.generate(inputs["padded"], attention_mask=inputs["mask"], **options),
    },
    f"{folder}/outputs.pt",
)
"""


def randomised(model):
    """Make the weights large enough for greedy choices to be clear, and biases and norms matter."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """Save a model with the real vocabulary, and use it in a process that knows only Transformers."""
    folder = tmp_path_factory.mktemp("checkpoint")
    model = randomised(DomainGPT2ForCausalLM(DomainGPT2Config(n_positions=64, n_embd=32, n_layer=2, n_head=4)))
    model.save_pretrained(folder)
    input_ids = torch.randint(0, 50349, (2, 20), generator=torch.Generator().manual_seed(4))
    inputs = {
        "input_ids": input_ids,
        "labels": input_ids.masked_fill(torch.arange(20) < 7, -100),
        "padded": torch.nn.functional.pad(input_ids, (6, 0), value=50257),
        "mask": (torch.arange(26) >= 6).long().expand(2, -1),
    }
    torch.save(inputs, folder / "inputs.pt")
    (folder / "stranger.py").write_text(STRANGER)
    # -S skips the .pth files through which an editable install is found, -P the folder of the script.
    libraries = os.pathsep.join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    subprocess.run(
        [sys.executable, "-S", "-P", "stranger.py", str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": libraries, "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    return model, inputs, torch.load(folder / "outputs.pt")


def test_stranger_uses_the_class_of_transformers(strangers):
    _, _, theirs = strangers
    assert theirs["project"] == []
    assert theirs["class"] == "transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel"
    assert theirs["problems"] == []


def test_stranger_gets_our_logits_and_loss(strangers):
    model, inputs, theirs = strangers
    ours = model(inputs["input_ids"], labels=inputs["labels"])
    torch.testing.assert_close(theirs["logits"], ours.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(theirs["loss"], ours.loss)


def test_stranger_generates_our_tokens(strangers):
    model, inputs, theirs = strangers
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    greedy = model.generate(inputs["input_ids"], attention_mask=torch.ones_like(inputs["input_ids"]), **options)
    padded = model.generate(inputs["padded"], attention_mask=inputs["mask"], **options)
    assert theirs["greedy"].tolist() == greedy.tolist()
    assert theirs["padded"].tolist() == padded.tolist()


def test_stock_folder_loads_into_our_class(tmp_path):
    config = GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    stock = randomised(GPT2LMHeadModel(config))
    stock.save_pretrained(tmp_path)
    ours, report = DomainGPT2ForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    input_ids = torch.arange(20).unsqueeze(0)
    torch.testing.assert_close(ours(input_ids).logits, stock(input_ids).logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.train()(input_ids).logits, stock(input_ids).logits, rtol=1e-4, atol=1e-5)


def test_folder_laid_out_like_openai_gpt2_loads(tmp_path):
    config = GPT2Config(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    stock = randomised(GPT2LMHeadModel(config))
    # That folder has no `transformer.` in its names, no head, and the causal masks among the weights.
    weights = {name: tensor.contiguous() for name, tensor in stock.transformer.state_dict().items()}
    weights |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 32, 32).tril() for layer in range(2)}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "n_ctx": 32}))
    ours, report = DomainGPT2ForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    input_ids = torch.arange(20).unsqueeze(0)
    torch.testing.assert_close(ours(input_ids).logits, stock(input_ids).logits, rtol=1e-4, atol=1e-5)


def test_old_and_new_model_are_equal_after_saving_and_loading(model, input_ids, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = DomainGPT2ForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict()


def test_file_holds_the_names_and_shapes_of_stock_gpt2(model, tmp_path):
    model.save_pretrained(tmp_path / "ours")
    GPT2LMHeadModel(model.config).save_pretrained(tmp_path / "stock")
    ours, stock = (load_file(tmp_path / folder / "model.safetensors") for folder in ("ours", "stock"))
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in stock.items()}


def test_saving_again_after_loading_as_stock_keeps_everything(model, input_ids, tmp_path):
    model.save_pretrained(tmp_path / "first")
    AutoModelForCausalLM.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    loaded = DomainGPT2ForCausalLM.from_pretrained(tmp_path / "second")
    assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)
    assert loaded.config.pad_token_id == model.config.pad_token_id
