import json

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer
from trl.trainer.utils import add_fused_lm_head


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<end>": 0, "<pad>": 1} | {f"w{index}": index for index in range(2, 300)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w2"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>")


def fine_tune(model, tokenizer, documents, folder, **options):
    """Train one step on all the documents and return the trainer with the loss of that step."""
    arguments = SFTConfig(
        output_dir=str(folder),
        max_steps=1,
        logging_steps=1,
        per_device_train_batch_size=len(documents),
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        dataset_num_proc=None,
        disable_tqdm=True,
        **options,
    )
    dataset = Dataset.from_dict({"input_ids": [document[0].tolist() for document in documents]})
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer)
    trainer.train()
    return trainer, trainer.state.log_history[0]["loss"]


@pytest.mark.parametrize("packing", [False, True])
def test_one_step_of_fine_tuning_trains_on_the_loss_of_the_documents(model, tokenizer, documents, tmp_path, packing):
    with torch.no_grad():
        summed = sum(model(document, labels=document, num_items_in_batch=1).loss for document in documents)
    expected = summed / sum(document.shape[1] - 1 for document in documents)
    before = model.transformer.wte.weight.detach().clone()
    # All documents packed make one row of 28 tokens.
    trainer, loss = fine_tune(model, tokenizer, documents, tmp_path, packing=packing, max_length=28)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert not torch.equal(trainer.model.transformer.wte.weight, before)


def test_fine_tuned_folder_is_a_stock_gpt2(model, tokenizer, documents, tmp_path):
    trainer, _ = fine_tune(model, tokenizer, documents, tmp_path, max_length=28)
    trainer.save_model(tmp_path / "final")
    saved = json.loads((tmp_path / "final" / "config.json").read_text())
    assert (saved["architectures"], saved["model_type"]) == (["GPT2LMHeadModel"], "gpt2")


def test_fused_head_computes_the_loss_of_the_model(model, input_ids, ragged_labels):
    expected = model(input_ids, labels=ragged_labels).loss
    add_fused_lm_head(model)
    fused = model(input_ids, labels=ragged_labels, fused_lm_head=True)
    torch.testing.assert_close(fused.loss, expected)
    torch.testing.assert_close(model(input_ids, labels=ragged_labels).loss, expected)
