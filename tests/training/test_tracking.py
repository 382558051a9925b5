import json
from types import SimpleNamespace

import pytest

from training.core.console import format_duration
from training.core.tracking import MetricsFile, Throughput, format_log_line, read_metrics

ROW = {
    "loss": 3.25,
    "learning_rate": 6e-4,
    "grad_norm": 0.31,
    "tokens_per_second": 612_345.6,
    "mfu": 0.481,
    "peak_memory_gib": 12.34,
    "seconds_left": 18_720.0,
}


def test_log_line_holds_every_figure():
    line = format_log_line(ROW, 100, 19073)
    assert line == (
        "step   100/19073 | loss 3.2500 | lr 6.00e-04 | grad norm 0.310 | 612,346 tokens/s | MFU 48.1% | 12.3 GiB | "
        "5h12m left"
    )


def test_unknown_device_has_no_utilisation():
    assert "MFU n/a" in format_log_line(ROW | {"mfu": None}, 1, 2)


def test_evaluation_line_holds_bits_per_byte():
    line = format_log_line(
        {"eval_loss": 3.0, "eval_bits_per_byte": 1.1, "eval_bits_per_byte_without_facts": 1.2}, 5, 9
    )
    assert line == "step 5/9 | validation loss 3.0000 | 1.1000 bits per byte | 1.2000 on documents without facts"


def test_loss_without_figures_of_speed_makes_a_line():
    assert format_log_line({"loss": 1.0, "learning_rate": 1e-3}, 1, 2) == "step 1/2 | loss 1.0000 | lr 1.00e-03"


def test_other_rows_make_no_line():
    assert format_log_line({"train_runtime": 5.0}, 1, 2) == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599, "59m59s"), (3660, "1h01m")]
)
def test_duration_reads_well(seconds, text):
    assert format_duration(seconds) == text


def test_throughput_leaves_out_pauses_and_counts_steps(monkeypatch):
    clock = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr("training.core.tracking.time.perf_counter", lambda: next(clock))
    monkeypatch.setattr("training.core.tracking.peak_flops", lambda: 1e6)
    throughput = Throughput(lambda step: {"tokens": 1000 * step, "flops": 100_000 * step}, num_devices=2)
    throughput.on_train_begin(None, SimpleNamespace(global_step=4), None)
    throughput.pause(2.0)
    first = throughput.measure(step=8, max_steps=10)  # 4 steps in 10 - 2 seconds
    assert first["tokens_per_second"] == 500
    assert first["mfu"] == pytest.approx(500 * 100 / (1e6 * 2))
    assert first["seconds_left"] == 4
    assert throughput.measure(step=10, max_steps=10)["tokens_per_second"] == 200


def test_throughput_counts_work_since_the_start_of_the_run_and_speed_since_the_last_line(monkeypatch):
    clock = iter([0.0, 1.0])
    monkeypatch.setattr("training.core.tracking.time.perf_counter", lambda: next(clock))
    throughput = Throughput(lambda step: {"tokens": step**2, "flops": 0, "rows": 3 * step}, num_devices=1)
    throughput.on_train_begin(None, SimpleNamespace(global_step=4), None)
    measured = throughput.measure(step=6, max_steps=10)
    assert measured["tokens_per_second"] == 36 - 16
    assert (measured["tokens"], measured["rows"], measured["flops"]) == (36, 18, 0)


def test_log_line_of_fine_tuning_says_how_many_tokens_were_right():
    line = format_log_line({"loss": 1.0, "learning_rate": 1e-3, "mean_token_accuracy": 0.876}, 1, 2)
    assert line == "step 1/2 | loss 1.0000 | lr 1.00e-03 | tokens right 87.6%"


def test_resumed_run_drops_rows_behind_its_checkpoint_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step, "loss": step}) + "\n" for step in range(1, 8)) + '{"step": 8, "lo'
    )
    callback = MetricsFile(tmp_path)
    state = SimpleNamespace(is_world_process_zero=True, global_step=5)
    callback.on_train_begin(None, state, None)
    callback.on_log(None, SimpleNamespace(is_world_process_zero=True, global_step=6), None, logs={"loss": 60})
    assert read_metrics(path) == [{"step": step, "loss": step} for step in range(1, 6)] + [{"step": 6, "loss": 60}]


def test_other_processes_write_nothing(tmp_path):
    callback = MetricsFile(tmp_path)
    state = SimpleNamespace(is_world_process_zero=False, global_step=1)
    callback.on_train_begin(None, state, None)
    callback.on_log(None, state, None, logs={"loss": 1})
    assert not (tmp_path / "metrics.jsonl").exists()
