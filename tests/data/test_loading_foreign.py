"""What cannot be shared or skipped exactly, and what the log says."""

import logging

import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.overrides.distributed import (
    UnrepeatedDistributedSampler,
)
from loading_parts import Backwards, Numbers, lists, padded, sequential, shard, unrepeated
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
)

from ants_lightning.data.loading import make_exact
from ants_lightning.data.stream_loader import RankShare


class Restless(Backwards):
    """Another order each time."""

    def __iter__(self):
        self.n_asked = getattr(self, "n_asked", 0) + 1
        return iter([(i + self.n_asked) % self.n for i in range(self.n)])


class Endless(IterableDataset):
    def __iter__(self):
        return iter(range(5))


class OwnLoader(DataLoader):
    def __iter__(self):
        return iter([torch.tensor([1]), torch.tensor([2])])


class OwnBatches(BatchSampler):
    pass


class OwnShares(DistributedSampler):
    pass


def own_batches(data, sampler):
    return DataLoader(data, batch_sampler=OwnBatches(sampler, 2, False))


DATA = Numbers(10)


REFUSED = {
    "it shuffles": DataLoader(DATA, 2, shuffle=True),
    "it shuffles; permute": DataLoader(DATA, 2, sampler=DistributedSampler(DATA, 2, 0, shuffle=True)),
    "it shuffles; permute inside": DataLoader(DATA, 2, sampler=SubsetRandomSampler([1, 2])),
    "Restless gives another order": DataLoader(DATA, 2, sampler=Restless(10)),
    "Restless gives another": DataLoader(
        DATA, 2, sampler=DistributedSamplerWrapper(Restless(10), 2, 0, shuffle=False)
    ),
    "OwnBatches": own_batches(DATA, SequentialSampler(DATA)),
    "OwnShares": DataLoader(DATA, 2, sampler=OwnShares(DATA, 2, 0, shuffle=False)),
    "rank 1 of 2, on rank 0 of 2": DataLoader(DATA, 2, sampler=RankShare(range(10), 2, 1)),
    "rank 0 of 3, on": DataLoader(DATA, 2, sampler=UnrepeatedDistributedSampler(DATA, 3, 0, shuffle=False)),
    "IterableDataset": DataLoader(Endless(), 2),
    "batch_size=None": DataLoader(DATA, None),
    "drop_last=True": DataLoader(DATA, 3, drop_last=True),
    "its own __iter__": OwnLoader(DATA, 2),
    "no torch DataLoader": [torch.tensor([1])],
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_several_ranks_cannot_share_exactly_is_refused(why):
    with pytest.raises(ValueError, match=f"^(DataLoader of|OwnLoader of|list cannot).*{why}"):
        make_exact(REFUSED[why], 2, 0)


@pytest.mark.parametrize(
    "why", ["IterableDataset", "batch_size=None", "its own __iter__", "no torch DataLoader"]
)
def test_one_rank_reads_what_it_cannot_cut(why):
    loader = REFUSED[why]
    assert make_exact(loader, 1, 0) is loader
    whole, skipping = lists(loader), make_exact(loader, 1, 0, skip=1)
    assert len(whole) > 1 or why == "no torch DataLoader"
    assert lists(skipping) == [None, *whole[1:]]
    assert getattr(skipping, "dataset", None) is getattr(loader, "dataset", None)


@pytest.mark.parametrize(
    "why", ["it shuffles", "it shuffles; permute inside", "Restless gives another order"]
)
def test_one_rank_may_shuffle_but_not_go_on(why):
    loader = REFUSED[why]
    images = [
        sorted(i for batch in lists(either) for i in batch) for either in (make_exact(loader, 1, 0), loader)
    ]
    assert images[0] == images[1] and len(images[0]) in (2, 10)
    with pytest.raises(ValueError, match=f"cannot be gone on with at batch 1: {why[:10]}.*shuffle=False"):
        make_exact(loader, 1, 0, skip=1)


def test_one_rank_goes_on_with_batches_of_ones_own_if_they_are_the_same_each_time():
    assert lists(make_exact(own_batches(DATA, Backwards(10)), 1, 0, skip=3)) == [
        None,
        None,
        None,
        [3, 2],
        [1, 0],
    ]
    assert lists(make_exact(DataLoader(DATA, 3, drop_last=True), 1, 0, skip=2)) == [None, None, [6, 7, 8]]
    with pytest.raises(ValueError, match="OwnBatches gives another order"):
        make_exact(own_batches(DATA, Restless(10)), 1, 0, skip=3)


def test_the_log_says_what_was_re_made(caplog):
    caplog.set_level(logging.INFO)
    for make in (unrepeated, shard):
        make_exact(make(DATA, 2, 0, 2), 2, 0)
    make_exact(padded(DATA, 2, 1, 2), 2, 1)
    make_exact(sequential(DATA, 1, 0, 2), 1, 0)
    assert not caplog.records  # exact already, the other rank, one rank
    make_exact(padded(DATA, 2, 0, 2), 2, 0)
    make_exact(sequential(DATA, 2, 0, 2), 2, 0)
    said = [record.message for record in caplog.records]
    assert (
        len(said) == 2
        and "DistributedSampler repeats images" in said[0]
        and "gives every rank all images" in said[1]
    )
    assert all(
        message.startswith("DataLoader of Numbers was re-made") and "10 images" in message for message in said
    )
