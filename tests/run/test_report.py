"""What a test run writes at its end, and what it leaves alone."""

import json
import os

import lightning as L
import pytest
from report_parts import make_model
from safetensors.torch import load_file

from ants_lightning import ANTS, Report, demo
from ants_lightning.common.run_folder import RunFolder
from ants_lightning.run import results as results_file

SIDE = ["labels.safetensors", "labels.txt", "order.safetensors"]


def data_of(n=8, **settings):
    return demo.DemoDataModule(seed=7, n_id=n, n_ood=n, batch_size=8, **settings)


class Started(L.Callback):
    batches = 0

    def on_test_batch_start(self, *args, **more):
        self.batches += 1


def evaluate(folder, *callbacks, model=None, data=None, **settings):
    report = Report()
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, report],
        **settings,
    )
    trainer.test(model or make_model(), data or data_of(), verbose=False)
    return report


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".ants_lightning."))


def read(path):
    return json.loads(path.read_text("utf-8"))


def test_what_is_written(tmp_path, capsys):
    report = evaluate(tmp_path)
    assert visible(tmp_path) == [*SIDE, "results.json"]
    assert (
        read(tmp_path / "results.json") == json.loads(json.dumps(report.results))
        and "limited" not in report.results
    )
    assert set(load_file(tmp_path / "order.safetensors")) == set(report.results["streams"])
    assert capsys.readouterr().out.splitlines()[-1] == f"results: {tmp_path / 'results.json'}"


@pytest.mark.parametrize("content", ["precious", '{"streams": {}}'])
def test_results_of_somebody_else_end_the_run_before_its_first_batch(tmp_path, content):
    (tmp_path / "results.json").write_text(content)
    started = Started()
    with pytest.raises(ValueError, match=r"holds results\.json, which no run wrote, .*default_root_dir"):
        evaluate(tmp_path, started)
    assert (
        started.batches == 0
        and (tmp_path / "results.json").read_text() == content
        and visible(tmp_path) == ["results.json"]
    )


