"""Exact loading in the loops of Lightning."""

import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from loading_parts import dealt, numbers
from torch.utils.data import (
    DataLoader,
)

from ants_lightning.data.loading import keep_exact
from ants_lightning.data.stream_loader import StreamLoader


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
