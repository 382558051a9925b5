"""What fine-tuning takes: sources of every shape, stock models; and what it refuses, by name."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests.training.small_sft import (
    CONVERSATIONS,
    END_OF_TEXT,
    SHORT,
    plain_ids,
    report_of,
    rows_of,
    run_recipe,
    save_start,
)
from tests.training.small_sft_sources import write_rows
from tests.training.tiny_subjects import tokenizer_of
from training.core.checkpoint import list_checkpoints
from training.core.sft_recipe import SftDataArguments
from training.data.packing_conversations import open_packed


def test_copies_of_test_items_are_left_out_and_counted(tune, tmp_path):
    long = "A train with seven wagons leaves the old station before noon and comes back {} hours later"
    items = [{"question": long.format(n), "answer": "Late."} for n in ("two", "three")]
    tests = write_rows(tmp_path / "test.jsonl", items)
    trained = [*({"question": f"Is it {n}?", "answer": "Yes."} for n in range(8)), items[0]]
    rows = write_rows(tmp_path / "train.jsonl", trained)
    test_set = {"name": "trains", "path": str(tests), "template": "{question}\n{answer}"}
    assert tune("--datasets", rows_of(rows), "--decontaminate", json.dumps(test_set), *SHORT) == 0
    report = report_of(tmp_path / "run")
    assert report["rows"] == report["train"]["kept"] == 8
    (source,) = report["sources"]
    assert (source["contaminated"], source["contaminated_by_set"]) == (1, {"trains": 1})
    assert report["evaluation_sets"]["trains"]["items"] == 2


def test_parquet_file_of_tulu_3_trains(tune, tmp_path):
    """The schema of allenai/tulu-3-sft-mixture, with content before role."""
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("messages", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))),
            ("source", pa.string()),
        ]
    )
    rows = [
        {"id": f"tulu_{n}", "messages": messages, "source": "ai2-adapt-dev/flan_v2_converted"}
        for n, messages in enumerate(CONVERSATIONS)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "train-00000-of-00001.parquet")
    assert tune("--datasets", rows_of(tmp_path / "train-00000-of-00001.parquet", sample=30), *SHORT) == 0
    expected = {tuple(plain_ids(messages, tokenizer_of("mul_tokens"))[0]) for messages in CONVERSATIONS}
    assert rows_read(tmp_path / "run") <= expected and len(rows_read(tmp_path / "run")) == 30


def rows_read(run):
    """The ids of each conversation that a run trained on."""
    read = set()
    for item in open_packed(run / "rows" / "train").dataset:
        ids = iter(item["input_ids"])
        read |= {tuple(next(ids) for _ in range(length)) for length in item["seq_lengths"]}
    return read


@pytest.mark.parametrize("shape", ["messages", "question and answer", "prompt and completion"])
def test_ten_lines_fine_tune_on_rows_of_ones_own(sft_sources, tmp_path, shape):
    pairs = [(f"What is {n}*7?", f"{n}*7={7 * n}") for n in range(2, 10)]
    rows = [[{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in pairs]
    if shape == "messages":
        written = [{"messages": messages} for messages in rows]
    else:
        names = shape.split(" and ")
        written = [dict(zip(names, pair, strict=True)) for pair in pairs]
    write_rows(tmp_path / "own.jsonl", written)
    recipe = tmp_path / "own.yaml"
    recipe.write_text(
        f"model_name_or_path: {sft_sources / 'mul_tokens'}\n"
        f"datasets:\n  - path: own.jsonl\ndata_root: {tmp_path}\noutput_dir: {tmp_path / 'run'}\n"
        "max_steps: 1\ntotal_batch_items: 2\nper_device_train_batch_size: 2\nbf16: false\n"
    )
    assert run_recipe(recipe) == 0
    expected = {tuple(plain_ids(messages, tokenizer_of("mul_tokens"))[0]) for messages in rows}
    assert rows_read(tmp_path / "run") == expected


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }}"])
def test_stock_gpt2_can_be_fine_tuned_and_gets_the_chat_template_of_its_rows(tune, tmp_path, template):
    start = save_start(tmp_path, "stock")
    tokenizer = AutoTokenizer.from_pretrained(start)
    assert tokenizer.chat_template is None
    tokenizer.chat_template = template
    tokenizer.save_pretrained(start)
    assert tune("--model_name_or_path", start, *SHORT, "--output_dir", tmp_path / "{condition}-s{seed}") == 0
    run = tmp_path / "stock-s0"
    tokenizer = AutoTokenizer.from_pretrained(run / "best")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "6*9?"}], tokenize=False)
    assert asked.startswith("User: 6*9?\n")
    assert len(load_file(run / "best" / "model.safetensors")["transformer.wte.weight"]) == END_OF_TEXT + 1
    assert json.loads((run / "run.json").read_text())["condition"] == "stock"


LONG = [{"role": "user", "content": "word " * 99}, {"role": "assistant", "content": "Yes."}]
SILENCE = {"role": "assistant", "content": " "}
ALL_ROWS = '{"path": "rows.jsonl"}'


@pytest.mark.parametrize(
    ("row", "keys", "words"),
    [
        ({"text": "hello"}, {}, ["line 41", "has the columns text, which hold no messages"]),
        ({"messages": [], "x": 1}, {"question": "Problem"}, ["no column 'Problem'", "it has messages"]),
        ({"messages": []}, {}, ["line 41", "messages is empty"]),
        ({"messages": [{"role": "tool", "content": "x"}]}, {}, ["line 41", "messages[0] has the role 'tool'"]),
        ({"messages": LONG[:1]}, {}, ["line 41", "no assistant message"]),
        ({"messages": [*LONG[:1], SILENCE]}, {}, ["line 41", "messages[1].content is empty"]),
        ({"messages": LONG}, {}, ["line 41", "is too long", "max_length is 64", "too_long: drop"]),
    ],
)
def test_bad_row_is_named_with_its_column(tune, tmp_path, row, keys, words):
    rows = [{"messages": messages} for messages in CONVERSATIONS]
    rows = [row] if "text" in row else [*rows, row]
    path = write_rows(tmp_path / "bad.jsonl", rows)
    with pytest.raises(ValueError, match=r"\w") as error:
        tune("--datasets", rows_of(path, **keys))
    words = [word.replace("line 41", f"line {len(rows)}") for word in words]
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not list_checkpoints(tmp_path / "run")


def test_row_that_is_too_long_can_be_left_out_and_is_counted(tune, tmp_path):
    rows = [{"messages": messages} for messages in [*CONVERSATIONS, LONG]]
    path = write_rows(tmp_path / "long.jsonl", rows)
    assert tune("--datasets", rows_of(path), "--too_long", "drop", *SHORT) == 0
    train = report_of(tmp_path / "run")["train"]
    assert (train["rows"], train["kept"], train["too_long"]) == (41, 40, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model_name_or_path", ""], "model_name_or_path is not set"),
        (["--packing", "true"], "packing is True, which would change the run in silence; say `pack: true`"),
        (["--padding_free", "true"], "padding_free is True"),
        (["--load_best_model_at_end", "true"], "load_best_model_at_end is True"),
        (["--assistant_only_loss", "true"], "assistant_only_loss is True"),
        (["--eval_steps", "6"], "eval_steps (6.0) must be a multiple of save_steps (4.0)"),
        (["--total_batch_items", "5"], "total_batch_items (5) must be a multiple of 2 = 2 items x 1 processes"),
        (["--total_batch_items", "0"], "total_batch_items is 0"),
        (["--gradient_accumulation_steps", "2"], "follows from total_batch_items"),
        (["--num_train_epochs", "0", "--max_steps", "-1"], "num_train_epochs is 0"),
        (["--early_stopping_patience", "0"], "early_stopping_patience is 0"),
        (["--save_strategy", "epoch"], "save_strategy"),
        (["--max_length", "65"], "max_length is 65, and the model's context 64"),
        (["--max_length", "0"], "max_length is 0"),
        (["--max_eval_rows", "0"], "max_eval_rows is 0"),
        (["--lora_r", "0"], "lora_r is 0"),
        (["--lora_dropout", "1"], "lora_dropout is 1"),
        (["--too_long", "cut"], "too_long is 'cut'; choose error or drop"),
        (["--datasets", "rows.jsonl"], "datasets holds 'rows.jsonl', which is neither a mapping nor JSON"),
        (["--datasets", '{"path": "rows.jsonl", "colums": []}'], "unknown keys ['colums']"),
        (["--datasets", '{"path": "nowhere.jsonl"}'], "nowhere.jsonl"),
        (["--datasets", ALL_ROWS, "--eval_recipe", "x.yaml"], "eval_recipe and early_stopping_patience need held-out"),
        (["--datasets", ALL_ROWS, "--early_stopping_patience", "1"], "eval_recipe and early_stopping_patience need"),
        (["--eval_strategy", "no", "--early_stopping_patience", "1"], "early_stopping_patience"),
        (["--use_peft", "true", "--lora_target_modules", "q_proj"], "q_proj"),
    ],
)
def test_bad_recipe_is_refused_before_anything_is_trained(tune, tmp_path, arguments, words):
    with pytest.raises((ValueError, FileNotFoundError), match=r"\w") as error:
        tune(*arguments)
    assert words in str(error.value), str(error.value)
    assert not (tmp_path / "run" / "run.json").exists()


def test_recipe_without_sources_is_refused():
    with pytest.raises(ValueError, match="datasets is empty; a fine-tuning recipe lists at least one source"):
        SftDataArguments()


def test_tokenizer_of_another_model_is_refused(tune, sft_sources, tmp_path):
    mixed = tmp_path / "mixed"
    shutil.copytree(save_start(tmp_path, "stock"), mixed)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(sft_sources / "mul_tokens" / name, mixed)
    with pytest.raises(ValueError, match="a model of 50,257 tokens and a tokenizer of 50,349; they do not belong"):
        tune("--model_name_or_path", mixed)


def test_folder_without_a_model_is_refused(tune, tmp_path):
    with pytest.raises(ValueError, match="holds no model"):
        tune("--model_name_or_path", tmp_path)
    (tmp_path / "checkpoint-8").mkdir()
    with pytest.raises(ValueError, match="holds no model .* name a checkpoint of it") as error:
        tune("--model_name_or_path", tmp_path)
    assert "--every_checkpoint" not in str(error.value)  # an option of another program


def test_output_dir_that_is_a_file_is_refused(tune, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        tune("--output_dir", tmp_path / "file")


def test_digits_on_their_own_are_refused_by_name(tmp_path):
    start = save_start(tmp_path, "digit_numbers")
    rows = write_rows(tmp_path / "rows.jsonl", [{"messages": messages} for messages in CONVERSATIONS])
    with pytest.raises(ValueError, match="is of the condition digit_numbers"):
        paths = ("--model_name_or_path", start, "--output_dir", tmp_path / "run")
        run_recipe(*paths, "--datasets", rows_of(rows), *SHORT)
    assert not (tmp_path / "run").exists()