def test_results_that_were_edited_end_the_run_before_its_first_batch(tmp_path):
    evaluate(tmp_path)
    with (tmp_path / "results.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="or which was edited since"):
        evaluate(tmp_path)


@pytest.mark.parametrize("name", SIDE)
def test_other_files_of_somebody_else_stay_and_cost_only_themselves(tmp_path, caplog, name):
    (tmp_path / name).write_text("precious")

    class Told(L.Callback):
        def on_test_start(self, trainer, pl_module):
            self.text = caplog.text

    told = Told()
    evaluate(tmp_path, told)
    assert (
        tmp_path / name
    ).read_text() == "precious" and f"{tmp_path / name} stays as it is: no run wrote it" in told.text
    pair = {"labels.txt", "labels.safetensors"} if name.startswith("labels") else {name}
    assert set(visible(tmp_path)) == {"results.json", name, *SIDE} - (pair - {name})
    assert caplog.text.count(name) == 1


def test_side_files_of_an_earlier_run_go_where_this_one_has_none(tmp_path):
    evaluate(tmp_path)
    evaluate(tmp_path, model=ANTS(demo.CLIP))
    assert visible(tmp_path) == ["order.safetensors", "results.1.json", "results.json"]


def test_the_same_run_replaces_its_results_and_another_keeps_them_beside(tmp_path, capsys):
    evaluate(tmp_path)
    first = (tmp_path / "results.json").read_bytes()
    evaluate(tmp_path)
    assert visible(tmp_path) == [*SIDE, "results.json"]
    (tmp_path / "results.1.json").write_text("precious")
    model, data = make_model(temperature=0.05), data_of(12)
    changes = [{"model": model}, {"data": data}, {"limit_test_batches": 1}, {"limit_test_batches": 1.0}]
    capsys.readouterr()
    for n, change in enumerate(changes, 2):
        before = (tmp_path / "results.json").read_bytes()
        evaluate(tmp_path, **change)
        assert (tmp_path / f"results.{n}.json").read_bytes() == before
        told = f"results of an earlier run, of other settings or streams: {tmp_path / f'results.{n}.json'}"
        assert told in capsys.readouterr().out.splitlines()
    assert (tmp_path / "results.1.json").read_text() == "precious" and (
        tmp_path / "results.2.json"
    ).read_bytes() == first
    assert read(tmp_path / "results.5.json")["limited"] == {"limit_test_batches": 1}
    evaluate(tmp_path, data=data_of(8))  # as the newest: in place
    assert not (tmp_path / "results.6.json").exists()


def test_another_seed_benchmark_model_or_stream_is_another_run(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim("x")
    streams = {"s": {"group": "near", "n_id": 1, "n_ood": 2}}
    results = {"streams": streams, "seed": 0, "benchmark": "a", "settings": {"model": {"x": (1,)}}}
    results_file.write_results(folder, results)
    assert (
        len(results_file.write_results(folder, {**results, "settings": {"model": {"x": [1]}}, "versions": 2}))
        == 1
    )
    other_size = {"streams": {"s": {**streams["s"], "n_ood": 3}}}
    for n, change in enumerate(
        ({"seed": 1}, {"benchmark": "b"}, {"model": {}}, other_size, {"streams": {"t": streams["s"]}}), 1
    ):
        results = {**results, **change}
        assert f"results.{n}.json" in results_file.write_results(folder, results)[0]
    folder.release("x")


def test_fast_dev_run_leaves_everything_alone_and_shows_its_table(tmp_path, capsys):
    evaluate(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    report = evaluate(tmp_path, fast_dev_run=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    shown = capsys.readouterr().out
    assert "neglabel" in shown and shown.endswith("a trial (fast_dev_run): nothing was written\n")
    assert report.results["limited"] == {"limit_test_batches": 1}


class Unwritable(L.Callback):
    """Takes the folder away at the end of the epoch: nothing can be written to it."""

    def on_test_epoch_end(self, trainer, pl_module):
        root = trainer.default_root_dir
        os.rename(root, f"{root}.away")
        with open(root, "w"):
            pass


def test_a_disk_that_fails_at_the_end_costs_the_files_and_not_the_table(
    tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setattr(results_file.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    report = evaluate(tmp_path / "run", Unwritable())
    shown = capsys.readouterr().out
    assert "neglabel" in shown and f"The results are in {tmp_path / 'results.json'}" in " ".join(
        shown.split()
    )
    assert read(tmp_path / "results.json") == json.loads(json.dumps(report.results))
    for name in (
        "results.json could not be written",
        "labels.txt: not written",
        "order.safetensors: not written",
    ):
        assert caplog.text.count(f"run/{name}: ") == 1
    assert not os.path.getsize(tmp_path / "run")


def test_without_a_place_for_the_results_that_is_told(tmp_path):
    folder = RunFolder(tmp_path / "run")

    def full(prefix):
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results_file.tempfile, "mkdtemp", full)
        told = results_file.rescue_results(folder, {"a": 1}, OSError(28, "No space left on device", "x"))
    assert told.endswith(
        "The results are in no file ([Errno 28] No space left on device): keep what is shown"
    )


def test_old_results_stay_under_their_name_when_the_new_ones_cannot_be_written(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.claim("x")
    old = {"streams": {}, "seed": 0}
    results_file.write_results(folder, old)
    monkeypatch.setattr(
        "pathlib.Path.write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space left"):
        results_file.write_results(folder, {"streams": {}, "seed": 1})
    folder.release("x")
    assert read(tmp_path / "results.json") == old and visible(tmp_path) == ["results.json"]


def test_a_run_beside_another_in_one_folder_is_refused_and_the_first_is_whole(tmp_path):
    class Other(L.Callback):
        def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            if (batch_idx, dataloader_idx) == (1, 1):
                with pytest.raises(
                    ValueError,
                    match=rf"another run \(process {os.getpid()} on .*\) is under way in {tmp_path}:",
                ):
                    evaluate(tmp_path)

    evaluate(tmp_path, Other())
    assert len(read(tmp_path / "results.json")["streams"]) == 3
    evaluate(tmp_path)


def test_the_folder_is_free_after_an_exception(tmp_path):
    class Failing(L.Callback):
        def on_test_batch_end(self, *args, **more):
            raise KeyError("power")

    with pytest.raises(KeyError):
        evaluate(tmp_path, Failing())
    evaluate(tmp_path)
