"""Data sets and loaders for the tests of exact loading."""

import os
import signal

import torch
from lightning.pytorch.overrides.distributed import (
    UnrepeatedDistributedSampler,
)
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    TensorDataset,
)

from ants_lightning.data.stream_loader import RankShare


class Numbers(Dataset):
    """Images 0, 1, …: each is its own number. `read` and `killed` are files, as workers share no memory."""

    def __init__(self, n, folder=None, deadly=(), again=False):
        self.n, self.folder, self.deadly, self.again = n, folder, deadly, again

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if self.folder is not None:
            (self.folder / f"read_{i}").touch()
        if i in self.deadly and (self.again or not (self.folder / f"killed_{i}").exists()):
            (self.folder / f"killed_{i}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return i


class Backwards:
    """A sampler of one's own, the same each time."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        return iter(range(self.n - 1, -1, -1))

    def __len__(self):
        return self.n


def lists(loader):
    """The batches as lists of numbers; None as it is."""
    return [batch.tolist() if isinstance(batch, torch.Tensor) else batch for batch in loader]


def dealt(order, world, rank, size):
    """The batches of a rank, one image after another: the reference."""
    batches, mine = [], 0
    for place, image in enumerate(order):
        if place % world == rank:
            if mine % size == 0:
                batches.append([])
            batches[-1].append(image)
            mine += 1
    return batches


def sequential(data, world, rank, size):
    return DataLoader(data, size)


def padded(data, world, rank, size):
    return DataLoader(data, size, sampler=DistributedSampler(data, world, rank, shuffle=False))


def unrepeated(data, world, rank, size):
    return DataLoader(data, size, sampler=UnrepeatedDistributedSampler(data, world, rank, shuffle=False))


def shard(data, world, rank, size):
    return DataLoader(data, size, sampler=RankShare(range(len(data)), world, rank))


def numbers(n, size=4, **settings):
    return DataLoader(TensorDataset(torch.arange(n)[:, None].float()), size, **settings)
