"""Loaders that are exact: on any number of ranks each image comes once, and a run goes on at any batch."""

import logging
from collections.abc import Sequence
from typing import Any

import lightning as L
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.overrides.distributed import (
    UnrepeatedDistributedSampler,
    UnrepeatedDistributedSamplerWrapper,
)
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ants_lightning.common.hashes import digest
from ants_lightning.data.stream_loader import Discarding, RankShare, StreamLoader
from ants_lightning.distributed import gather_json

logger = logging.getLogger(__name__)

_ADVICE = "use one device, or a DataLoader of a map-style data set with a batch_size and shuffle=False"


def make_exact(loader: Any, world: int, rank: int, skip: int = 0) -> Any:
    """The same loader, re-made so that every image comes once, and the first `skip` batches are not loaded.

    With W ranks, rank r takes images r, r + W, …; None is yielded for a batch that is skipped. To be called
    by all ranks at once. On one rank, what cannot be re-made stays as it is, and reads what it skips.

    Raises:
        ValueError: the loader's order is another one each time, or (on several ranks) it cannot be shared
            exactly.
    """
    why_not = _not_plain(loader)
    if world > 1:
        if why_not is None:
            why_not = _not_shareable(loader)
        if why_not:
            raise ValueError(
                f"{_name(loader)} cannot be shared exactly by {world} ranks: {why_not}; {_ADVICE}"
            )
        batch_sampler = _share(loader, world, rank)
    elif why_not:
        return Discarding(loader, skip) if skip else loader
    else:
        batch_sampler = loader.batch_sampler
        batches = _plain_batches(loader)
        if skip and (why := _unsteady(batches.sampler if type(batches) is BatchSampler else batches)):
            raise ValueError(
                f"{_name(loader)} cannot be gone on with at batch {skip}: {why}; use shuffle=False"
            )
    return StreamLoader(loader, batch_sampler, skip)


def keep_exact(trainer: L.Trainer, skip: Sequence[int] = ()) -> None:
    """Have the run that starts use `make_exact` for each loader; to be called in `LightningModule.setup`.

    Args:
        trainer: its strategy's `process_dataloader` is wrapped, once. Lightning calls it for each loader, in
            order.
        skip: batches of each loader that are done already; 0 for those not named.
    """
    strategy: Any = trainer.strategy
    if not isinstance(strategy.process_dataloader, _Exactly):
        strategy.process_dataloader = _Exactly(trainer, strategy.process_dataloader)
    strategy.process_dataloader.begin(skip)


class _Exactly:
    """`process_dataloader` of a strategy, after `make_exact`."""

    def __init__(self, trainer: L.Trainer, of_strategy: Any) -> None:
        self.trainer, self.of_strategy = trainer, of_strategy

    def begin(self, skip: Sequence[int]) -> None:
        """Forget the run before. Another module that is run later with this trainer is left alone."""
        self.module, self.skip, self.made = self.trainer.lightning_module, list(skip), list[Any]()
        self.module.allow_zero_length_dataloader_with_multiple_devices = (
            True  # a stream may be shorter than the number of ranks
        )

    def __call__(self, loader: Any) -> Any:
        trainer = self.trainer
        if (trainer.testing or trainer.predicting) and trainer.lightning_module is self.module:
            skip = self.skip[len(self.made)] if len(self.made) < len(self.skip) else 0
            loader = make_exact(loader, trainer.world_size, trainer.global_rank, skip)
            self.made.append(loader)
            if trainer.predicting and isinstance(loader, StreamLoader) and not _notes_indices(trainer):
                # Lightning's wrapper would keep every index of the stream
                loader.batches = _plain_batches(loader)
            if trainer.world_size > 1:
                loader.on_start = self._refuse_idle_ranks
        return self.of_strategy(loader)

    def _refuse_idle_ranks(self) -> None:
        """Refuse a run with more ranks than any stream has images.

        Lightning ends a rank without batches before the run, in which the others would wait for it.
        """
        longest, world = max(len(loader.sampler.dataset) for loader in self.made), self.trainer.world_size
        if longest < world:
            raise ValueError(
                f"{world} ranks, and no stream has more than {longest} images: use at most {longest} devices"
            )


