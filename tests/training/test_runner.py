import json
from dataclasses import replace

import pytest
import torch

from modeling import DomainGPT2Config, DomainGPT2ForCausalLM
from tokenization import MulFactTokenizer
from training.evals.runner import RESULTS, evaluate, is_finished
from training.evals.subject import Subject
from training.evals.task import Task

ITEMS = 10
RECIPE = {"seed": 0}


class Alone:
    process_index, num_processes = 0, 1

    def wait_for_everyone(self):
        pass


class OneOfTwo(Alone):
    num_processes = 2

    def __init__(self, process_index):
        self.process_index = process_index


class Squares(Task):
    """Squares of numbers, in batches of three; `fail` is called with each batch first."""

    headline = ("mean",)

    def __init__(self, name="squares", fail=lambda batch: None):
        super().__init__(name)
        self.fail, self.ran = fail, []

    def batches(self, subject):
        order = [7, 2, 9, 0, 1, 3, 4, 5, 6, 8]  # not by index: rows must come out sorted
        return [order[start : start + 3] for start in range(0, ITEMS, 3)]

    def run(self, subject, batch):
        self.fail(batch)
        self.ran.append(list(batch))
        return [{"index": index, "square": index**2, "text": "line\u2028break"} for index in batch]

    def summarize(self, rows):
        return {"mean": sum(row["square"] for row in rows) / len(rows), "n": len(rows)}


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    config = DomainGPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=32)
    return Subject(DomainGPT2ForCausalLM(config).eval(), MulFactTokenizer.build("baseline"))


def run(subject, folder, *tasks, processes=None, recipe=None):
    lines = []
    results = evaluate(subject, tasks, folder, processes or Alone(), recipe or RECIPE, lines.append)
    return results, lines


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "run.json"}


def test_rows_and_results_are_written_in_the_order_of_the_items(subject, tmp_path):
    results, lines = run(subject, tmp_path, Squares())
    rows = [json.loads(line) for line in (tmp_path / "squares.jsonl").read_text().split("\n") if line]
    assert [row["square"] for row in rows] == [index**2 for index in range(ITEMS)]
    assert results["squares"] == {"mean": 28.5, "n": 10, "halved_items": 0}
    written = json.loads((tmp_path / RESULTS).read_text())
    assert written["results"] == results
    assert written["subject"]["condition"] == "baseline"
    assert lines == ["squares: mean 28.5000"]
    assert sorted(files(tmp_path)) == [RESULTS, "squares.jsonl"]


def test_interrupted_evaluation_does_only_what_is_missing_and_ends_with_the_same_bytes(subject, tmp_path):
    run(subject, tmp_path / "whole", Squares())

    def die_at_third(batch):
        if 4 in batch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(subject, tmp_path / "cut", Squares(fail=die_at_third))
    part = next((tmp_path / "cut").glob(".squares.part-*"))
    part.write_text(part.read_text() + '{"index": 4, "squ')  # a row that was cut off
    again = Squares()
    run(subject, tmp_path / "cut", again)
    assert again.ran == [[4, 5, 6], [8]]
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_finished_task_is_not_run_again(subject, tmp_path):
    first, _ = run(subject, tmp_path, Squares())
    assert is_finished([Squares()], tmp_path, RECIPE)
    again = Squares()
    assert run(subject, tmp_path, again)[0] == first
    assert again.ran == []


def test_results_by_another_recipe_or_on_other_data_are_not_finished(subject, tmp_path):
    task = Squares()
    assert not is_finished([task], tmp_path, RECIPE)
    run(subject, tmp_path, task)
    assert is_finished([task], tmp_path, {**RECIPE, "model": "elsewhere"})
    assert not is_finished([task], tmp_path, {"seed": 1})
    task.data_sha256 = "of other rows"
    assert not is_finished([task], tmp_path, RECIPE)


def test_results_of_a_finished_task_survive_the_failure_of_the_next(subject, tmp_path):
    def fail(batch):
        raise KeyError("broken")

    with pytest.raises(KeyError):
        run(subject, tmp_path, Squares(), Squares("second", fail))
    assert json.loads((tmp_path / RESULTS).read_text())["results"]["squares"]["n"] == ITEMS
    assert not is_finished([Squares(), Squares("second")], tmp_path, RECIPE)


def test_rows_of_several_processes_are_put_together(subject, tmp_path):
    run(subject, tmp_path / "one", Squares())
    # The second process first, for this one publishes: the parts of both are there by then.
    shares = [Squares(), Squares()]
    (tmp_path / "two").mkdir()
    with pytest.raises(FileNotFoundError):  # it would wait here for the main process to publish
        run(subject, tmp_path / "two", shares[1], processes=OneOfTwo(1))
    run(subject, tmp_path / "two", shares[0], processes=Alone())
    assert shares[1].ran == [[0, 1, 3], [8]]
    assert shares[0].ran == [[7, 2, 9], [4, 5, 6]]
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_batch_that_does_not_fit_is_halved_until_it_does_and_counted(subject, tmp_path, error):
    def too_large(batch):
        if len(batch) > 1:
            raise error

    results, _ = run(subject, tmp_path, Squares(fail=too_large))
    assert results["squares"] == {"mean": 28.5, "n": 10, "halved_items": 9}


def test_item_that_does_not_fit_alone_is_named_with_advice(subject, tmp_path):
    def never(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    with pytest.raises(ValueError, match=r"item 7 alone does not fit into memory .*20 GiB.*lower batch_size"):
        run(subject, tmp_path, Squares(fail=never))


def test_other_errors_are_not_taken_for_want_of_memory(subject, tmp_path):
    def fail(batch):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(subject, tmp_path, Squares(fail=fail))


def test_other_name_of_the_same_model_changes_nothing(subject, tmp_path):
    run(subject, tmp_path, Squares())
    again = Squares()
    run(replace(subject, name="./the/same"), tmp_path, again, recipe={"seed": 0, "model": "./the/same"})
    assert again.ran == []


def test_results_file_that_lacks_a_task_is_not_finished(subject, tmp_path):
    run(subject, tmp_path, Squares(), Squares("second"))
    written = json.loads((tmp_path / RESULTS).read_text())
    del written["results"]["second"]
    (tmp_path / RESULTS).write_text(json.dumps(written))
    assert not is_finished([Squares(), Squares("second")], tmp_path, RECIPE)
    run(subject, tmp_path, Squares(), Squares("second"))
    assert is_finished([Squares(), Squares("second")], tmp_path, RECIPE)


def test_folder_that_cannot_be_written_is_one_error(subject, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write results into .*choose another output_dir"):
        run(subject, tmp_path / "file" / "below", Squares())


def test_folder_with_results_of_another_model_or_recipe_is_refused(subject, tmp_path):
    run(subject, tmp_path, Squares())
    with pytest.raises(ValueError, match="seed was 0 and is now 1"):
        run(subject, tmp_path, Squares(), recipe={"seed": 1})
    torch.manual_seed(1)
    other = Subject(DomainGPT2ForCausalLM(subject.model.config).eval(), subject.tokenizer)
    with pytest.raises(ValueError, match="results of another model or tokenizer: weights_sha256 was"):
        run(other, tmp_path, Squares())
