"""Foreign loaders and batches: taken, or refused in words."""

import lightning as L
import pytest
import torch
from foreign_parts import (
    ForeignDataModule,
    N,
    RecordingMLLM,
    make_model,
    make_trainer,
    memory,
    mixed,
    read,
    tensors,
)
from torch.utils.data import DataLoader, Subset, TensorDataset

from ants_lightning import demo
from ants_lightning.demo.shapes import ID_CLASSES
from ants_lightning.run.snapshots import Snapshots


class Batches:
    """A loader that is no torch DataLoader: no data set, no batch size, and a length only where asked for."""

    def __init__(self, data, size=10):
        self.data, self.size = data, size

    def __iter__(self):
        for start in range(0, len(self.data), self.size):
            yield tuple(column[start : start + self.size] for column in self.data.tensors)


class SizedBatches(Batches):
    def __len__(self):
        return -(-len(self.data) // self.size)


@pytest.mark.parametrize("kind", [Batches, SizedBatches])
def test_a_loader_that_is_no_dataloader_gives_what_a_dataloader_gives(tmp_path, kind):
    model = make_model()
    data, _ = mixed(model, 1)
    results = {}
    for name, loader in (("torch", DataLoader(data, 10)), ("own", kind(data))):
        (tmp_path / name).mkdir()
        mllm = RecordingMLLM()
        trainer = make_trainer(tmp_path / name, memory(mllm), Snapshots(every=3))
        trainer.test(model, loader, verbose=False)
        results[name] = read(tmp_path / name)["streams"]["test"]
        assert (results[name]["n_id"], results[name]["n_ood"], len(mllm.images) > 1) == (N, N, True)
    assert results["own"]["scores"] == results["torch"]["scores"]
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    predicted = trainer.predict(model, kind(data))
    assert sum(len(batch["prediction"]) for batch in predicted) == 2 * N


def test_a_foreign_set_with_attributes_of_our_names_is_no_stream_of_ours(tmp_path):
    model = make_model()
    data, _ = mixed(model, 1)
    data.description, data.order = "seventy-two drawings", ["as drawn"]
    make_trainer(tmp_path, Snapshots(every=3)).test(model, DataLoader(data, 10), verbose=False)
    assert "stream" not in read(tmp_path)["streams"]["test"]


@pytest.mark.parametrize(
    "shape", ["dict in a dict", "list in a dict", "list in a list", "batches as loaders"]
)
def test_nested_loaders_are_refused_in_words(tmp_path, shape):
    model = make_model()
    loader = DataLoader(mixed(model, 1)[0], 10)
    batch = next(iter(loader))
    loaders = {
        "dict in a dict": {"near": {"a": loader}, "far": {"b": loader}},
        "list in a dict": {"near": [loader]},
        "list in a list": [[loader], loader],
        "batches as loaders": [batch, batch],
    }[shape]
    with pytest.raises(
        ValueError,
        match=r"may return one loader, a list of loaders, or a dict of loaders .* is a (dict|list)",
    ):
        make_trainer(tmp_path).test(model, loaders, verbose=False)


def third(kind, n):
    return {
        "domain": torch.arange(n) // 30,
        "mask": (torch.arange(n) % 2).float(),
        "bool mask": torch.arange(n) % 2 == 0,
        "weight": torch.linspace(0, 1, n),
        "constant": torch.zeros(n, dtype=torch.long),
        "negative": torch.arange(n) - 1,
        "group of each batch": torch.arange(n) // 10 * 10 + torch.arange(n) % 10 // 2,
        "far off": torch.arange(n) * 1000,
        "metadata": torch.arange(2 * n).view(n, 2),
        "place in the batch": torch.arange(n) % 10,
    }[kind]


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize(
    "kind",
    [
        "domain",
        "mask",
        "bool mask",
        "weight",
        "constant",
        "negative",
        "group of each batch",
        "metadata",
        "place in the batch",
        "far off",
    ],
)
def test_a_third_element_that_is_no_index_is_refused_in_words(tmp_path, kind, sized):
    model = make_model()
    data, _ = mixed(model, 1)
    data = TensorDataset(*data.tensors, third(kind, len(data)))
    loader = DataLoader(data, 10) if sized else Batches(data)
    if (kind, sized) == ("far off", False):  # numbers of any size may be indices where the size is not known
        make_trainer(tmp_path).test(model, loader, verbose=False)
        return
    with pytest.raises(
        ValueError, match=r"index.*must be the place of each image in its data set; leave out what is"
    ):
        make_trainer(tmp_path).test(model, loader, verbose=False)


def test_an_index_in_any_order_and_of_a_part_of_a_set_is_taken(tmp_path):
    model = make_model()
    data, _ = mixed(model, 1)
    data = TensorDataset(*data.tensors, torch.arange(len(data)))
    part = Subset(Subset(data, range(len(data) - 1, 0, -1)), list(range(0, 60, 2)))
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    for _ in range(2):  # a run does not know the indices of the one before
        predicted = trainer.predict(model, DataLoader(part, 7))
        assert (
            torch.cat([batch["index"] for batch in predicted]).tolist()
            == list(range(2 * N - 1, 0, -1))[:60:2]
        )


def test_label_beyond_the_class_names(tmp_path):
    model = make_model()
    data = tensors(model, demo.DrawnImages(ID_CLASSES, N, 5), label=len(ID_CLASSES))
    with pytest.raises(ValueError, match=f"label {len(ID_CLASSES)} with {len(ID_CLASSES)} class names"):
        make_trainer(tmp_path).test(model, ForeignDataModule(data), verbose=False)


@pytest.mark.parametrize(
    ("class_names", "of_the_data", "message"),
    [
        (None, None, "no class names"),
        (None, [], "no class names"),
        (None, ["cat", "dog", "cat"], "twice.*cat"),
        (None, ["cat", " "], "class name 1"),
    ],
)
def test_bad_class_names_of_the_data_module(tmp_path, class_names, of_the_data, message):
    model, mllm = make_model(class_names=class_names), RecordingMLLM()
    module = ForeignDataModule(mixed(model, 1)[0])
    if of_the_data is not None:
        module.class_names = of_the_data
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, memory(mllm)).test(model, module, verbose=False)
    assert mllm.device is None  # refused before the MLLM was loaded


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "no class names"), (["cat", "dog", "cat"], "twice.*cat"), (["cat", ""], "class name 1")],
)
def test_bad_class_names_of_the_model(names, message):
    with pytest.raises(ValueError, match=message):
        make_model(class_names=names)


@pytest.mark.parametrize("which", ["nouns", "adjectives"])
def test_missing_word_file(tmp_path, which):
    path = str(tmp_path / "no such words.txt")
    mllm = RecordingMLLM()
    with pytest.raises((OSError, ValueError), match=r"no such words\.txt"):
        model = make_model(negatives={which: path})
        make_trainer(tmp_path, memory(mllm)).test(model, ForeignDataModule(mixed(model, 1)[0]), verbose=False)
    assert mllm.device is None


def test_no_negative_labels_for_the_callback(tmp_path):
    model = make_model(negatives={"nouns": [], "adjectives": []})
    module = ForeignDataModule(mixed(model, 1)[0])
    with pytest.raises(ValueError, match="negative labels"):
        make_trainer(tmp_path, memory(RecordingMLLM())).test(model, module, verbose=False)
