"""A data module that knows nothing of this package, and everything that can be wrong with a user's input."""

import json

import lightning as L
import pytest
import torch
from small import merged
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.transforms.functional import pil_to_tensor

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES
from ants_lightning.mllm import TransformersMLLM
from ants_lightning.run.snapshots import Snapshots

NOUNS, ADJECTIVES = demo.WORDS["nouns"], demo.WORDS["adjectives"]
N = 36  # images of each kind
FIRST = 2  # questions before the stream: a picture and a name


class ForeignDataModule(L.LightningDataModule):
    """Plain `(image, label)` batches, from one loader or a dict of loaders."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def test_dataloader(self):
        if isinstance(self.data, dict):
            return {name: DataLoader(data, batch_size=10) for name, data in self.data.items()}
        return DataLoader(self.data, batch_size=10)


class RecordingMLLM:
    """Keeps what it is shown; raises on every `fail_every`-th call."""

    def __init__(self, fail_every=0):
        self.fail_every, self.calls, self.asked, self.failed = fail_every, 0, 0, 0
        self.images, self.avoid = [], []
        self.device = None

    def setup(self, device):
        self.device = device

    def _count(self, questions):
        self.calls += 1
        self.asked += len(questions)
        if self.fail_every and self.calls % self.fail_every == 0:
            self.failed += len(questions)
            raise RuntimeError("out of order")

    def describe(self, images, avoid):
        self._count(images)
        self.images += images
        self.avoid += avoid
        return [f"a {ADJECTIVES[i % 5]} {NOUNS[i % 7]}" for i in range(len(images))]

    def similar_classes(self, names, count=5):
        self._count(names)
        return [[f"odd {name}", f"strange {name}"] for name in names]


def make_model(**changes):
    words = {"nouns": NOUNS, "adjectives": ADJECTIVES, "keep": 0.7}
    return ANTS(
        demo.CLIP,
        pretrained=None,
        **merged(changes, {"class_names": ID_CLASSES, "negatives": words, "num_groups": 5}),
    )


def tensors(model, drawn, label=None):
    """A `TensorDataset` of preprocessed drawings."""
    labels = [place if label is None else label for _, place in drawn]
    return TensorDataset(torch.stack([model.preprocess(image) for image, _ in drawn]), torch.tensor(labels))


def mixed(model, seed):
    """ID and OOD drawings in turn, and their pixels `(2N, 3, h, w)`."""
    known, unknown = demo.DrawnImages(ID_CLASSES, N, seed), demo.DrawnImages(NEAR_CLASSES, N, seed + 1)
    turns = torch.arange(2 * N).view(2, N).T.flatten()
    parts = zip(tensors(model, known).tensors, tensors(model, unknown, -1).tensors, strict=True)
    data = TensorDataset(*(torch.cat(pair)[turns] for pair in parts))
    pixels = torch.stack([pil_to_tensor(image) for images in (known, unknown) for image, _ in images])
    return data, pixels[turns]


def make_trainer(folder, *callbacks):
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, Report()],
    )


def memory(mllm, **settings):
    return NegativeMemory(mllm, schedule={"every": 2, "min_images": 20}, vsnl={"delta": 0.5}, **settings)


def read(folder):
    return json.loads((folder / "results.json").read_text("utf-8"))


@pytest.mark.parametrize("several", [False, True], ids=["one loader", "dict of loaders"])
def test_foreign_module_end_to_end(tmp_path, several):
    model, mllm = make_model(), RecordingMLLM()
    streams = {name: mixed(model, seed) for name, seed in (("left", 1), ("right", 11))}
    if not several:
        streams = {"test": streams["left"]}
    data = {name: data for name, (data, _) in streams.items()}
    trainer = make_trainer(tmp_path, memory(mllm))
    trainer.test(model, ForeignDataModule(data if several else data["test"]), verbose=False)

    results = read(tmp_path)
    assert list(results["streams"]) == list(streams)
    assert list(results["groups"]) == ["ood"]
    for stream in results["streams"].values():
        assert (stream["n_id"], stream["n_ood"]) == (N, N)
        assert stream["mllm_calls"] > 0
        assert stream["mllm_failures"] == 0
        assert stream["n_vsnl"] > 0
        assert set(stream["scores"]) == {"mcm", "neglabel", "ens", "vsnl", "ants"}
    assert sum(stream["mllm_calls"] for stream in results["streams"].values()) == mllm.asked - FIRST
    assert mllm.device == torch.device("cpu")

    # The images shown are those of the stream, de-normalised, each with its own predicted name, stream after
    # stream.
    pixels = torch.cat([pixels for _, pixels in streams.values()]).int()
    shown = torch.stack([pil_to_tensor(image) for image in mllm.images[1:]]).int()
    distance = torch.stack([(pixels - image).abs().amax((1, 2, 3)) for image in shown])
    nearest, place = distance.min(1)
    assert nearest.max() <= 1
    assert len(place.unique()) == len(place)  # none is described twice
    assert set((place // (2 * N)).tolist()) == set(range(len(streams)))
    assert (place // (2 * N)).diff().ge(0).all()
    prediction = model(torch.cat([d.tensors[0] for d in data.values()]))["prediction"][place]
    assert mllm.avoid[1:] == [ID_CLASSES[i] for i in prediction.tolist()]


def test_one_class_stream_is_refused_by_name_after_the_others_are_reported(tmp_path):
    model = make_model()
    only_id = tensors(model, demo.DrawnImages(ID_CLASSES, N, 5))
    data = {"known only": only_id, "good": mixed(model, 1)[0]}
    with pytest.raises(ValueError, match=r"stream 'known only'.*36 ID and 0 OOD"):
        make_trainer(tmp_path, memory(RecordingMLLM())).test(model, ForeignDataModule(data), verbose=False)
    streams = read(tmp_path)["streams"]
    assert list(streams) == ["good"]
    assert 0 <= streams["good"]["scores"]["ants"]["auroc"] <= 1
    assert streams["good"]["mllm_calls"] > 0


def test_mllm_that_raises_on_every_third_call_is_counted_and_asked_again(tmp_path, caplog):
    model, mllm = make_model(), RecordingMLLM(fail_every=3)
    make_trainer(tmp_path, memory(mllm)).test(model, ForeignDataModule(mixed(model, 1)[0]), verbose=False)
    stream = read(tmp_path)["streams"]["test"]
    assert mllm.calls >= 3
    assert stream["mllm_calls"] == mllm.asked - FIRST
    assert stream["mllm_failures"] == mllm.failed > 0
    assert stream["n_vsnl"] > 0
    assert (stream["n_id"], stream["n_ood"]) == (N, N)
    warnings = [record.getMessage() for record in caplog.records if "out of order" in record.getMessage()]
    assert 1 <= len(warnings) <= 2  # once for each kind of question


def test_mllm_that_always_raises_leaves_neglabel(tmp_path):
    model, mllm = make_model(), RecordingMLLM(fail_every=1)
    trainer = make_trainer(tmp_path, memory(mllm, on_failure="continue"))
    trainer.test(model, ForeignDataModule(mixed(model, 1)[0]), verbose=False)
    stream = read(tmp_path)["streams"]["test"]
    assert (
        stream["mllm_failures"] == stream["mllm_calls"] == mllm.asked - 1 > 0
    )  # the first question was a picture alone
    assert stream["scores"]["ants"] == pytest.approx(stream["scores"]["neglabel"], abs=1e-3)


def test_missing_mllm_folder_is_an_error_before_the_run(tmp_path, monkeypatch):
    model, folder = make_model(), tmp_path / "no such model"
    monkeypatch.setattr(ANTS, "test_step", lambda *_: pytest.fail("the run has started"))
    with pytest.raises((OSError, ValueError), match="no such model"):
        trainer = make_trainer(tmp_path, memory(TransformersMLLM(str(folder))))
        trainer.test(model, ForeignDataModule(mixed(model, 1)[0]), verbose=False)
    assert not (tmp_path / "results.json").exists()


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
