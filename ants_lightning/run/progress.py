"""`StreamProgressBar`: the adaptation as it goes."""

import sys
from typing import Any, TextIO, cast

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console
from rich.progress import Task, TextColumn
from rich.text import Text

from ants_lightning.ants import ANTS
from ants_lightning.common.text import one_line
from ants_lightning.run.terminal import Lenient


class StreamColumn(TextColumn):
    """The name of a stream as it is: nothing in it is taken for markup or an emoji."""

    def render(self, task: Task) -> Text:
        """The field `stream` of the task, until there is one its description."""
        return Text(task.fields["stream"]) if "stream" in task.fields else super().render(task)


class StreamProgressBar(RichProgressBar):
    """Lightning's rich progress bar, with the stream's name, λ, γ and the sizes of the spaces.

    Args:
        console_kwargs: of `rich.console.Console`; by default it is where rich writes (`rich.get_console()`).
        kwargs: of `RichProgressBar`.
    """

    def __init__(self, console_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        now = get_console()  # which Lightning replaces
        file = Lenient(None if now.file is sys.stdout else cast(TextIO, now.file))
        ours = {"file": file, "force_terminal": now.is_terminal or None}
        super().__init__(console_kwargs={**ours, **(console_kwargs or {})}, **kwargs)

    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Lightning's, with our first."""
        return [
            StreamColumn("[progress.description]{task.description}"),
            *super().configure_columns(trainer)[1:],
        ]

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: L.Trainer,
        pl_module: ANTS,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the adaptation after each batch."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, batch_idx, dataloader_idx)
        if self.progress is None or self.test_progress_bar_id is None:
            return
        name = list(pl_module.evaluation.groups)[dataloader_idx]
        now = pl_module.evaluation.adaptation.get(name)
        state = (
            f" λ {now['lambda']:.2f} γ {now['gamma']:.2f} ENS {now['n_ens']} VSNL {now['n_vsnl']}"
            if now
            else ""
        )
        self.progress.update(self.test_progress_bar_id, stream=one_line(name) + state)
