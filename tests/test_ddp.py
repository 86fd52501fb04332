"""Two processes × batch 8 over gloo end in the same state as one process × batch 16."""

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file

from ants_lightning.metrics import detection_metrics

SCRIPT = '''
import sys
from pathlib import Path

import lightning as L
import torch
from PIL import ImageStat

from ants_lightning import ANTS, NegativeMemory, Report, demo
from ants_lightning.baselines import EOE, TANL, AdaNeg, Energy
from ants_lightning.cli import Trainer
from ants_lightning.demo.scenery import SCENES


class ColourMLLM:
    """Answers that depend on the image and the names alone."""

    def setup(self, device):
        pass

    def identity(self):
        return {"model": "colour"}

    def describe(self, images, avoid):
        answers = []
        for image, name in zip(images, avoid, strict=True):
            mean = [int(x) for x in ImageStat.Stat(image).mean]
            adjective = demo.WORDS["adjectives"][(mean[0] + len(name)) % len(demo.WORDS["adjectives"])]
            noun = demo.WORDS["nouns"][(mean[1] + 3 * mean[2]) % len(demo.WORDS["nouns"])]
            answers.append(f"a {adjective} {noun} no {mean[0]}")
        return answers

    def similar_classes(self, names, count=5, images=None):
        pairs = zip(names, images or [None] * len(names))
        numbers = [len(name) + (int(sum(ImageStat.Stat(image).mean)) if image else 0) for name, image in pairs]
        nouns = demo.WORDS["nouns"]
        return [[nouns[number * (k + 3) % len(nouns)] for k in range(count)] for number in numbers]


class Failing(ColourMLLM):
    """Raises on the second rank."""

    def describe(self, images, avoid):
        if torch.distributed.get_rank() == 1:
            raise OSError("no eyes here")
        return super().describe(images, avoid)


class Dump(L.Callback):
    """Keeps the scores and the label of every image, by stream and place in the stream."""

    def __init__(self):
        self.scores = {}

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        columns = {**outputs["scores"], "label": outputs["label"]}
        stream = self.scores.setdefault(list(pl_module.groups)[dataloader_idx], {})
        for i, index in enumerate(outputs["index"].tolist()):
            assert index not in stream
            stream[index] = {name: column[i].item() for name, column in columns.items()}


def main(folder, devices, batch_size, mllm, **settings):
    data = demo.DemoDataModule(n_id=61, n_ood=60, batch_size=batch_size)
    # 61 + 68 images: with two ranks the first has one batch more than the second.
    data.ood_sets["scenes"] = demo.DrawnImages(SCENES, 68, 9)
    model = ANTS(
        demo.CLIP, pretrained=None, nouns=demo.WORDS["nouns"], adjectives=demo.WORDS["adjectives"], keep=0.7, num_groups=5,
        baselines=[Energy(), EOE(), AdaNeg(), TANL(labels=20)],
    )
    dump = Dump()
    memory = NegativeMemory(
        mllm, refresh_every=2, min_images=30, delta=0.5, ens_size=60, similar_images=True, **settings
    )
    trainer = L.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        callbacks=[memory, dump, Report()],
    )
    trainer.test(model, data, verbose=False)
    torch.save(dump.scores, Path(folder) / f"scores_{trainer.global_rank}.pt")


def encode(folder, devices):
    """Encode the demo's data sets."""
    trainer = Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
    )
    data = demo.DemoDataModule(n_id=61, n_ood=60, batch_size=8, features=str(Path(folder) / "features"))
    return trainer.encode(ANTS(demo.CLIP, pretrained=None), data)


if __name__ == "__main__":
    if sys.argv[2] == "encode":
        encode(sys.argv[1], 2)
        sys.exit()
    if sys.argv[2] == "fail":
        main(sys.argv[1], 2, 8, Failing(), on_failure="raise")
    main(sys.argv[1], 2, 8, ColourMLLM())
'''


def start(script, folder, what="run", seconds=240):
    """Run the script and the rank that it starts; end both at the time limit. Returns the exit code and what was printed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder), what], env=env, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"two processes did not end within {seconds} s:\n{process.communicate()[0][-3000:]}")
    return process.returncode, output[-6000:]


def numbers(tree, path="") -> Iterator[tuple[str, float]]:
    """The numbers of nested dicts, by path."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{path}/{key}")
        elif isinstance(value, int | float) and key != "mllm_seconds":
            yield f"{path}/{key}", float(value)


