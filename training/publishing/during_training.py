"""Publish the checkpoints of a run while it trains, beside the training."""

import queue
import shutil
import threading
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars

from training.core.checkpoint import list_checkpoints
from training.publishing.contents import keep_published_files
from training.publishing.publish import publish_run
from training.publishing.repository import HubError, Repository
from training.publishing.run_identity import published_facts

UPLOADS = ".publishing"  # checkpoints that are being published, which the run may remove meanwhile
LONGEST_WAIT_SECONDS = 1800  # at the end, for a network that neither works nor fails


class PublishDuringTraining:
    """A `Publisher` that uploads in a thread of its own, where a slow or dead network holds nobody up.

    Whatever fails is said, and tried again at the end.
    """

    def __init__(self, repository: Repository, license: str):
        self.repository, self.license = repository, license
        self._run = Path()
        self._waiting: queue.Queue[Path | None] = queue.Queue()
        self._unpublished: dict[str, None] = {}  # in their order; changed by both threads, one name at a time
        self._thread = threading.Thread(target=self._work, daemon=True)  # it must not keep a failed run alive

    def begin(self, run_dir: Path) -> None:
        """Open the repository; a resumed run goes on without a network, a new one does not begin."""
        self._run = run_dir
        shutil.rmtree(run_dir / UPLOADS, ignore_errors=True)
        there = list_checkpoints(run_dir)
        try:
            self.repository.open(published_facts(run_dir))
        except HubError as error:
            if not (error.transient and there):
                raise
            self._say(f"{error}. The run goes on, and tries again at the next checkpoint")
        self._thread.start()
        for checkpoint in there:
            self.add(checkpoint)

    def add(self, checkpoint: Path) -> None:
        """Let the thread publish a checkpoint, which the run may remove from now on."""
        kept = self._run / UPLOADS / checkpoint.name
        self._unpublished[checkpoint.name] = None
        try:
            shutil.rmtree(kept, ignore_errors=True)
            keep_published_files(checkpoint, kept)
        except OSError as error:  # of a disk without links that is full; the checkpoint itself is safe
            self._say(f"{checkpoint.name} could not be set aside for publishing: {error}")
        else:
            self._waiting.put(kept)

    def finish(self, in_a_hurry: bool) -> None:
        """Publish all that the run's folder still holds, with the results measured since, and say what is missing."""
        if not in_a_hurry:
            self._say("publishing what is left")
            self._waiting.put(None)
            self._thread.join(LONGEST_WAIT_SECONDS)
        for name in list(self._unpublished):
            if (self._run / name).is_dir():
                advice = f"python training/push.py {self._run} --repo_id {self.repository.name}"
                advice += "" if self.repository.private else " --public"
                self._say(f"{name} is not published; {advice}, or the next start, does that")
            else:
                self._say(f"{name} was not published before save_total_limit removed it")

    def _work(self) -> None:
        while (checkpoint := self._waiting.get()) is not None:
            self._publish([checkpoint])
            shutil.rmtree(checkpoint, ignore_errors=True)
        shutil.rmtree(self._run / UPLOADS, ignore_errors=True)
        self._publish(list_checkpoints(self._run))

    def _publish(self, checkpoints: list[Path]) -> None:
        if not checkpoints:
            return
        disable_progress_bars()  # again each time, because the Trainer switches them on at its end
        try:
            publish_run(self._run, self.repository, self.license, lambda line: None, checkpoints)
        except Exception as error:  # whatever it is, the training is not to end for it
            self._say(f"{checkpoints[-1].name} could not be published: {error}")
            return
        names = [checkpoint.name for checkpoint in checkpoints]
        for name in names:
            self._unpublished.pop(name, None)
        self._say(f"published {', '.join(names)} in {self.repository.url}")

    def _say(self, line: str) -> None:
        print(f"hub: {line}", flush=True)
