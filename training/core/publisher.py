"""What a run needs of whoever publishes its checkpoints while it trains."""

from pathlib import Path
from typing import Protocol


class Publisher(Protocol):
    """Publishes the checkpoints of a run; only the main process calls it."""

    def begin(self, run_dir: Path) -> None:
        """Check before the first step that publishing can work; raises `ValueError` if it cannot."""

    def add(self, checkpoint: Path) -> None:
        """Publish a sealed checkpoint, without making the training wait or fail."""

    def finish(self, in_a_hurry: bool) -> None:
        """Publish what is left and say what could not be; in a hurry, only say what is left."""
