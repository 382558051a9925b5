import io
import sys

import pytest

from training.data.corpus_recipe import CorpusArguments
from training.data.pieces import Advance
from training.data.plan import Piece
from training.data.progress import Progress
from training.data.spans import Span

PIECES = [Piece(0, index, Span()) for index in range(3)]


def record(tokens, text):
    counts = {"bytes": text, "plain_tokens": tokens}
    return {"documents_read": 1, "splits": {"train": counts, "validation": {"bytes": 0, "plain_tokens": 0}}}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def begin(clock, lines, **settings):
    return Progress(CorpusArguments(output_dir="data/x"), settings.get("text_bytes", 0), "lines", lines.append, clock)


def test_totals_count_a_piece_once_whether_under_way_lost_or_finished(clock):
    progress = begin(clock, [])
    progress.advance(0, Advance(PIECES[0].name, 1, 100, 20))
    progress.advance(1, Advance(PIECES[1].name, 1, 300, 60))
    assert progress.totals() == {"documents": 2, "bytes": 400, "plain_tokens": 80}
    progress.lose(1, PIECES[1])
    assert progress.totals() == {"documents": 1, "bytes": 100, "plain_tokens": 20}
    progress.finish(0, PIECES[0], record(25, 120))
    assert progress.totals() == {"documents": 1, "bytes": 120, "plain_tokens": 25}


def test_speed_and_time_left_are_those_of_this_run(clock):
    progress = begin(clock, [], text_bytes=5_000_000)
    progress.found(record(1_000_000, 1_000_000))
    clock.now = 10.0
    progress.finish(0, PIECES[0], record(500_000, 2_000_000))
    assert progress.speed() == (50_000, 200_000)
    assert progress.describe() == "1,500,000 training tokens | 0.05 M tokens/s | 0.2 MB/s | 0.00 GB of text | 10s left"


def test_lines_come_at_most_every_ten_seconds(clock):
    lines = []
    progress = begin(clock, lines)
    for seconds in (3.0, 11.0, 12.0, 22.0):
        clock.now = seconds
        progress.finish(0, PIECES[0], record(10, 40))
    assert len(lines) == 2
    assert lines[0].startswith("data/x: 20 training tokens | ")


def test_bar_shows_the_target_and_a_line_per_worker(clock, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    args = CorpusArguments(output_dir="data/x", target_tokens=1_000_000)
    with Progress(args, 0, "workers", print, clock) as progress:
        clock.now = 2.0
        progress.advance(1, Advance(PIECES[0].name, 7, 1_500_000, 400_000))
    shown = screen.getvalue()
    assert "data/x  40%" in shown
    assert "0.20M tokens/s, 0.8 MB/s, 0.00 GB, 3s left" in shown
    assert "worker 1: piece 00-00000, 7 documents, 1.5 MB" in shown
