"""The publisher of a run that asks for one."""

from typing import TYPE_CHECKING

from transformers import TrainingArguments

if TYPE_CHECKING:
    from training.publishing.during_training import PublishDuringTraining


def publisher_of(args: TrainingArguments) -> "PublishDuringTraining | None":
    """Return what publishes a run by `push_to_hub` and the keys beside it, None where it is not to be published."""
    if not args.push_to_hub:
        return None
    # They bring evaluations and figures along, nearly a second that the start of another run should not cost.
    from training.publishing.during_training import PublishDuringTraining
    from training.publishing.repository import Repository

    return PublishDuringTraining(Repository(args.hub_model_id, args.hub_private_repo), args.hub_license)
