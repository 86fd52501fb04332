"""`Evaluation`: what is known of the streams of one run: metrics, adaptation, results and faults."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ants_lightning.common.settings import is_number
from ants_lightning.data.batches import Batch, IndexCheck, dataset_of, places_of, unpack_batch
from ants_lightning.data.reading import log_lost
from ants_lightning.health import Fault, PredictionHealth, stream_faults
from ants_lightning.metrics import OODMetrics


class Evaluation:
    """The evaluation of one run over its streams; each run makes a new one.

    Args:
        loaders: the dataloaders by name of the stream, in order.
        groups: group of a stream by its name, such as `near` and `far`; `ood` for streams not named.
        score_names: names of the scores.
        device: of the metrics.
        world: number of ranks.
        rank: of this process.
    """

    def __init__(
        self,
        loaders: Mapping[str, Any] | None = None,
        groups: Mapping[str, str] | None = None,
        score_names: Sequence[str] = (),
        device: torch.device | str = "cpu",
        world: int = 1,
        rank: int = 0,
    ) -> None:
        loaders, groups = loaders or {}, groups or {}
        self.groups = {name: groups.get(name, "ood") for name in loaders}
        kinds = [getattr(dataset_of(loader), "ood_names", ()) for loader in loaders.values()]
        self.metrics = [OODMetrics(score_names, names).to(device) for names in kinds]
        self.adaptation: dict[str, dict[str, Any]] = {}  # what `publish` was given, by stream
        self.results: dict[str, dict[str, Any]] = {}  # what `compute` found, by stream
        self.refused: dict[str, str] = {}  # why a stream could not be measured
        self._world, self._rank = world, rank
        self._checks = [IndexCheck(places_of(loader)) for loader in loaders.values()]
        self._seen = Counter[int]()  # images without an index, by loader
        self._logged: dict[str, str] = {}  # why images were lost, by kind of loss
        self._predicted = PredictionHealth()
        self._left_out: dict[str, list[Fault]] = {}  # of a prediction, by stream

    def number(self, batch: Batch, loader: int) -> Batch:
        """The batch with the place of each image in its stream, as `index`.

        A foreign loader gives no places: then the ranks are taken to draw images in turn.
        """
        if batch.index is None:
            places = self._seen[loader] + torch.arange(len(batch.images), device=batch.images.device)
            self._seen[loader] += len(batch.images)
            return replace(batch, index=places * self._world + self._rank)
        if loader < len(self._checks):
            self._checks[loader](batch.index)
        return batch

    def log_lost(self, lost: Sequence[Mapping[str, Any]]) -> None:
        """Log the first image of each kind of loss."""
        log_lost(lost, self._logged)

    def update(self, loader: int, outputs: Mapping[str, Any], batch: Any) -> None:
        """Take a test batch and the outputs of the model for it."""
        metric = self.metrics[loader]
        if outputs["lost"]:
            metric.lose(*_lost(outputs, batch))
        scores = torch.stack([score.double() for score in outputs["scores"].values()], 1)  # (n, scores)
        metric.update(scores, outputs["label"], outputs["prediction"], outputs["is_ood"])

    def count(self, loader: int, outputs: Mapping[str, Any], batch: Any) -> None:
        """Take a batch of a prediction and the outputs of the model for it."""
        self._predicted.count(loader, len(outputs["index"]), *_lost(outputs, batch))

    def publish(self, stream: str, adaptation: dict[str, Any]) -> None:
        """Take the report of the adaptation to a stream, in place of an earlier one."""
        self.adaptation = {**self.adaptation, stream: adaptation}

    def compute(self, frozen: Mapping[str, Any], threshold: float | None) -> dict[str, float]:
        """Measure all streams, and fill `results` and `refused`.

        Args:
            frozen: the adaptation report of a stream to which nothing was adapted.
            threshold: of the decision; None: there is none.

        Returns:
            The numbers to log: metrics by `<group>/<stream>/<score>/<metric>`, others, such as λ, by
            `<group>/<stream>/<name>`.
        """
        logged = dict[str, float]()
        for (stream, group), metric in zip(self.groups.items(), self.metrics, strict=True):
            try:
                computed = metric.compute()
            except ValueError as error:
                self.refused[stream] = "; ".join([str(error), *list(self._logged.values())[:3]])
                continue
            adapted = self.adaptation.get(stream, frozen)
            result = {"group": group, **computed, **adapted}
            if threshold is not None:
                result["threshold"] = threshold
            result["faults"] = [*stream_faults(computed), *adapted.get("faults", ())]
            self.results[stream] = result
            logged |= {f"{group}/{stream}/{name}": float(value) for name, value in _numbers(result).items()}
        return logged

    def end_prediction(self, streams: Sequence[str]) -> dict[str, list[Fault]]:
        """Faults by stream, where a prediction left out too many images; all ranks call it at once."""
        self._left_out = self._predicted.faults(streams)
        return self._left_out

    @property
    def faults(self) -> dict[str, list[Fault]]:
        """The faults known so far by stream, after a test or a prediction."""
        found = dict(self._left_out)
        for stream, of in {**self.adaptation, **self.results}.items():
            if of.get("faults"):
                found[stream] = [*found.get(stream, ()), *of["faults"]]
        return found

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        return {
            "adaptation": self.adaptation,
            "seen": list(self._seen.items()),
            "metrics": [metric.state() for metric in self.metrics],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Return to a `state`."""
        self.adaptation, self._seen = state["adaptation"], Counter(dict(state["seen"]))
        for metric, its_state in zip(self.metrics, state["metrics"], strict=True):
            metric.restore(its_state)


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in the result of a stream: metrics by `<score>/<metric>`, others by name."""
    numbers = dict[str, float]()
    for score, metrics in result["scores"].items():
        numbers |= {f"{score}/{name}": value for name, value in metrics.items()}
    return numbers | {name: value for name, value in result.items() if is_number(value)}


def _lost(outputs: Mapping[str, Any], batch: Any) -> tuple[int, int]:
    """How many images of a batch could not be read, and how many gave NaN or Inf."""
    not_finite = 0 if outputs["kept"] is None else len(unpack_batch(batch)[0]) - len(outputs["kept"])
    return len(outputs["lost"]) - not_finite, not_finite
