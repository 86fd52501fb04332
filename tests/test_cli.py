"""The command, through `main`, on every config."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pyarrow import parquet

from ants_lightning import NegativeMemory, demo
from ants_lightning.cli import main

ROOT = Path(__file__).parents[1]


def test_demo_config_runs_and_ants_is_above_mcm_and_neglabel_on_every_stream(
    tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.chdir(ROOT)
    main(["test", "--config", "configs/demo.yaml", "--trainer.default_root_dir", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert [stream["group"] for stream in results["streams"].values()] == ["near", "far", "far"]
    assert all(stream["mllm_failures"] == 0 < stream["mllm_calls"] for stream in results["streams"].values())
    for stream in results["streams"].values():
        auroc = {name: score["auroc"] for name, score in stream["scores"].items()}
        assert auroc["ants"] > max(auroc["mcm"], auroc["neglabel"])
    assert "21 of 48 linear layers in 4 bits" in caplog.text
    shown = capsys.readouterr().out
    assert "lookalikes (near)" in shown and "FPR95" in shown and "ants" in shown


SMALL = [
    "--data.n_id",
    "40",
    "--data.n_ood",
    "40",
    "--trainer.enable_progress_bar",
    "false",
    "--memory.schedule.min_images",
    "20",
]


def test_the_same_config_predicts_to_a_file_and_encodes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["--config", "configs/demo.yaml", "--trainer.default_root_dir", str(tmp_path), *SMALL]
    main(["predict", *words, "--predictions.path", "out.parquet", "--model.threshold", "auto"])
    rows = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    assert rows["stream"] == ["lookalikes"] * 80 + ["textures"] * 80 + ["scenes"] * 80
    assert rows["is_ood"] == [o >= t for o, t in zip(rows["ants"], rows["threshold"], strict=True)]
    assert rows["threshold"][0] == 0.5 and not (tmp_path / "results.json").exists()
    main(["encode", *words, "--data.features", str(tmp_path / "features")])
    assert (tmp_path / "features" / "id.safetensors").is_file() and not list(tmp_path.glob("predictions*"))
    main(["predict", *words, "--data.features", str(tmp_path / "features")])
    again = list(csv.DictReader((tmp_path / "predictions.csv").open(newline="")))
    assert [float(row["ants"]) for row in again] == pytest.approx(rows["ants"], abs=1e-5) and again[0][
        "threshold"
    ] == ""


def test_predictions_are_not_kept_in_memory_and_the_table_is_ours(monkeypatch, capsys):
    assert printed(["--config", "configs/demo.yaml"], monkeypatch, capsys)["verbose"] is False
    shown = printed(["--config", "configs/demo.yaml"], monkeypatch, capsys, "predict")
    assert shown["return_predictions"] is False and shown["predictions"] == {"path": "predictions.csv"}


@pytest.mark.parametrize(
    ("key", "word", "value"),
    [("", "auto", "auto"), ("", "0.25", 0.25), (".id_recall", "0.95", {"id_recall": 0.95})],
)
def test_every_kind_of_threshold_can_be_given(monkeypatch, capsys, key, word, value):
    words = ["--config", "configs/demo.yaml", f"--model.threshold{key}", word]
    assert printed(words, monkeypatch, capsys)["model"]["threshold"] == value


def test_a_folder_of_images_is_predicted(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    images = demo.DrawnImages(demo.ID_CLASSES, 3, 1)
    for i in range(3):
        images[i][0].save(tmp_path / f"{i}.png")
    (tmp_path / "names.txt").write_text("\n".join(demo.ID_CLASSES))
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump(
            {
                "data": {
                    "class_path": "ants_lightning.data.FolderDataModule",
                    "init_args": {
                        "folder": str(tmp_path),
                        "class_names": str(tmp_path / "names.txt"),
                        "num_workers": 0,
                    },
                }
            }
        )
    )
    main(
        [
            "predict",
            "--config",
            "configs/demo.yaml",
            "--config",
            str(tmp_path / "data.yaml"),
            "--model.threshold",
            "0.5",
            "--trainer.default_root_dir",
            str(tmp_path / "run"),
            "--trainer.enable_progress_bar",
            "false",
            "--memory.adapt",
            "false",
        ]
    )
    rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").open(newline="")))
    assert [row["path"] for row in rows] == [str(tmp_path / f"{i}.png") for i in range(3)]
    assert all(row["label"] == "" and row["is_ood"] == str(float(row["ants"]) >= 0.5) for row in rows)


def test_a_folder_in_which_no_image_can_be_read_ends_with_3_and_a_row_for_each(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(ROOT)
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"not an image")
    (tmp_path / "names.txt").write_text("\n".join(demo.ID_CLASSES))
    (tmp_path / "data.yaml").write_text(
        yaml.safe_dump(
            {
                "data": {
                    "class_path": "ants_lightning.data.FolderDataModule",
                    "init_args": {
                        "folder": str(tmp_path),
                        "class_names": str(tmp_path / "names.txt"),
                        "num_workers": 0,
                    },
                }
            }
        )
    )
    with pytest.raises(SystemExit) as end:
        main(
            [
                "predict",
                "--config",
                "configs/demo.yaml",
                "--config",
                str(tmp_path / "data.yaml"),
                "--trainer.default_root_dir",
                str(tmp_path / "run"),
                "--trainer.enable_progress_bar",
                "false",
                "--memory.adapt",
                "false",
            ]
        )
    assert end.value.code == 3
    assert "3 of 3 images were left out: 3 could not be read, 0 gave NaN or Inf" in caplog.text
    rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").open(newline="")))
    assert len(rows) == 3 and all(row["lost"] and not row["ants"] for row in rows)


def test_results_that_could_not_be_written_end_with_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)

    def full(folder, results):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ants_lightning.run.report.write_results", full)
    monkeypatch.setenv("COLUMNS", "200")
    words = ["--trainer.default_root_dir", str(tmp_path), "--memory.adapt", "false"]
    with pytest.raises(SystemExit) as end:
        main(["test", "--config", "configs/demo.yaml", "--data.n_id", "20", "--data.n_ood", "20", *words])
    assert end.value.code == 1 and "No space left on device" in capsys.readouterr().out


def test_demo_config_is_what_the_package_says():
    config = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    assert {key: config["model"]["negatives"][key] for key in demo.WORDS} == demo.WORDS
    assert {key: config["model"][key] for key in demo.SETTINGS["model"]} == demo.SETTINGS["model"]
    assert {key: config["memory"][key] for key in demo.SETTINGS["memory"]} == demo.SETTINGS["memory"]


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_run_config_parses_and_no_key_is_unknown(config, monkeypatch, capsys):
    shown = printed(["--config", str(config)], monkeypatch, capsys)
    assert shown["memory"]["mllm"]["class_path"] == "ants_lightning.mllm.TransformersMLLM"
    assert shown["trainer"]["callbacks"] is None and shown["report"] == {"table": True}
    assert config.stem == "own_data" or shown["data"]["class_path"].startswith("ants_lightning")


def printed(words, monkeypatch, capsys, command="test"):
    """What `--print_config` shows."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main([command, *words, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("config", sorted((ROOT / "configs/mllm").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_mllm_config_becomes_an_mllm_without_its_weights(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    built = []
    monkeypatch.setattr(
        NegativeMemory, "on_test_start", lambda memory, *_: built.append(memory.guard.mllm) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        main(
            [
                "test",
                "--config",
                "configs/demo.yaml",
                "--memory.mllm",
                str(config),
                "--trainer.enable_progress_bar",
                "false",
            ]
        )
    wanted = yaml.safe_load(config.read_text())
    assert (
        type(built[0]).__name__ == wanted["class_path"].rpartition(".")[2]
        and getattr(built[0], "model", None) is None
    )
    settings = {
        **vars(built[0]),
        "record": str(getattr(built[0], "path", "")),
        "model": getattr(built[0], "name", None),
    }
    assert {key: settings[key] for key in wanted["init_args"]} == wanted["init_args"]


FROZEN = ["--config", "configs/demo.yaml", *SMALL, "--memory.adapt", "false"]  # no MLLM


def run_in(folder, *more, command="test"):
    main([command, *FROZEN, "--trainer.default_root_dir", str(folder), *more])


@pytest.mark.parametrize("logger", ["false", "lightning.pytorch.loggers.CSVLogger"])
def test_the_configuration_is_kept_beside_the_results(tmp_path, monkeypatch, logger):
    monkeypatch.chdir(ROOT)
    log = [] if logger == "false" else ["--trainer.logger.save_dir", str(tmp_path / "logs")]
    run_in(tmp_path / "run", "--trainer.logger", logger, *log, "--model.temperature", "0.05")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text("utf-8"))
    assert config["model"]["temperature"] == 0.05 and config["data"]["init_args"]["n_id"] == 40
    main(["test", "--config", str(tmp_path / "run" / "config.yaml"), "--model.temperature", "0.06"])
    assert (
        yaml.safe_load((tmp_path / "run" / "config.yaml").read_text("utf-8"))["model"]["temperature"] == 0.06
    )
    assert (tmp_path / "run" / "results.1.json").is_file()
    assert [path.name for path in tmp_path.rglob("config.yaml")] == ["config.yaml"]


