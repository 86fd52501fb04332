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
    shown = printed(["--config", str(config)], monkeypatch, capsys)
    assert shown["trainer"]["callbacks"][0]["class_path"] == "ants_lightning.NegativeMemory"
    assert config.stem == "own_data" or shown["data"]["class_path"].startswith("ants_lightning")


def printed(words, monkeypatch, capsys):
    """What `--print_config` shows."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(["test", *words, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_every_part_goes_on_top_of_a_benchmark(config, monkeypatch, capsys):
    words = ["--trainer.callbacks.mllm" if config.parent.name == "mllm" else "--config", str(config)]
    shown = printed(["--config", "configs/imagenet1k_openood.yaml", *words], monkeypatch, capsys)
    memory, wanted = shown["trainer"]["callbacks"][0]["init_args"], yaml.safe_load(config.read_text())
    assert shown["data"]["init_args"]["benchmark"] == "imagenet1k" and shown["model"]["nouns"] == "wordnet"
    if config.parent.name == "mllm":
        assert memory["mllm"]["class_path"] == wanted["class_path"]
    else:
        baselines = [baseline["class_path"] for baseline in shown["model"].pop("baselines") or []]
        assert baselines == [baseline["class_path"] for baseline in wanted.get("model", {}).pop("baselines", [])]
        assert {key: shown["model"][key] for key in wanted["model"]} == wanted["model"]
        for callback in wanted.get("trainer", {}).get("callbacks", []):
            del callback["init_args"]["mllm"]
            assert {key: memory[key] for key in callback["init_args"]} == callback["init_args"]
            assert memory["mllm"]["init_args"]["model"] == "llava-hf/llava-1.5-7b-hf"


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
