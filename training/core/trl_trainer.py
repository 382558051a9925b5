"""What TRL's trainers need beside what all trainers do."""

from collections import defaultdict
from typing import Any

from training.core.trainer import TrustworthyTrainerMixin


class TrlTrainerMixin(TrustworthyTrainerMixin):
    """A trustworthy trainer of TRL's, whose averages between two log lines survive a restart and an evaluation."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        averages = self._metrics["train"]
        averages.pop("num_tokens", None)  # counts the width of a batch, or what stands beside as `tokens`
        if "loss" not in logs:
            self._metrics["train"] = defaultdict(list)  # TRL would put its averages into the row of an evaluation
        super().log(logs, start_time)
        if "loss" not in logs:
            self._metrics["train"] = averages

    def facts_for_seal(self) -> dict[str, Any]:
        return super().facts_for_seal() | {"averages_since_last_log": dict(self._metrics["train"])}

    def take_up(self, sealed: dict[str, Any]) -> None:
        super().take_up(sealed)
        self._metrics["train"].update(sealed["averages_since_last_log"])

    def create_model_card(self, *args, **kwargs) -> None:
        """TRL would write its card beside the checkpoints; each checkpoint has its own."""
