"""The keys of a fine-tuning recipe: where it starts, its rows and the training, and which of them may change in a
run."""

from dataclasses import dataclass, field

import torch
from trl import SFTConfig

from training.core.hub_arguments import LICENSE, check_hub_arguments
from training.core.pretrain_recipe import FREE_KEYS as FREE_KEYS_OF_PRETRAINING
from training.core.pretrain_recipe import REQUIRED as REQUIRED_IN_PRETRAINING

_WHOLE_NUMBERS = {
    "total_batch_items": 1,
    "logging_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "seed": 0,
}
# Rows come tokenised and packed by plain length. What TRL would do to them instead, it would do by the length in the
# arm's own tokens, and the arms would no longer train on the same rows.
_REQUIRED = {key: value for key, value in REQUIRED_IN_PRETRAINING.items() if key != "remove_unused_columns"} | {
    "remove_unused_columns": True,
    "packing": False,
    "packing_strategy": "bfd",
    "eval_packing": None,
    "padding_free": False,
    "pad_to_multiple_of": "auto",
    "pad_token": None,
    "truncation_mode": "keep_start",
    "dataset_text_field": "text",
    "metric_for_best_model": None,
    "greater_is_better": None,
    "eval_delay": 0,
    "shuffle_dataset": False,
    "completion_only_loss": None,
    "assistant_only_loss": False,
    "dataset_kwargs": None,
    "chat_template_path": None,
    "eos_token": None,
    "model_init_kwargs": None,
    "trust_remote_code": False,
}
_MATRICES = ("c_attn", "c_proj", "c_fc")  # of GPT-2
_INSTEAD = {
    "packing": "say `pack: true`, which packs the same rows together in both arms",
    "padding_free": "say `pack: true`, which pads little",
    "load_best_model_at_end": "the best checkpoint is kept and linked as `best`",
}

# What may differ when a run is resumed: where and how it runs and reports, never what it computes. The checkpoint to
# start from is compared by its weights.
FREE_KEYS = FREE_KEYS_OF_PRETRAINING | frozenset({"model_name_or_path", "model_revision", "data_root"})


@dataclass(frozen=True)
class SftModelArguments:
    """The checkpoint to start from, a folder or a repository on the Hub, whose tokenizer is the condition.

    use_peft trains a LoRA adapter (peft's names) instead of all weights. The checkpoints then hold the merged weights,
    which load like any other, and the adapter in a folder of its own.
    """

    model_name_or_path: str | None = None
    model_revision: str | None = None
    use_peft: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: list[str] = field(default_factory=lambda: list(_MATRICES))

    def __post_init__(self):
        if not self.model_name_or_path:
            raise ValueError(
                "model_name_or_path is not set; name the checkpoint to start from, such as --model_name_or_path "
                "runs/smoke/baseline-s0/checkpoint-100"
            )
        for key in ("lora_r", "lora_alpha"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it is at least 1")
        if not self.lora_target_modules or not set(self.lora_target_modules) <= set(_MATRICES):
            raise ValueError(f"lora_target_modules is {self.lora_target_modules}; name some of {', '.join(_MATRICES)}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout is {self.lora_dropout}; it lies between 0 and 1")


@dataclass(frozen=True)
class SftDataArguments:
    """The rows: `datasets` lists sources (see `training/data/sft_sources.py`), whose paths begin at `data_root`.

    rows_total: rows of a mixture by weight. decontaminate: sources (the keys of a corpus recipe) whose texts are test
    items, which are left out. pack: several conversations in one training item, none of which sees another. too_long:
    whether a row whose first exchange does not fit is an `error`, or left out and counted (`drop`). max_eval_rows: so
    many held-out rows are measured. eval_recipe: also run this recipe of training/eval.py at every evaluation, with
    its eval_data_root.
    """

    datasets: list[str] = field(default_factory=list)  # mappings in a recipe, JSON on the command line
    data_root: str = "."
    rows_total: int | None = None
    decontaminate: list[str] = field(default_factory=list)  # like datasets
    pack: bool = True
    too_long: str = "error"
    max_eval_rows: int = 1000
    eval_recipe: str | None = None
    eval_data_root: str | None = None

    def __post_init__(self):
        if not self.datasets:
            raise ValueError("datasets is empty; a fine-tuning recipe lists at least one source, such as `- path: …`")
        if self.max_eval_rows < 1:
            raise ValueError(f"max_eval_rows is {self.max_eval_rows}; it is a count above zero")


@dataclass
class SftArguments(SFTConfig):
    """TRL's arguments with the defaults of this experiment, and keys of its own.

    total_batch_items: training items (packs, or rows without packing) of one optimiser step over all processes; the
    accumulation follows from it. num_train_epochs: how often each item is read at least; max_steps instead fixes the
    steps. Both give the same rows in the same steps in both arms. data_seed: draws and orders the rows, `seed` unless
    set. max_length: of an item in plain GPT-2 tokens, the model's context unless set. early_stopping_patience: end
    after so many evaluations without a better one on the held-out rows. `{condition}` and `{seed}` in `output_dir` are
    filled in.
    """

    output_dir: str = "runs/{condition}-s{seed}/sft"
    seed: int = 0
    total_batch_items: int = 32
    num_train_epochs: float = 3
    learning_rate: float = 1e-4
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 0.03
    weight_decay: float = 0.01
    max_length: int | None = None
    early_stopping_patience: int | None = None
    bf16: bool = True
    gradient_checkpointing: bool | None = None  # TRL switches it on; models of this size have the memory
    logging_steps: float = 10
    logging_nan_inf_filter: bool = False
    eval_strategy: str = "steps"
    eval_steps: float | None = 100
    eval_on_start: bool = True
    save_steps: float = 100
    save_total_limit: int | None = 2
    report_to: str = "none"
    hub_license: str = LICENSE
    train_sampling_strategy: str = "sequential"  # the data set itself is in shuffled order
    ddp_find_unused_parameters: bool | None = False

    def __post_init__(self):
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        for key, smallest in _WHOLE_NUMBERS.items():
            value = getattr(self, key)
            if value is None or int(value) != value or value < smallest:
                raise ValueError(f"{key} is {value}; it is a whole number and at least {smallest}")
        for key, required in _REQUIRED.items():
            if getattr(self, key) != required:
                raise ValueError(
                    f"{key} is {getattr(self, key)!r}, which would change the run in silence; "
                    f"{_INSTEAD.get(key, 'remove it')}"
                )
        if self.gradient_accumulation_steps != 1:
            raise ValueError(
                f"gradient_accumulation_steps ({self.gradient_accumulation_steps}) follows from total_batch_items; "
                "remove it"
            )
        if self.eval_strategy not in ("steps", "no") or self.save_strategy != "steps":
            raise ValueError(
                f"eval_strategy is {self.eval_strategy!r} and save_strategy {self.save_strategy!r}; runs evaluate by "
                "`steps` or `no`, and save by `steps`"
            )
        if self.eval_strategy == "steps" and self.eval_steps % self.save_steps:
            raise ValueError(
                f"eval_steps ({self.eval_steps}) must be a multiple of save_steps ({self.save_steps}), so that each "
                "evaluation has its checkpoint; change one of them"
            )
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            raise ValueError(f"num_train_epochs is {self.num_train_epochs}; it is above zero")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"early_stopping_patience is {self.early_stopping_patience}; it is at least 1")
        check_hub_arguments(self)
        self.data_seed = self.seed if self.data_seed is None else self.data_seed
        self.dataset_kwargs = {"skip_prepare_dataset": True}
        super().__post_init__()
