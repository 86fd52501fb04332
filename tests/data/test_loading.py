"""Loaders that share exactly, skip what was done, and outlive their workers."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.overrides.distributed import (
    UnrepeatedDistributedSampler,
    UnrepeatedDistributedSamplerWrapper,
)
from lightning.pytorch.overrides.distributed import _IndexBatchSamplerWrapper as Noting
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
)

from ants_lightning.data.loading import keep_exact, make_exact
from ants_lightning.data.stream_loader import MOST_RESTARTS, Shard, StreamLoader


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


class Restless(Backwards):
    """Another order each time."""

    def __iter__(self):
        self.n_asked = getattr(self, "n_asked", 0) + 1
        return iter([(i + self.n_asked) % self.n for i in range(self.n)])


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
    return DataLoader(data, size, sampler=Shard(range(len(data)), world, rank))


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


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_killed_worker_costs_no_image(tmp_path, caplog, shuffle):
    data = Numbers(60, tmp_path, deadly=(0, 7, 30, 59))
    loader = make_exact(
        DataLoader(data, 4, num_workers=2, shuffle=shuffle, generator=torch.Generator().manual_seed(5)), 1, 0
    )
    found = lists(loader)
    if shuffle:
        expected = torch.randperm(60, generator=torch.Generator().manual_seed(5)).split(4)
        assert found == [batch.tolist() for batch in expected]
    else:
        assert found == dealt(range(60), 1, 0, 4)
    said = [record.message for record in caplog.records if "restart" in record.message]
    assert len(said) == loader.restarts and 1 <= loader.restarts <= 4  # two workers may die at once
    for i, message in enumerate(said):
        assert message.startswith("DataLoader worker (pid") and f"restart {i + 1} of this loader" in message


def test_a_worker_killed_while_a_step_runs_does_not_end_the_step(caplog):
    handler = signal.getsignal(signal.SIGCHLD)
    loader = make_exact(DataLoader(Numbers(200), 4, num_workers=2), 2, 1, skip=1)
    found = []
    for k, batch in enumerate(loader):
        if k in (3, 4, 11):
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            time.sleep(0.2)  # the news come here
        found.append(batch)
    assert lists(found) == [None, *dealt(range(200), 2, 1, 4)[1:]]
    assert (
        loader.restarts == 3
        and "going" not in caplog.text
        and "Loading goes on at batch 4 (restart 1" in caplog.text
    )
    assert (
        signal.getsignal(signal.SIGCHLD) is handler
        or "signal_handling" in signal.getsignal(signal.SIGCHLD).__code__.co_filename
    )


class Deadly(BatchSampler):
    """Kills a worker in the middle of its work, and waits until the news are here."""

    def __iter__(self):
        for k, batch in enumerate(super().__iter__()):
            if k == 6:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
                time.sleep(0.2)
            yield batch


def test_a_worker_killed_while_the_sampler_is_asked_does_not_end_the_sampler():
    loader = make_exact(
        DataLoader(Numbers(60), batch_sampler=Deadly(SequentialSampler(range(60)), 4, False), num_workers=2),
        1,
        0,
    )
    assert lists(loader) == dealt(range(60), 1, 0, 4) and loader.restarts == 1


def test_workers_that_are_killed_again_and_again_end_the_run(tmp_path, caplog):
    loader = make_exact(
        DataLoader(Numbers(12, tmp_path, deadly=(6,), again=True), 4, num_workers=1), 1, 0, skip=1
    )
    iterator = iter(loader)
    assert next(iterator) is None
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid"):
        next(iterator)
    assert (
        loader.restarts == MOST_RESTARTS and caplog.text.count("Loading goes on at batch 1 ") == MOST_RESTARTS
    )


class Missing(Numbers):
    def __getitem__(self, i):
        raise FileNotFoundError(f"image {i}")


def test_an_error_in_the_data_set_is_no_killed_worker():
    loader = make_exact(DataLoader(Missing(4), 2, num_workers=1), 1, 0)
    with pytest.raises(FileNotFoundError, match="image 0"):
        lists(loader)
    assert loader.restarts == 0


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
    "rank 1 of 2, on rank 0 of 2": DataLoader(DATA, 2, sampler=Shard(range(10), 2, 1)),
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


class Plain(L.LightningModule):
    """Keeps what comes, by loader."""

    def __init__(self, skip=()):
        super().__init__()
        self.skip, self.seen, self.ends = skip, {}, []
        self.layer = torch.nn.Linear(1, 1)

    def setup(self, stage):
        keep_exact(self.trainer, self.skip)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen[dataloader_idx, batch_idx] = batch if batch is None else batch[0].flatten().tolist()
        return None if batch is None else {"n": len(batch[0])}

    predict_step = test_step

    def training_step(self, batch, batch_idx):
        self.seen["train", batch_idx] = batch[0].flatten().tolist()
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def on_test_batch_end(self, outputs, batch, batch_idx, dataloader_idx=0):
        assert (outputs is None) == (batch is None)
        self.ends.append((dataloader_idx, batch_idx))


def numbers(n, size=4, **settings):
    return DataLoader(TensorDataset(torch.arange(n)[:, None].float()), size, **settings)


def trainer_in(folder, **settings):
    quiet = dict(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    return L.Trainer(default_root_dir=folder, **quiet, **settings)


@pytest.mark.parametrize("stage", ["test", "predict"])
def test_skipped_batches_pass_through_lightning(tmp_path, stage):
    module, trainer = Plain(skip=[3, 0, 2]), trainer_in(tmp_path, enable_progress_bar=True)
    loaders = [numbers(12), numbers(6, num_workers=1), numbers(10)]
    given = trainer.strategy.process_dataloader
    processed = []
    trainer.strategy.process_dataloader = lambda loader: processed.append(loader) or given(loader)
    outputs = getattr(trainer, stage)(module, loaders)
    expected = {
        (0, 0): None,
        (0, 1): None,
        (0, 2): None,
        (1, 0): [0, 1, 2, 3],
        (1, 1): [4, 5],
        (2, 0): None,
        (2, 1): None,
        (2, 2): [8, 9],
    }
    assert module.seen == expected
    if stage == "predict":
        assert [[o and o["n"] for o in of] for of in outputs] == [[None] * 3, [4, 2], [None, None, 2]]
    else:
        assert module.ends == list(expected)
    assert [type(loader) for loader in processed] == [
        StreamLoader
    ] * 3  # the strategy's own part is still done

    module.skip, module.seen = [0, 1], {}  # a second run counts loaders anew, and is wrapped once
    getattr(trainer, stage)(module, loaders)
    assert [key for key, batch in module.seen.items() if batch is None] == [(1, 0)] and len(module.seen) == 8
    assert len(processed) == 6


def test_training_and_other_modules_are_left_alone(tmp_path):
    module, trainer = Plain(skip=[1, 1]), trainer_in(tmp_path, enable_progress_bar=False, max_epochs=1)
    trainer.fit(module, numbers(8))
    assert module.seen == {("train", 0): [0, 1, 2, 3], ("train", 1): [4, 5, 6, 7]}
    module.seen.clear()
    trainer.test(module, numbers(8), verbose=False)
    assert module.seen == {(0, 0): None, (0, 1): [4, 5, 6, 7]}

    class Other(Plain):
        def setup(self, stage):
            pass

    other = Other()
    trainer.test(other, [numbers(8, shuffle=True), numbers(8)], verbose=False)
    assert None not in other.seen.values() and len(other.seen) == 4


SCRIPT = """
import json
import logging
import sys
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader, TensorDataset

