"""Snapshots: what is on disk, when it is written, what is refused, and what a fault costs."""

import json
import logging
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException
from small import merged

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.run import snapshot_files as files
from ants_lightning.run.configuration import differences
from ants_lightning.run.snapshot_files import (
    list_snapshots,
    pack,
    partial,
    publish,
    read_share,
    sweep,
    unpack,
    write_share,
)
from ants_lightning.run.snapshots import Snapshots

CPU = torch.device("cpu")
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
STATE = {
    "floats": [torch.tensor([0.1, math.pi, -0.0], dtype=dtype) for dtype in FLOATS],
    "counts": torch.tensor([2**62, -1]),
    "flags": torch.tensor([[True], [False]]),
    "image": torch.arange(12, dtype=torch.uint8).view(3, 2, 2),
    "nothing": [torch.empty(0), torch.empty(0, 5, dtype=torch.long), torch.tensor(7)],
    "empty": {},
    "none": None,
    "odd": torch.tensor([torch.nan, torch.inf, -torch.inf, 1e-45]),
    "strided": torch.arange(12.0).view(3, 4).T[1:],
    "numbers": [0.1 + 0.2, 1e308 * 10, -1e308 * 10, -0.0, 2**70, True, False, 0, 5e-324],
    "names": {"a.b": ["naïve 犬 🐕 \x00 \u2028 \ud800 \"'\\"], "$tensor": 1, "$$": {"$float": "nan"}, "": []},
}


def same(one, two):
    """Equal to the last bit, types included."""
    if isinstance(one, torch.Tensor):
        raw = [x.contiguous().flatten().view(torch.uint8) for x in (one, two)] if one.numel() else []
        return one.dtype == two.dtype and one.shape == two.shape and (not raw or torch.equal(*raw))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return isinstance(two, list) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and repr(one) == repr(two)