def _notes_indices(trainer: L.Trainer) -> bool:
    """Whether anybody in a prediction asks which images a batch had."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return trainer.predict_loop.return_predictions or any(
        isinstance(c, BasePredictionWriter) for c in callbacks
    )


def _name(loader: Any) -> str:
    return (
        f"{type(loader).__name__} of {type(loader.dataset).__name__}"
        if hasattr(loader, "dataset")
        else type(loader).__name__
    )


def _not_plain(loader: Any) -> str | None:
    """Why batches cannot be known beforehand, if so."""
    if not isinstance(loader, DataLoader):
        return "it is no torch DataLoader"
    parts = ("__iter__", "__len__", "_get_iterator")
    own = [name for name in parts if getattr(type(loader), name) is not getattr(DataLoader, name)]
    if own:
        return f"it has its own {', '.join(own)}"
    if isinstance(loader.dataset, IterableDataset):
        return "it reads an IterableDataset, which has no order to share"
    if loader.batch_sampler is None:
        return "it makes no batches (batch_size=None)"
    return None


def _plain_batches(loader: DataLoader) -> Any:
    """The batch sampler without Lightning's wrapper, which notes the indices in prediction."""
    return getattr(loader.batch_sampler, "_batch_sampler", loader.batch_sampler)


def _base(sampler: Any) -> Any:
    """What a sampler that Lightning put in shares."""
    wrapped = isinstance(sampler, DistributedSamplerWrapper | UnrepeatedDistributedSamplerWrapper)
    return sampler.dataset._sampler if wrapped else sampler


def _not_shareable(loader: DataLoader) -> str | None:
    """Why the batches of a plain loader cannot be shared, if so."""
    batches = _plain_batches(loader)
    if type(batches) is not BatchSampler:
        return f"it has a batch_sampler of its own ({type(batches).__name__})"
    if batches.drop_last:
        return "drop_last=True leaves out other images than on one rank"
    return _unsteady(_base(batches.sampler))


def _unsteady(sampler: Any) -> str | None:
    """Why the order of a sampler is another one each time, if so."""
    if isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler) or getattr(
        sampler, "shuffle", False
    ):
        return "it shuffles; permute inside the data set, where the order belongs to the data"
    if not isinstance(sampler, SequentialSampler | DistributedSampler) and list(sampler) != list(sampler):
        return f"{type(sampler).__name__} gives another order the second time"
    return None


def _share(loader: DataLoader, world: int, rank: int) -> Any:
    """Batches of this rank's share."""
    batches = _plain_batches(loader)
    sampler, size = batches.sampler, batches.batch_size
    base = _base(sampler)
    if type(base) in (RankShare, UnrepeatedDistributedSampler):
        order: Sequence[Any] = base.order if isinstance(base, RankShare) else range(len(base.dataset))
        if (base.num_replicas, base.rank) != (world, rank):
            theirs = f"rank {base.rank} of {base.num_replicas}"
            raise ValueError(f"{_name(loader)} holds the share of {theirs}, on rank {rank} of {world}")
    elif type(base) is DistributedSampler:
        order = range(len(base.dataset))  # type: ignore[arg-type]
    elif isinstance(base, DistributedSampler):
        raise ValueError(
            f"{_name(loader)} is shared by {type(base).__name__}, of which the order is not known; {_ADVICE}"
        )
    else:
        order = range(len(base)) if isinstance(base, SequentialSampler) else list(base)
    everywhere = gather_json([len(order), digest(repr(order).encode())])
    if any(one != everywhere[0] for one in everywhere):
        raise ValueError(
            f"{_name(loader)} differs between ranks, in images or in order: {[n for n, _ in everywhere]} "
            f"images"
        )
    if type(base) is RankShare or type(sampler) in (
        UnrepeatedDistributedSampler,
        UnrepeatedDistributedSamplerWrapper,
    ):
        return loader.batch_sampler  # exact already
    if rank == 0:
        why = (
            "repeats images to make the shares even"
            if isinstance(sampler, DistributedSampler)
            else "gives every rank all images"
        )
        name = type(sampler).__name__
        logger.warning(
            "%s was re-made, for its %s %s: %d images, each once", _name(loader), name, why, len(order)
        )
    return BatchSampler(RankShare(order, world, rank), size, drop_last=False)
