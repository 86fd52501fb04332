"""Loaders that share exactly and skip what was done."""

import multiprocessing

import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.overrides.distributed import (
    UnrepeatedDistributedSamplerWrapper,
)
from lightning.pytorch.overrides.distributed import _IndexBatchSamplerWrapper as Noting
from loading_parts import Backwards, Numbers, dealt, lists, padded, sequential, shard, unrepeated
from torch.utils.data import (
    BatchSampler,
    DataLoader,
)

from ants_lightning.data.loading import make_exact
from ants_lightning.data.stream_loader import StreamLoader


def padded_backwards(data, world, rank, size):
    return DataLoader(
        data, size, sampler=DistributedSamplerWrapper(Backwards(len(data)), world, rank, shuffle=False)
    )


def predict_backwards(data, world, rank, size):
    sampler = UnrepeatedDistributedSamplerWrapper(Backwards(len(data)), world, rank, shuffle=False)
    return DataLoader(data, batch_sampler=Noting(BatchSampler(sampler, size, drop_last=False)))


@pytest.mark.parametrize("n", [1, 5, 24, 101])
@pytest.mark.parametrize("make", [sequential, padded, unrepeated, shard, padded_backwards, predict_backwards])
def test_each_rank_gets_its_images_once_and_in_order(make, n):
    for world in (2, 3, 4):
        if n < world and make in (unrepeated, predict_backwards):
            continue  # Lightning's samplers assert that every rank has an image
        for size in (1, 4):
            order = range(n)[::-1] if make in (padded_backwards, predict_backwards) else range(n)
            shares = []
            for rank in range(world):
                loader = make_exact(make(Numbers(n), world, rank, size), world, rank)
                shares.append(dealt(order, world, rank, size))
                assert lists(loader) == shares[-1] and len(loader) == len(shares[-1])
                assert len(loader.dataset) == n and loader.batch_size == size
            whole = dealt(order, 1, 0, world * size)  # batch k of all ranks is batch k of one rank with W·B
            together = [
                sorted(i for share in shares for i in (share[k] if k < len(share) else []))
                for k in range(len(whole))
            ]
            assert together == [sorted(batch) for batch in whole]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("world", "rank"), [(1, 0), (3, 1)])
def test_batches_that_are_skipped_are_not_read(tmp_path, workers, world, rank):
    expected = dealt(range(40), world, rank, 4)
    loader = make_exact(DataLoader(Numbers(40, tmp_path), 4, num_workers=workers), world, rank, skip=2)
    assert lists(loader) == [None, None, *expected[2:]] and len(loader) == len(expected)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"read_{i}" for batch in expected[2:] for i in batch
    }
    assert lists(loader) == [None, None, *expected[2:]]  # and a second time


def test_a_rank_without_the_last_batch_may_be_told_to_skip_it():
    loaders = [make_exact(DataLoader(Numbers(9), 2), 2, rank, skip=3) for rank in range(2)]  # 5 and 4 images
    assert [lists(loader) for loader in loaders] == [[None, None, None], [None, None]]
    assert (
        lists(make_exact(DataLoader(Numbers(9), 2), 1, 0, skip=6)) == [None] * 5
    )  # `Snapshots` says what differs


def test_no_worker_starts_where_all_is_skipped():
    iterator = iter(make_exact(DataLoader(Numbers(8), 4, num_workers=2), 1, 0, skip=2))
    before = multiprocessing.active_children()
    assert [next(iterator), next(iterator), next(iterator, "end")] == [None, None, "end"]
    assert multiprocessing.active_children() == before


def mark(worker):
    """A worker_init_fn: the worker's images know it."""
    torch.utils.data.get_worker_info().dataset.n += 1000


def negated(numbers):
    return -torch.tensor(numbers)


def test_what_the_loader_was_given_is_kept():
    generator = torch.Generator().manual_seed(3)
    given = dict(
        num_workers=1,
        collate_fn=negated,
        timeout=50,
        worker_init_fn=mark,
        prefetch_factor=5,
        persistent_workers=True,
        generator=generator,
        multiprocessing_context=multiprocessing.get_context("fork"),
        pin_memory=torch.cuda.is_available(),
    )
    loader = make_exact(DataLoader(Numbers(5), 2, **given), 2, 1)
    assert isinstance(loader, StreamLoader)
    assert {name: getattr(loader, name) for name in given} == given
    assert lists(loader) == [[-1, -3]]
    assert not multiprocessing.active_children()  # also where they would have persisted