def test_a_configuration_of_the_user_stays(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(ROOT)
    (tmp_path / "config.yaml").write_text("# mine\nmodel:\n  temperature: 0.05\n")
    run_in(tmp_path, "--config", str(tmp_path / "config.yaml"))
    assert (tmp_path / "config.yaml").read_text().startswith("# mine")
    assert yaml.safe_load((tmp_path / "config.run.yaml").read_text("utf-8"))["model"]["temperature"] == 0.05
    assert "config.yaml is not of a run, or was edited, and stays: see config.run.yaml" in caplog.text
    (tmp_path / "config.run.yaml").write_text("# mine too")
    run_in(tmp_path)
    assert (tmp_path / "config.run.yaml").read_text() == "# mine too" and (
        tmp_path / "results.json"
    ).is_file()
    assert "the configuration was not written to" in caplog.text


def test_fast_dev_run_writes_nothing_at_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for command in ("test", "predict"):
        run_in(tmp_path / "run", "--trainer.fast_dev_run", "1", "--trainer.logger", "false", command=command)
    assert (
        not (tmp_path / "run").exists()
        and "a trial (fast_dev_run): nothing was written" in capsys.readouterr().out
    )


def test_a_terminal_in_ascii_ends_no_run(tmp_path):
    words = [
        "test",
        *FROZEN,
        "--trainer.default_root_dir",
        str(tmp_path),
        "--trainer.enable_progress_bar",
        "true",
    ]
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    for command in (words, ["table", str(tmp_path)]):
        script = f"from ants_lightning.cli import main; main({command!r})"
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        assert "neglabel" in done.stdout.decode("ascii") and "| score " in done.stdout.decode("ascii")


def test_an_unknown_key_is_refused(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(["test", "--config", "configs/demo.yaml", "--model.temprature", "1"])
    assert end.value.code == 2 and "temprature" in capsys.readouterr().err