from ants_lightning.data.loading import keep_exact


class Module(L.LightningModule):
    def setup(self, stage):
        keep_exact(self.trainer, [1, 0, 0])
        self.seen = []

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen.append([dataloader_idx, batch_idx, batch and batch[0].tolist()])

    predict_step = test_step


class Evens:
    def __init__(self, order):
        self.order = order

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


folder = Path(sys.argv[1])
trainer = L.Trainer(
    accelerator="cpu", devices=2, logger=False, enable_progress_bar=False, enable_checkpointing=False,
    enable_model_summary=False,
)
data, module = TensorDataset(torch.arange(101)), Module()
loaders = [DataLoader(data, 8), DataLoader(data, 5, sampler=Evens(range(0, 101, 2)))]
loaders.append(DataLoader(data, 3, sampler=[42]))
logging.getLogger("ants_lightning").setLevel(logging.INFO)
logging.basicConfig()
trainer.test(module, loaders, verbose=False)
(folder / f"test_{trainer.global_rank}.json").write_text(json.dumps(module.seen))
trainer.predict(module, loaders[:2])
(folder / f"predict_{trainer.global_rank}.json").write_text(json.dumps(module.seen))
try:
    trainer.test(module, DataLoader(data, 5, sampler=Evens([trainer.global_rank, 5, 6])), verbose=False)
except ValueError as error:
    (folder / f"error_{trainer.global_rank}.json").write_text(json.dumps(str(error)))
trainer.test(module, [DataLoader(data, 3, sampler=[42]), DataLoader(data, 3, sampler=[7])], verbose=False)
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_ranks_of_lightning_see_every_image_of_foreign_loaders_once(tmp_path):
    import json

    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        timeout=200,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (
        done.returncode == 1 and "ValueError: 2 ranks, and no stream has more than 1 images" in done.stderr
    ), done.stderr[-3000:]
    for what in ("test", "predict"):
        for rank in range(2):
            seen = json.loads(Path(tmp_path / f"{what}_{rank}.json").read_text("utf-8"))
            expected = [
                dealt(range(101), 2, rank, 8),
                dealt(range(0, 101, 2), 2, rank, 5),
                dealt([42], 2, rank, 3),
            ]
            expected[0][0] = None
            loaders = expected if what == "test" else expected[:2]
            assert seen == [
                [i, k, batch] for i, batches in enumerate(loaders) for k, batch in enumerate(batches)
            ]
    for rank in range(2):
        assert "differs between ranks" in json.loads((tmp_path / f"error_{rank}.json").read_text("utf-8"))
    assert done.stderr.count("was re-made, for its DistributedSampler ") == 1
    assert done.stderr.count("was re-made, for its DistributedSamplerWrapper ") == 4


class Notes(BasePredictionWriter):
    """What Lightning says that each batch held."""

    def __init__(self):
        super().__init__("batch")
        self.seen = []

    def write_on_batch_end(
        self, trainer, pl_module, prediction, batch_indices, batch, batch_idx, dataloader_idx
    ):
        self.seen.append(batch_indices)


@pytest.mark.parametrize("asked", [False, True])
def test_indices_are_noted_in_prediction_only_where_somebody_asks(asked):
    class Module(L.LightningModule):
        def setup(self, stage):
            keep_exact(self.trainer)

        def predict_step(self, batch, batch_idx):
            return batch

    notes = Notes()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[notes] if asked else [],
    )
    trainer.predict(Module(), DataLoader(torch.arange(7), batch_size=3), return_predictions=False)
    expected = [[0, 1, 2], [3, 4, 5], [6]]
    assert notes.seen == (expected if asked else [])
    assert getattr(trainer.predict_dataloaders.batch_sampler, "seen_batch_indices", []) == (
        expected if asked else []
    )
