"""What a run shows and writes while it goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dynfilters._output import printable
from dynfilters.experiments.files import to_csv, write_atomically
from dynfilters.experiments.results import HISTORY

UNREADABLE_FILES = "unreadable.txt"


class Journal:
    """Progress bar, TensorBoard, the rows of the epochs, and the files that cannot be read.

    Args:
        directory: the run's.
        steps: of the whole run.
        step: of which so many have been done before.
        progress: whether to show a bar; None for "if this is a terminal".
        tensorboard: whether to write for it.
        title: in front of the bar.
        silent: nothing is shown or written: for all processes but the first.
    """

    def __init__(
        self,
        directory: Path,
        steps: int,
        step: int,
        progress: bool | None,
        tensorboard: bool,
        title: str,
        silent: bool = False,
    ) -> None:
        self.directory, self.silent = directory, silent
        # tqdm's None: only on a terminal.
        disable = True if silent else None if progress is None else not progress
        self.bar = tqdm(total=steps, initial=step, desc=title, unit="step", disable=disable)
        self.writer = None
        if tensorboard and not silent:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed run wrote after its last checkpoint is hidden.
            self.writer = SummaryWriter(directory / "tensorboard", purge_step=step)
        self.known = 0

    def advance(self) -> None:
        """One step is done."""
        self.bar.update()

    def note_step(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured over the last few steps."""
        shown = {name: f"{value:.4g}" for name, value in values.items()}
        self.bar.set_postfix(shown, refresh=False)
        self._write("step", step, values)

    def note_epoch(self, history: Sequence[Mapping[str, Any]], unreadable: Sequence[str]) -> None:
        """The last row of `history` is new; the file has all of them."""
        if self.silent:
            return
        row = history[-1]
        write_atomically(self.directory / HISTORY, to_csv(history))
        self._write("epoch", row["step"], {k: v for k, v in row.items() if k != "step"})
        names = ("train_loss", "loss", "accuracy", "train_images_per_second")
        self.say(f"epoch {row['epoch']}: " + ", ".join(f"{n} {row[n]:.4g}" for n in names))
        self.note_unreadable(unreadable)

    def note_unreadable(self, names: Sequence[str]) -> None:
        """Writes the list; says so once for each time that it has grown."""
        if self.silent or len(names) == self.known:
            return
        path = self.directory / UNREADABLE_FILES
        write_atomically(path, "".join(f"{printable(name)}\n" for name in names))
        self.say(f"{len(names)} images cannot be read, the first is {names[0]}; all are in {path}")
        self.known = len(names)

    def say(self, text: str) -> None:
        """A line above the bar."""
        self.bar.write(printable(text))

    def close(self) -> None:
        self.bar.close()
        if self.writer:
            self.writer.close()

    def _write(self, group: str, step: int, values: Mapping[str, float]) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)
