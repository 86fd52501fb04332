"""The command, through `main`: tests, predictions, folders of images."""

import csv
import json

import pytest
import yaml
from cli_parts import ROOT, SMALL, printed
from pyarrow import parquet

from ants_lightning import demo
from ants_lightning.cli import main


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


def test_the_same_config_predicts_to_a_file_and_encodes(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["--config", "configs/demo.yaml", "--trainer.default_root_dir", str(tmp_path), *SMALL]
    # Convolutions of a GPU round to TF32: scores move by up to 3e-4
    words += ["--trainer.accelerator", "cpu"]
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
