"""The command, through `main`, on every config."""

import json
from pathlib import Path

import pytest
import yaml

from ants_lightning import NegativeMemory, demo
from ants_lightning.cli import main

ROOT = Path(__file__).parents[1]


def test_demo_config_runs_and_ants_is_above_mcm_and_neglabel_on_every_stream(tmp_path, monkeypatch, capsys, caplog):
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


def test_demo_config_is_what_the_package_says():
    config = yaml.safe_load((ROOT / "configs/demo.yaml").read_text())
    assert {key: config["model"][key] for key in demo.WORDS} == demo.WORDS
    assert {key: config["model"][key] for key in demo.SETTINGS["model"]} == demo.SETTINGS["model"]
    memory = config["trainer"]["callbacks"][0]["init_args"]
    assert {key: memory[key] for key in demo.SETTINGS["memory"]} == demo.SETTINGS["memory"]


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_run_config_parses_and_no_key_is_unknown(config, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    data = [] if config.stem == "demo" else ["--data", "ants_lightning.demo.DemoDataModule"]
    with pytest.raises(SystemExit) as end:
        main(["test", "--config", str(config), *data, "--print_config"])
    assert end.value.code == 0 and "NegativeMemory" in capsys.readouterr().out


@pytest.mark.parametrize("config", sorted((ROOT / "configs/mllm").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_mllm_config_becomes_an_mllm_without_its_weights(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    built = []
    monkeypatch.setattr(NegativeMemory, "on_test_start", lambda memory, *_: built.append(memory.guard.mllm) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["test", "--config", "configs/demo.yaml", "--trainer.callbacks.mllm", str(config),
              "--trainer.enable_progress_bar", "false"])  # fmt: skip
    wanted = yaml.safe_load(config.read_text())
    assert type(built[0]).__name__ == wanted["class_path"].rpartition(".")[2] and getattr(built[0], "model", None) is None
    settings = {**vars(built[0]), "record": str(getattr(built[0], "path", "")), "model": getattr(built[0], "name", None)}
    assert {key: settings[key] for key in wanted["init_args"]} == wanted["init_args"]


def test_an_unknown_key_is_refused(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(["test", "--config", "configs/demo.yaml", "--model.temprature", "1"])
    assert end.value.code == 2 and "temprature" in capsys.readouterr().err