def difference(what, one, two):
    """Of two trees with the same leaves: the largest difference, which is printed too."""
    first, second = dict(numbers(one)), dict(numbers(two))
    assert first.keys() == second.keys()
    size, path = max((abs(value - second[path]), path) for path, value in first.items())
    print(f"one process and two: largest difference of {what} {size:.1e}, {path}")
    return size


def measured(images):
    """The metrics of dumped scores, each image counted once."""
    is_ood = torch.tensor([image["label"] < 0 for image in images])
    names = [name for name in images[0] if name != "label"]
    scores = {name: torch.tensor([image[name] for image in images], dtype=torch.float64) for name in names}  # float32 would tie
    return {name: detection_metrics(column, is_ood) for name, column in scores.items()}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_ranks_equal_one(tmp_path):
    script, single, double = tmp_path / "script.py", tmp_path / "single", tmp_path / "double"
    script.write_text(SCRIPT, encoding="utf-8")
    single.mkdir()
    double.mkdir()
    code, output = start(script, double)
    assert code == 0, output
    module = runpy.run_path(str(script))
    module["main"](str(single), 1, 16, module["ColourMLLM"]())

    records = [sorted((folder / "mllm.jsonl").read_text("utf-8").splitlines()) for folder in (single, double)]
    assert records[0] == records[1] and len(records[0]) > 100

    one, two = (json.loads((folder / "results.json").read_text("utf-8"))["streams"] for folder in (single, double))
    everything = torch.load(single / "scores_0.pt", weights_only=True)
    shares = [torch.load(double / f"scores_{rank}.pt", weights_only=True) for rank in range(2)]
    for name, n_ood in (("lookalikes", 60), ("textures", 60), ("scenes", 68)):
        first, second = (share[name] for share in shares)
        assert not first.keys() & second.keys()  # every image on one rank
        assert len(first) - len(second) == 1
        for stream, images in ((one[name], everything[name]), (two[name], first | second)):
            assert (stream["n_id"], stream["n_ood"]) == (61, n_ood)
            assert len(images) == 61 + n_ood
            assert stream["scores"] == {key: pytest.approx(m) for key, m in measured(list(images.values())).items()}
            assert stream["mllm_calls"] > stream["mllm_failures"] == 0
            assert stream["n_vsnl"] > 0
            assert stream["lambda"] != 0.5
        assert difference(f"the scores of {name}", everything[name], first | second) < 1e-4  # cosines × 100 in float32
        adaptation = [{k: v for k, v in results[name].items() if k != "scores"} for results in (one, two)]
        assert difference(f"the adaptation to {name}", *adaptation) < 1e-5
        # Two images whose scores differ by less than rounding may change places: one pair is 1 / (61 · 60).
        metrics = [{k: {"auroc": v["auroc"]} for k, v in results[name]["scores"].items()} for results in (one, two)]
        assert difference(f"AUROC on {name}", *metrics) < 1e-3


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_ranks_encode_what_one_does(tmp_path):
    script, single, double = tmp_path / "script.py", tmp_path / "single", tmp_path / "double"
    script.write_text(SCRIPT, encoding="utf-8")
    code, output = start(script, double, "encode")
    assert code == 0, output
    module = runpy.run_path(str(script))
    assert module["encode"](str(single), 1) == ["id", "ood lookalikes", "ood textures", "ood scenes"]
    assert module["encode"](str(double), 1) == []  # all there, and known again
    files = sorted(path.name for path in (single / "features").iterdir())
    assert sorted(path.name for path in (double / "features").iterdir()) == files  # no parts are left
    for name in (file for file in files if file.endswith(".safetensors")):
        one, two = (load_file(folder / "features" / name) for folder in (single, double))
        assert len(one["label"]) == (61 if name == "id.safetensors" else 60)
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_on_failure_raise_ends_all_ranks(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    code, output = start(script, tmp_path, "fail", seconds=120)
    assert code != 0 and "rank 1: mllm.describe: OSError: no eyes here" in output