def test_state_comes_back_to_the_last_bit(tmp_path):
    base = torch.arange(6.0)
    state = {**STATE, "shared": [base, base[2:], base], "nan": math.nan}
    write_share(tmp_path, 3, {"serial": 1}, state)
    about, tensors = read_share(tmp_path, 3)
    assert same(unpack(about["state"], tensors, CPU), state) and about["serial"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank3.json", "rank3.safetensors"]
    json.loads((tmp_path / "rank3.json").read_bytes(), parse_constant=pytest.fail)  # JSON knows no NaN


def test_tensors_of_the_device_go_back_to_it():
    tensors = {}
    tree = pack([torch.zeros(2), torch.zeros(2, device="meta")], tensors)
    here, there = unpack(tree, tensors, torch.device("meta"))
    assert (here.device.type, there.device.type) == ("cpu", "meta")


@pytest.mark.parametrize(
    "bad", [(1, 2), {1: 2}, {"a": {"b": [{1}]}}, {"a": object()}], ids=["tuple", "key", "set", "object"]
)
def test_what_would_not_come_back_is_no_state(bad):
    with pytest.raises(TypeError, match=r"^state"):
        pack(bad, {})


def test_every_damaged_byte_and_every_torn_file_is_noticed(tmp_path):
    write_share(
        tmp_path, 0, {"serial": 1}, {"features": torch.arange(24.0).view(6, 4), "names": ["dog", "cat"]}
    )
    random.seed(0)
    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        damaged = [whole[:n] for n in (0, 1, len(whole) // 2, len(whole) - 1)] + [whole + b"x", None]
        for place in random.sample(range(len(whole)), 60):
            damaged.append(
                whole[:place] + bytes([whole[place] ^ 1 << random.randrange(8)]) + whole[place + 1 :]
            )
        for content in damaged:
            path.unlink() if content is None else path.write_bytes(content)
            with pytest.raises(ValueError, match=path.name):
                read_share(tmp_path, 0)
        path.write_bytes(whole)
        read_share(tmp_path, 0)


def test_snapshots_appear_whole_and_the_newest_stay(tmp_path):
    for serial in range(8, 13):
        write_share(partial(tmp_path, serial), 0, {}, {"n": serial})
        before = list_snapshots(tmp_path)
        publish(tmp_path, serial, world=1, keep=3)
        assert [int(path.name) for path in list_snapshots(tmp_path)] == [
            serial,
            *(int(path.name) for path in before),
        ][:3]
    write_share(partial(tmp_path, 13), 0, {}, {})
    with pytest.raises(FileNotFoundError, match="no file of rank 1"):
        publish(tmp_path, 13, world=2, keep=3)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000010", "000011", "000012"]


def test_nothing_but_snapshots_is_listed_or_removed(tmp_path):
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "snapshots"
    write_share(elsewhere, 0, {}, {})
    write_share(root / "000004", 0, {}, {})
    write_share(root / "000007", 0, {}, {})
    theirs = [
        "000007/note.txt",
        "2024/monday.jpg",
        ".partial-000003/mine",
        ".partial-old/rank0.json",
        "000002",
        "rank0.json",
    ]
    for name in theirs:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("precious")
    (root / "000001").mkdir()
    (root / "000008").symlink_to(elsewhere)
    (root / "000003" / "rank0.json").mkdir(parents=True)
    write_share(partial(root, 9), 0, {}, {})
    assert [path.name for path in list_snapshots(root)] == ["000004"] and files.next_serial(root) == 2025
    sweep(root)
    for path in [*root.iterdir(), elsewhere / "rank0.json"]:
        if path.name not in ("000001", ".partial-old"):  # both could be ours, by what is in them
            files.remove(path)
    left = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if not path.is_dir() or path.is_symlink()
    )
    assert left == sorted([*theirs, "000007/rank0.json", "000007/rank0.safetensors", "000008"])
    assert sorted(path.name for path in elsewhere.iterdir()) == ["rank0.json", "rank0.safetensors"]
    assert (
        (root / "000003" / "rank0.json").is_dir()
        and not partial(root, 9).exists()
        and not (root / "000004").exists()
    )


def test_differences_are_named():
    then = {
        "memory": {"gamma": 0.9, "eta": 0.5, "mllm": None},
        "class_names": ["dog", "cat"],
        "streams": {"a": {"n": 1}},
    }
    now = {
        "memory": {"gamma": 0.8, "eta": 0.5, "delta": 1},
        "class_names": ["dog", "cow"],
        "streams": {"b": {"n": 1}},
    }
    assert differences(then, then) == []
    assert differences(then, now) == [
        "memory.gamma was 0.9, now 0.8",
        "memory.mllm was None, now absent",
        "memory.delta was absent, now 1",
        "class_names[1] was 'cat', now 'cow'",
        "streams.a was {'n': 1}, now absent",
        "streams.b was absent, now {'n': 1}",
    ]
    assert differences({"a": [1]}, {"a": [1, 2]}) == ["a was a list of 1, now a list of 2"]
    assert differences({"a": 1, "b": math.nan}, {"a": True, "b": math.nan}) == ["a was 1, now True"]


@pytest.mark.parametrize("name", ["every", "keep"])
def test_settings_out_of_range(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Snapshots(**{name: 0})


class Namer:
    """Answers that depend on the size of the question alone."""

    def setup(self, device):
        pass

    def identity(self):
        return {"model": "namer"}

    def describe(self, images, avoid):
        return [demo.WORDS["nouns"][sum(image.getpixel((5, 5))) % 40] for image in images]

    def similar_classes(self, names, count=5, images=None):
        return [[demo.WORDS["nouns"][(len(name) + k) % 40] for k in range(count)] for name in names]


class At(L.Callback):
    """Does something in the n-th batch of the run that is not skipped, after the memory and before the
    metrics; counts images.
    """

    def __init__(self, n=0, action=None):
        self.n, self.action, self.seen, self.images = n, action, 0, 0

    def state(self):
        return {"images": self.images, "where": torch.tensor([self.images])}

    def restore(self, trainer, pl_module, state):
        assert state["where"].tolist() == [state["images"]]
        self.images = state["images"]

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        if outputs is None:
            return
        self.seen += 1
        self.images += len(outputs["label"])
        if self.seen == self.n:
            self.action()


class Job:
    """Test runs of one configuration in one folder: 3 streams of 24 images, in batches of 4."""

    def __init__(self, folder):
        self.folder, self.snapshots = folder, folder / "snapshots"

    def run(
        self, at=None, every=2, resume=None, keep=2, last=False, model=None, data=None, mllm=None, **memory
    ):
        base = {"ens": {"size": 12}, "vsnl": {"delta": 0.5}, "schedule": {"every": 2, "min_images": 8}}
        memory = NegativeMemory(mllm or Namer(), **merged(memory, base))
        self.callback, self.at = Snapshots(every, resume, keep), at or At()
        callbacks = [memory, self.at, Report()]
        trainer = L.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=self.folder,
            callbacks=[*callbacks, self.callback] if last else [self.callback, *callbacks],
        )
        data = demo.DemoDataModule(seed=3, n_id=12, batch_size=4, **{"n_ood": 12, **(data or {})})
        trainer.test(model or self.make_model(), data, verbose=False)
        return self.results()

    @staticmethod
    def make_model(**settings):
        base = {"negatives": {"nouns": demo.WORDS["nouns"], "adjectives": [], "keep": 0.7}, "num_groups": 5}
        return ANTS(demo.CLIP, pretrained=None, **merged(settings, base))

    def results(self):
        results = json.loads((self.folder / "results.json").read_text("utf-8"))
        for stream in results["streams"].values():
            del stream["mllm_seconds"]
        return results

    def serials(self):
        return [int(path.name) for path in list_snapshots(self.snapshots)]

    def position(self):
        return read_share(list_snapshots(self.snapshots)[0], 0)[0]["position"]

    def interrupt(self, n, **settings):
        with pytest.raises(ZeroDivisionError):
            self.run(At(n, lambda: 1 / 0), **settings)
        return self.position()


@pytest.fixture
def job(tmp_path):
    return Job(tmp_path / "run")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of a run that nothing interrupts."""
    torch.set_num_threads(1)
    return Job(tmp_path_factory.mktemp("whole")).run(every=1000)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that ended in the fifth batch of the first stream."""
    torch.set_num_threads(1)
    job = Job(tmp_path_factory.mktemp("interrupted") / "run")
    assert job.interrupt(5) == [4]
    return job


@pytest.fixture
def again(interrupted, tmp_path):
    """A copy of it."""
    shutil.copytree(interrupted.folder, tmp_path / "run")
    return Job(tmp_path / "run")


def test_a_snapshot_every_so_many_batches_and_none_after_a_good_end(job, whole):
    seen = []
    assert job.run(At(18, lambda: seen.append((job.serials(), job.position()))), every=4) == whole
    assert seen == [([5, 4], [6, 6, 4])]  # after 0, 4, 8, 12 and 16 batches
    assert not job.snapshots.exists() and job.callback.n_failed == 0


@pytest.mark.parametrize("last", [False, True], ids=["before the memory", "after it"])
@pytest.mark.parametrize(("n", "position"), [(2, [1]), (7, [6, 0]), (12, [6, 5]), (18, [6, 6, 5])])
def test_an_exception_is_gone_on_from_as_if_it_had_not_been(job, whole, n, position, last):
    assert job.interrupt(n, every=1000, last=last) == position  # the batch that failed is done again
    assert job.run(resume="auto", last=last) == whole
    assert job.at.seen == 18 - sum(position) and job.at.images == 72 and not job.snapshots.exists()


@pytest.mark.parametrize("keep_record", [True, False], ids=["of this run", "of none"])
def test_before_a_batch_is_done_there_is_the_snapshot_of_the_start(job, whole, keep_record):
    """Answers that the killed run recorded count as asked; without the record they are asked again."""
    assert job.interrupt(3, every=1000) == [2]
    shutil.rmtree(job.snapshots / "000002")
    if not keep_record:
        (job.folder / "mllm.jsonl").unlink()
    assert (job.position(), job.serials()) == ([0], [1])
    assert job.run(resume="auto") == whole and job.at.seen == 18


def test_files_of_others_stay_in_the_folder(job, whole):
    theirs = [
        job.snapshots / name
        for name in ("monday.jpg", "2024/03/photo.jpg", "7/rank0.json", ".partial-8/notes")
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    (job.snapshots / "7" / "and more").touch()
    seen = []
    assert job.run(At(9, lambda: seen.extend(job.serials()))) == whole and seen == [2029, 2028]
    assert all(path.read_text() == "precious" for path in theirs) and not job.serials()


def test_a_file_in_the_place_of_the_folder_costs_the_snapshots(job, whole, caplog):
    job.folder.mkdir()
    job.snapshots.write_text("precious")
    assert job.run() == whole and job.snapshots.read_text() == "precious"
    assert job.callback.n_failed == 9 and caplog.text.count("a snapshot could not be written") == 1


def test_a_folder_that_was_there_stays_and_ours_goes(job, whole):
    job.snapshots.mkdir(parents=True)
    assert job.run() == whole and job.snapshots.is_dir()
    job.snapshots.rmdir()
    job.interrupt(3)
    job.run(resume="auto")
    assert job.at.seen == 16 and not job.snapshots.exists()


def test_fast_dev_run_writes_nothing_and_leaves_snapshots_alone(again, caplog):
    before = sorted(again.folder.rglob("*"))
    trainer = L.Trainer(
        accelerator="cpu",
        fast_dev_run=True,
        enable_progress_bar=False,
        default_root_dir=again.folder,
        callbacks=[Snapshots(every=1, resume="auto"), Report()],
    )
    trainer.test(
        again.make_model(), demo.DemoDataModule(seed=3, n_id=12, n_ood=12, batch_size=4), verbose=False
    )
    assert sorted(again.folder.rglob("*")) == before


def test_a_run_with_snapshots_of_an_earlier_one_counts_on(again, whole):
    assert again.serials() == [3, 2]  # after two batches and, as the fifth failed, after four
    (again.folder / "mllm.jsonl").unlink()
    assert again.interrupt(7, every=3) == [6, 0]
    assert again.serials() == [6, 5]
    assert again.run(resume="auto") == whole


def test_keyboard_interrupt(job, whole):
    with pytest.raises(SystemExit) as end:
        job.run(At(9, lambda: os.kill(os.getpid(), signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning has it ignored from here on
    assert end.value.code == 1 and job.position() == [6, 2]
    assert job.run(resume="auto") == whole


def test_sigterm_ends_the_run_at_once_and_the_batch_is_done_again(job, whole, caplog):
    told, before = [], signal.signal(signal.SIGTERM, lambda *_: told.append("the user's handler"))
    try:
        with pytest.raises(SIGTERMException) as end:
            job.run(At(9, lambda: os.kill(os.getpid(), signal.SIGTERM)), every=1000)
        assert end.value.code == 143 and job.position() == [6, 2] and told == ["the user's handler"]
        assert "SIGTERM: the run ends after [6, 2] batches" in caplog.text
        assert job.run(resume="auto") == whole and job.at.seen == 10
        for times in (2, 3):  # the user's handler is back
            os.kill(os.getpid(), signal.SIGTERM)
            assert len(told) == times
    finally:
        signal.signal(signal.SIGTERM, before)


class Terminated(Namer):
    """Gets SIGTERM at the n-th call of a kind, and would then hang."""

    def __init__(self, kind, n):
        self.kind, self.left = kind, n

    def tick(self, kind):
        self.left -= kind == self.kind
        if kind == self.kind and self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(100)

    def setup(self, device):
        self.tick("setup")

    def describe(self, images, avoid):
        self.tick("describe")
        return super().describe(images, avoid)

    def similar_classes(self, names, count=5, images=None):
        self.tick("similar")
        return super().similar_classes(names, count, images)


@pytest.mark.parametrize("last", [False, True], ids=["before the memory", "after it"])
@pytest.mark.parametrize(
    ("kind", "n", "position"),
    [
        ("setup", 1, None),
        ("describe", 1, None),
        ("describe", 2, [1]),
        ("similar", 3, [3]),
        ("describe", 6, [6, 3]),
    ],
)
def test_sigterm_ends_the_run_while_the_mllm_is_at_work(job, whole, kind, n, position, last):
    """The first description and the first names are asked for before the stream."""
    start = time.monotonic()
    with pytest.raises(SIGTERMException) as end:
        job.run(mllm=Terminated(kind, n), every=1000, last=last)
    assert time.monotonic() - start < 60 and end.value.code == 143
    assert (job.position() if position else job.serials() or None) == position
    assert job.run(resume="auto", last=last) == whole
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_sigterm_does_no_harm(job, whole, monkeypatch):
    """Here it comes while the first has a snapshot written."""
    write = files.write_share

    def write_late(*args):
        if job.at.seen == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return write(*args)

    monkeypatch.setattr(files, "write_share", write_late)
    with pytest.raises(SIGTERMException):
        job.run(At(9, lambda: os.kill(os.getpid(), signal.SIGTERM)), every=1000)
    assert job.position() == [6, 2] and job.run(resume="auto") == whole


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sigterm_where_no_exception_gets_out_of_ends_the_run_at_the_next_batch(job, whole):
    class Dying:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SIGTERMException):
        job.run(At(9, lambda: Dying() and None), every=1000)
    assert job.position() == [6, 3] and job.run(resume="auto") == whole and job.at.seen == 9


def test_sigterm_while_batches_are_skipped(again, whole):
    early = At()
    early.on_test_epoch_start = lambda *_: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        again.run(early, resume="auto")
    assert again.position() == [4] and again.serials() == [3, 2] and again.at.seen == 0
    assert again.run(resume="auto") == whole


def test_one_test_after_another_with_the_same_objects(again, whole):
    """What was resumed once is not skipped the second time."""
    model = again.make_model()
    assert again.run(resume="auto", model=model) == whole and again.at.seen == 14
    (again.folder / "mllm.jsonl").unlink()
    again.run(model=model)
    assert again.at.images == 72 and model._skip == []


def test_a_damaged_snapshot_is_named_and_the_one_before_is_used(again, whole, caplog):
    newest = list_snapshots(again.snapshots)[0]
    path = newest / "rank0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert again.run(resume="auto") == whole and again.at.seen == 16
    assert f"the snapshot {newest} is not good and left out: {path} cannot be read" in caplog.text


def test_without_a_good_snapshot_it_starts_from_the_beginning(again, whole, caplog):
    caplog.set_level(logging.INFO, "ants_lightning")
    for folder in list_snapshots(again.snapshots):
        (folder / "rank0.json").write_text("{}")
    with pytest.raises(ValueError, match="no good snapshot in"):
        again.run(resume=str(again.snapshots))
    shutil.rmtree(again.folder / "spaces", ignore_errors=True)
    (again.folder / "mllm.jsonl").unlink()
    assert again.run(resume="auto") == whole and again.at.seen == 18
    assert "the run starts from the beginning" in caplog.text


def test_a_folder_of_a_snapshot(again, whole):
    """Of another run too: its snapshots are read and left alone."""
    older, elsewhere = again.snapshots / "000002", Job(again.folder.with_name("elsewhere"))
    shutil.copytree(again.folder, elsewhere.folder)
    shutil.rmtree(elsewhere.snapshots)
    assert elsewhere.run(resume=str(older)) == whole and elsewhere.at.seen == 16
    assert again.serials() == [3, 2]
    with pytest.raises(ValueError, match="no good snapshot in 'no/such'"):
        again.run(resume="no/such")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"mining": {"gamma": 0.8}}, ["memory.mining.gamma was 0.9, now 0.8"]),
        (
            {"model": {"negatives": {"keep": 0.5}, "prompts": {"id": "a {}"}}},
            [
                "model.negatives.keep was 0.7, now 0.5",
                "model.prompts.id was 'The nice {}.', now 'a {}'",
                "labels was '",
            ],
        ),
        ({"model": {"negatives": {"nouns": demo.WORDS["nouns"][::-1]}}}, ["words was '"]),
        (
            {"model": {"threshold": 0.5}},
            ["threshold.setting was None, now 0.5", "threshold.at the start was None, now 0.5"],
        ),
        (
            {"data": {"n_ood": 8}},
            ["streams.lookalikes.ood_share was 0.5, now 0.4", "streams.scenes.size was 24, now 20"],
        ),
    ],
    ids=["memory", "model", "words", "threshold", "data"],
)
def test_another_configuration_is_refused_with_each_difference(again, changes, named):
    if "model" in changes:
        changes = {"model": again.make_model(**changes["model"])}
    with pytest.raises(ValueError, match="000003 is of another configuration: ") as error:
        again.run(resume="auto", **changes)
    assert all(text in str(error.value) for text in named), str(error.value)
    assert again.serials() == [3, 2] and again.at.seen == 0


def test_another_number_of_ranks_or_format_is_refused(again):
    folder = list_snapshots(again.snapshots)[0]
    about, tensors = read_share(folder, 0)
    about["state"] = unpack(about["state"], tensors, CPU)
    write_share(folder, 0, {**about, "format": 0}, about["state"])
    with pytest.raises(ValueError, match=r"configuration: snapshot\.format was 0, now 1$"):
        again.run(resume="auto")
    write_share(folder, 0, {**about, "world_size": 2}, about["state"])
    with pytest.raises(ValueError, match=r"trainer\.world_size was 2, now 1"):
        again.run(resume="auto")


def test_weights_are_part_of_the_configuration(again):
    model = again.make_model()
    for tower in (model.clip.visual, model.clip):
        next(tower.parameters()).mul_(1.5)
    with pytest.raises(ValueError, match=r"towers\.image_tower was '.*towers\.text_tower was '"):
        again.run(resume="auto", model=model)


def test_state_that_cannot_be_kept_costs_the_snapshots_not_the_run(job, whole, caplog, monkeypatch):
    monkeypatch.setattr(At, "state", lambda self: {"bad": (1,)})
    assert job.run() == whole and job.callback.n_failed == 9
    assert caplog.text.count("a snapshot could not be written") == 1
    assert (
        "state.callbacks.At 0.bad cannot be kept: tuple" in caplog.text
        and "9 snapshots could not be written" in caplog.text
    )


@pytest.fixture
def small_disk(job):
    """A disk of 8 MB for the snapshots."""
    job.snapshots.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(job.snapshots)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield job.snapshots
    subprocess.run(["umount", str(job.snapshots)], check=True)


def test_a_full_disk_costs_the_snapshots_not_the_run(job, whole, small_disk, caplog):
    seen = []

    def fill():
        seen.append(job.serials())
        try:
            with (small_disk / "ballast").open("wb") as file:
                while file.write(bytes(4096)):
                    file.flush()
        except OSError as error:
            seen.append(error.errno)

    class Look(At):
        def on_test_end(self, trainer, pl_module):
            seen.append(job.serials())
            seen.append(sorted(path.name for path in small_disk.iterdir()))
            for serial in seen[-2]:
                assert read_share(small_disk / f"{serial:06d}", 0)[0]["serial"] == serial

    assert job.run(Look(7, fill)) == whole
    assert seen == [[4, 3], 28, [4, 3], ["000003", "000004", "ballast"]]
    assert job.callback.n_failed == 5 and caplog.text.count("a snapshot could not be written") == 1
    assert "No space left on device" in caplog.text


def test_a_file_size_limit_costs_the_snapshots_not_the_run(job, whole):
    """In a process of its own: the limit holds for all files."""
    child = os.fork()
    if not child:
        try:
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))  # noqa: E731
            job.run(At(9, limit), every=4)
        except OSError:
            os._exit(2)  # of results.json
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert job.serials() == [3, 2] and job.position() == [6, 2]
    assert job.run(resume="auto") == whole
