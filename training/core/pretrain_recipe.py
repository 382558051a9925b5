"""The keys of a pretraining recipe: the model, its data and the training, and which of them may change in a run."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from training.core.device import ATTENTION_BACKENDS
from training.core.hub_arguments import LICENSE, check_hub_arguments

# Shares of a run, which Transformers also takes for some of these, would hide in which steps something happens.
WHOLE_NUMBERS = {
    "max_steps": 1,
    "logging_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "seed": 0,
}
# Keys of Transformers that have no place here: they would break exact resumption, the order of documents or the loss.
REQUIRED = {
    "save_only_model": False,
    "ignore_data_skip": False,
    "train_sampling_strategy": "sequential",
    "label_smoothing_factor": 0.0,
    "load_best_model_at_end": False,
    "auto_find_batch_size": False,
    "average_tokens_across_devices": True,
    "remove_unused_columns": False,
    "fp16": False,
    "neftune_noise_alpha": None,
    "enable_jit_checkpoint": False,
    "accelerator_config": None,
}

# What may differ when a run is resumed: where and how it runs and reports, never what it computes.
FREE_KEYS = frozenset(
    "output_dir corpus_dir corpus_recipe eval_recipe eval_data_root per_device_train_batch_size "
    "per_device_eval_batch_size gradient_accumulation_steps loss_rows attention_backend "
    "logging_steps logging_first_step logging_dir "
    "log_level log_level_replica log_on_each_node disable_tqdm report_to run_name project save_steps "
    "save_total_limit save_strategy use_cpu local_rank dataloader_num_workers dataloader_pin_memory "
    "dataloader_persistent_workers dataloader_prefetch_factor ddp_timeout push_to_hub hub_model_id "
    "hub_private_repo hub_strategy hub_revision hub_always_push hub_token hub_license eval_on_start torch_compile "
    "torch_compile_backend torch_compile_mode debug skip_memory_metrics deepspeed fsdp fsdp_config "
    "resume_from_checkpoint".split()
)

# The logits of fewer rows make matrix products that are slower; those of more do not fit beside the model.
LOSS_ROWS_ON_A_CPU = 1024


@dataclass(frozen=True)
class ModelArguments:
    """The arm and the architecture; sizes are `GPT2Config`'s, by default those of GPT-2 124M."""

    condition: str = "baseline"
    injection_mode: str = "weak"
    operators: str = "*×x"
    condition_seed: int = field(default=0, metadata={"help": "What random_fact and half_facts draw by."})
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    n_positions: int = field(
        default=1024, metadata={"help": "Context length in tokens, also of the training windows."}
    )


@dataclass(frozen=True)
class DataArguments:
    """The corpus: a prepared one (`corpus_dir`), or the recipe of one that is prepared on first use
    (`corpus_recipe`)."""

    corpus_dir: str | None = None
    corpus_recipe: str | None = None
    eval_documents: int = field(
        default=500, metadata={"help": "Validation documents, the first of the corpus, the same always."}
    )
    max_epochs: float | None = field(
        default=None, metadata={"help": "Refuse to read the training documents more often."}
    )
    eval_recipe: str | None = field(
        default=None, metadata={"help": "Also run this recipe of training/eval.py at every evaluation."}
    )
    eval_data_root: str | None = field(default=None, metadata={"help": "The data_root of eval_recipe."})

    def __post_init__(self):
        # An empty one on the command line takes back what the recipe names.
        object.__setattr__(self, "corpus_recipe", self.corpus_recipe or None)
        if self.corpus_dir is None and self.corpus_recipe is None:
            raise ValueError(
                "neither corpus_dir nor corpus_recipe is set; name a prepared corpus or the recipe of one"
            )
        if self.eval_documents < 1:
            raise ValueError(f"eval_documents is {self.eval_documents}; at least 1 document is needed for validation")


@dataclass
class PretrainArguments(TrainingArguments):
    """Transformers' training arguments with the defaults of this experiment, and keys of its own.

    total_batch_tokens: tokens of one optimiser step over all processes; the accumulation follows from it. init_seed
    and data_seed: initial weights and order of documents, both `seed` unless set. loss_rows: rows of logits that the
    loss holds at a time, 0 for all of them, which is the default on a GPU; 1024 on a CPU. attention_backend: the
    attention kernel to prefer on a GPU, one of ATTENTION_BACKENDS; PyTorch's choice unless set. `{condition}` and
    `{seed}` in `output_dir` are filled in.
    """

    output_dir: str = "runs/{condition}-s{seed}"
    seed: int = 0
    total_batch_tokens: int = 524_288
    init_seed: int | None = None
    loss_rows: int | None = None
    attention_backend: str | None = None
    max_steps: int = 19_073
    adam_beta2: float = 0.95
    weight_decay: float = 0.1
    lr_scheduler_type: str = "cosine_with_min_lr"
    bf16: bool = True
    logging_steps: float = 10
    logging_nan_inf_filter: bool = False  # it waits for the device at every micro-step; we check at every log line
    eval_strategy: str = "steps"
    eval_steps: float | None = 250
    save_steps: float = 1000
    save_total_limit: int | None = 3
    report_to: str = "none"
    hub_license: str = LICENSE
    remove_unused_columns: bool = False
    train_sampling_strategy: str = "sequential"  # the data set itself is in shuffled order
    ddp_find_unused_parameters: bool | None = False

    def __post_init__(self):
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        for key, smallest in WHOLE_NUMBERS.items():
            value = getattr(self, key)
            if value is None or int(value) != value or value < smallest:
                raise ValueError(f"{key} is {value}; it is a whole number and at least {smallest}")
        for key, required in REQUIRED.items():
            if getattr(self, key) != required:
                raise ValueError(f"{key} is {getattr(self, key)!r}, which would change the run in silence; remove it")
        if self.gradient_accumulation_steps != 1:
            raise ValueError(
                f"gradient_accumulation_steps ({self.gradient_accumulation_steps}) follows from total_batch_tokens; "
                "remove it"
            )
        if self.loss_rows is None:
            self.loss_rows = LOSS_ROWS_ON_A_CPU if self.use_cpu else 0
        if self.loss_rows < 0:
            raise ValueError(f"loss_rows is {self.loss_rows}; it is at least 1, or 0 for all rows at once")
        if self.attention_backend not in (None, *ATTENTION_BACKENDS):
            raise ValueError(
                f"attention_backend is {self.attention_backend!r}; use one of {', '.join(ATTENTION_BACKENDS)}, or none"
            )
        check_hub_arguments(self)
        self.init_seed = self.seed if self.init_seed is None else self.init_seed
        self.data_seed = self.seed if self.data_seed is None else self.data_seed
        super().__post_init__()
        if "min_lr" in (self.lr_scheduler_kwargs or {}):
            raise ValueError(
                f"lr_scheduler_kwargs has min_lr ({self.lr_scheduler_kwargs['min_lr']}), which does not work under "
                f"DeepSpeed; give the minimum as a share of learning_rate, such as {{min_lr_rate: 0.1}}"
            )
