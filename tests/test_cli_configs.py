"""The command and its configurations, shipped and kept."""

import os
import subprocess
import sys

import pytest
import yaml
from cli_parts import ROOT, SMALL, printed

from ants_lightning import NegativeMemory, demo
from ants_lightning.cli import main


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
