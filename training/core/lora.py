"""LoRA on GPT-2 with peft: which modules get an adapter, and the weights with it merged in."""

import json
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from training.core.files import end_of_path, write_json

ADAPTER_FOLDER = "adapter"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def lora_config(r: int, alpha: int, dropout: float, target_modules: list[str]) -> LoraConfig:
    """Return the configuration of an adapter on GPT-2's matrices, whose weights are (in, out)."""
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=target_modules,
        fan_in_fan_out=True,
        task_type="CAUSAL_LM",
    )


def merged_weights(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return the state of the model without an adapter that computes the same; the model itself is left alone.

    peft's own merging adds to the weights in place and subtracts again, and each checkpoint would leave its rounding
    in a run.
    """
    base = model.get_base_model()
    weights = {
        name.replace(".base_layer.", "."): weight for name, weight in base.state_dict().items() if ".lora_" not in name
    }
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            (adapter,) = module.active_adapters
            weights[f"{name}.weight"] = module.get_base_layer().weight.detach() + module.get_delta_weight(adapter)
    return {name: weight.detach() for name, weight in weights.items()}


def merged_model(model: PeftModel) -> torch.nn.Module:
    """Return a model without an adapter that computes the same."""
    base = model.get_base_model()
    merged = type(base)(base.config).to(base.device)
    merged.load_state_dict(merged_weights(model))
    merged.generation_config = base.generation_config
    return merged


def save_merged(model: PeftModel, folder: Path) -> None:
    """Turn a folder into which peft has saved an adapter into a checkpoint like any other: merged weights and their
    configuration, and the adapter in a folder of its own.

    Beside an `adapter_config.json`, `from_pretrained` would look for the weights that the adapter was made for.
    """
    adapter = folder / ADAPTER_FOLDER
    adapter.mkdir()
    for name in _ADAPTER_FILES:
        (folder / name).rename(adapter / name)
    config = json.loads((adapter / _ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = end_of_path(config["base_model_name_or_path"])
    write_json(adapter / _ADAPTER_FILES[0], config)
    base = model.get_base_model()
    tied = getattr(base, "_tied_weights_keys", None) or {}
    weights = {name: weight for name, weight in merged_weights(model).items() if name not in tied}
    base.save_pretrained(folder, state_dict=weights)


def load_adapter(model: PeftModel, folder: Path) -> None:
    """Give a model the weights of the adapter that a checkpoint holds."""
    set_peft_model_state_dict(model, load_file(folder / ADAPTER_FOLDER / "adapter_model.safetensors"))
