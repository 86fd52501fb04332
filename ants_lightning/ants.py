"""`ANTS`: the LightningModule that scores a stream, batch by batch."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from ants_lightning.common.settings import plain
from ants_lightning.data.batches import IndexCheck, dataset_of, places_of, stream_loaders, unpack_batch
from ants_lightning.data.loading import keep_exact
from ants_lightning.data.pixels import check_pixels, in_words
from ants_lightning.data.reading import log_lost
from ants_lightning.decide.threshold import decisive
from ants_lightning.detector import Detector
from ants_lightning.distributed import gather_json
from ants_lightning.health import Fault, stream_faults
from ants_lightning.metrics import OODMetrics

logger = logging.getLogger(__name__)


class ANTS(Detector):
    """Zero-shot OOD detection with CLIP and negative texts (ANTS, CVPR 2026, arXiv 2509.03951).

    Arguments are those of `Detector`. By itself it is a plain MCM / NegLabel evaluator; the callback `NegativeMemory` adapts its
    spaces to the stream.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        args, kwargs = tuple(map(plain, args)), {name: plain(value) for name, value in kwargs.items()}
        super().__init__(*args, **kwargs)
        self.metrics = nn.ModuleDict()
        self.groups: dict[str, str] = {}  # this and the next three by stream
        self.adaptation, self.results = dict[str, dict[str, Any]](), dict[str, dict[str, Any]]()
        self.refused: dict[str, str] = {}
        self.skip: list[int] = []  # batches of each loader that an interrupted run has done
        self._seen = Counter[int]()  # images of each loader that came without an index
        self._index_checks: list[IndexCheck] = []  # of each loader
        self._told: dict[str, str] = {}  # reasons why images are lost, by kind
        self._predicted: dict[int, Counter[str]] = {}  # images of each loader of a prediction, by what became of them
        self._left_out: dict[str, list[Fault]] = {}  # of a prediction, by stream

    def setup(self, stage: str) -> None:
        """Check the names and the words, and see to it that every image comes once, before anything runs."""
        super().setup(stage)
        if self._trainer is not None:
            keep_exact(self._trainer, self.skip)

    def on_test_start(self) -> None:
        """Make the spaces, and one metric a test dataloader."""
        self._begin_run()
        groups = getattr(self.trainer.datamodule, "groups", None) or {}  # type: ignore[attr-defined]
        self.groups = {name: groups.get(name, "ood") for name in stream_loaders(self.trainer)}
        kinds = [getattr(dataset_of(loader), "ood_names", ()) for loader in stream_loaders(self.trainer).values()]
        self.metrics = nn.ModuleDict({f"stream_{i}": OODMetrics(self.score_names(), names) for i, names in enumerate(kinds)})
        self.metrics.to(self.device)

    def _begin_run(self) -> None:
        self.prepare()
        self.decision.prepare(self, self.trainer.datamodule)  # type: ignore[attr-defined]
        self.decision.refresh(self)
        self.adaptation, self._seen, self._told = {}, Counter(), {}
        self._index_checks = [IndexCheck(places_of(loader)) for loader in stream_loaders(self.trainer).values()]
        self.results, self.refused = {}, {}
        self._predicted, self._left_out = {}, {}

    on_predict_start = _begin_run

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any] | None:
        """Score a batch; the outputs are what `NegativeMemory` and the metrics take. None for a batch that is skipped (`skip`)."""
        if batch is None:
            return None
        out = self._step(batch, dataloader_idx)
        label = out["label"]
        if label is None:
            raise ValueError("a test batch needs labels (negative = OOD); for unlabelled images use trainer.predict")
        if len(label) and int(label.max()) >= len(self.class_names):
            raise ValueError(f"label {int(label.max())} with {len(self.class_names)} class names")
        return out

    @torch.no_grad()
    def _step(self, batch: Any, loader: int) -> dict[str, Any]:
        """`forward` of a batch, or `score` where it holds features `(n, d)` in place of images; those of NaN or Inf are left out.

        Besides, the outputs hold `label`, `index` and `path` of the batch, `kept`, which of its rows were scored (None: all), and
        `lost`: what the batch tells of images that could not be read, and those left out here.
        """
        x, label, index = unpack_batch(batch)
        more = batch if isinstance(batch, Mapping) else {}
        lost, path = list(more.get("lost", ())), more.get("path")
        if index is None:  # a foreign loader: ranks take turns
            world, rank = (self._trainer.world_size, self._trainer.global_rank) if self._trainer else (1, 0)
            index = (self._seen[loader] + torch.arange(len(x), device=x.device)) * world + rank
            self._seen[loader] += len(x)
        elif self._index_checks:
            self._index_checks[loader](index)
        features, patches = self._look(x)
        kept, good = None, features.isfinite().all(1)
        if patches is not None:
            good &= patches.isfinite().flatten(1).all(1)
        if not good.all():
            kept, bad = good.nonzero()[:, 0], (~good).nonzero()[:, 0]
            lost += [
                {"index": int(index[i]), "label": -1 if label is None else int(label[i]), "path": path[i] if path else "",
                 "why": "NaN or Inf features"}
                for i in bad.tolist()
            ]  # fmt: skip
            features, index = features[kept], index[kept]
            patches, label = (None if column is None else column[kept] for column in (patches, label))
            path = [path[i] for i in kept.tolist()] if path else None
        log_lost(lost, self._told)
        found = self.decide(self._score(features, patches))
        return {**found, "label": label, "index": index, "path": path, "kept": kept, "lost": lost}

    def decide(self, found: dict[str, Any]) -> dict[str, Any]:
        """What `score` gives, with `lambda`, `threshold` and `is_ood` of now."""
        is_ood = self.decision.decide(decisive(found["scores"]))
        return {**found, "lambda": self.weight, "threshold": self.decision.value, "is_ood": is_ood}

    def _look(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features of a batch of images or features."""
        if x.ndim == 2:
            if self._with_patches:
                names = [name for name, baseline in self.baselines.items() if baseline.needs_patches]
                raise ValueError(f"features alone hold no patches: {', '.join(names)} needs images")
            return x.float(), None
        if len(x):
            check_pixels(x, self.clip.visual)
            return in_words(self.encode, x, self.clip.visual)
        return self.id_text[:0], self.id_text.new_empty(0, 1, self.id_text.shape[1]) if self._with_patches else None

    def on_test_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Update the stream's metrics: after the callbacks, so that `score_after_refresh` can score once more."""
        if outputs is None:
            return
        metric: Any = self.metrics[f"stream_{dataloader_idx}"]
        scores = outputs["scores"]
        if outputs["lost"]:
            metric.lose(*_lost(outputs, batch))
        stacked = torch.stack([score.double() for score in scores.values()], 1)
        metric.update(stacked, outputs["label"], outputs["prediction"], outputs["is_ood"])

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any] | None:
        """`forward` of a batch, with `class_name`s, `index`, `path`, `lambda`, `threshold`, `is_ood`, `lost`; needs no labels."""
        if batch is None:
            return None
        out = self._step(batch, dataloader_idx)
        unreadable, not_finite = _lost(out, batch)
        counts = self._predicted.setdefault(dataloader_idx, Counter())
        counts.update(n_id=len(out["index"]), n_unreadable=unreadable, n_not_finite=not_finite)
        return {**out, "class_name": [self.class_names[i] for i in out["prediction"].tolist()]}

    def on_predict_end(self) -> None:
        """Say of each stream if so many images were left out that its rows are not those of the stream."""
        streams = list(stream_loaders(self.trainer))
        parts = gather_json([dict(self._predicted.get(place, {})) for place in range(len(streams))])
        for stream, counts in zip(streams, zip(*parts, strict=True), strict=True):
            total = sum(map(Counter, counts), Counter[str]())
            if found := stream_faults({"n_ood": 0, **{name: total[name] for name in ("n_id", "n_unreadable", "n_not_finite")}}):
                self._left_out[stream] = found
                logger.warning("stream %r: %s", stream, found[0]["text"])
        self.encoder.flush()

    def state(self) -> dict[str, Any]:
        """All that the next batch depends on, between two batches: tensors, lists of tensors and plain JSON values.

        References, not copies: everything in it is replaced later, never edited in place.
        """
        return {
            "ens": [self.ens.labels, self.ens.features], "vsnl": [self.vsnl.labels, self.vsnl.features],
            "weight": self.weight, "ens_ranked": self.ens_ranked, "decision": self.decision.state(),
            "adaptation": self.adaptation, "seen": list(self._seen.items()),
            "baselines": {name: baseline.state() for name, baseline in self.baselines.items()},  # type: ignore[operator]
            "metrics": [metric.state() for metric in self.metrics.values()],  # type: ignore[operator]
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` told, in a run that has started with the same configuration."""
        state = apply_to_collection(state, Tensor, lambda x: x.to(self.device))
        self.ens.replace(*state["ens"])
        self.vsnl.replace(*state["vsnl"])
        self.weight, self.ens_ranked = state["weight"], state["ens_ranked"]
        self.adaptation, self._seen = state["adaptation"], Counter(dict(state["seen"]))
        self.decision.restore(state["decision"])
        for name, baseline in self.baselines.items():
            baseline.restore(state["baselines"][name])  # type: ignore[operator]
        for metric, its_state in zip(self.metrics.values(), state["metrics"], strict=True):
            metric.restore(its_state)  # type: ignore[operator]
        self.spaces_changed()

    def on_test_epoch_end(self) -> None:
        """Compute and log `test/<group>/<stream>/<score>/<metric>`, λ and the like."""
        for (stream, group), metric in zip(self.groups.items(), self.metrics.values(), strict=True):
            try:
                computed = metric.compute()  # type: ignore[operator]
            except ValueError as error:
                self.refused[stream] = "; ".join([str(error), *list(self._told.values())[:3]])
                continue
            frozen = {"lambda": self.weight, "n_ens": len(self.ens), "n_vsnl": len(self.vsnl)}
            decided = {} if self.decision.value is None else {"threshold": self.decision.value}
            adapted = self.adaptation.get(stream, frozen)
            faults = [*stream_faults(computed), *adapted.get("faults", ())]
            result = self.results[stream] = {"group": group, **computed, **adapted, **decided, "faults": faults}
            flat = {f"{score}/{name}": v for score, values in result["scores"].items() for name, v in values.items()}
            flat |= {k: v for k, v in result.items() if isinstance(v, int | float) and not isinstance(v, bool)}
            for key, value in flat.items():
                self.log(f"test/{group}/{stream}/{key}", float(value), add_dataloader_idx=False, rank_zero_only=True)

    @property
    def faults(self) -> dict[str, list[Fault]]:
        """What makes columns of the last run meaningless, by stream; after a prediction, what kept it from learning or scoring."""
        found = dict(self._left_out)
        for stream, of in {**self.adaptation, **self.results}.items():
            if of.get("faults"):
                found[stream] = [*found.get(stream, ()), *of["faults"]]
        return found

    def on_test_end(self) -> None:
        """Keep text features; only now, with the good streams reported, refuse those that could not be measured."""
        self.encoder.flush()
        if self.refused:
            raise ValueError("; ".join(f"stream {name!r}: {why}" for name, why in self.refused.items()))


def _lost(outputs: Mapping[str, Any], batch: Any) -> tuple[int, int]:
    """How many images of a batch could not be read, and how many gave NaN or Inf."""
    not_finite = 0 if outputs["kept"] is None else len(unpack_batch(batch)[0]) - len(outputs["kept"])
    return len(outputs["lost"]) - not_finite, not_finite
