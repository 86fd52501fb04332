"""Shipped configurations are found by name, from any folder and in the wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from ants_lightning import demo
from ants_lightning.cli import main
from ants_lightning.common.settings import plain_path
from ants_lightning.run import shipped

ROOT = Path(__file__).parents[2]
NAMES = {path.relative_to(ROOT / "configs").as_posix()[:-5] for path in (ROOT / "configs").rglob("*.yaml")}


def shown(words, capsys):
    with pytest.raises(SystemExit) as end:
        main(["test", *words, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_every_file_has_its_name_with_and_without_its_folder():
    assert set(shipped.names()) == NAMES >= {"demo", "openood", "method/official", "mllm/vllm"}
    for name in NAMES:
        path = ROOT / "configs" / f"{name}.yaml"
        assert shipped.find(name) == shipped.find(name.rpartition("/")[2]) == path
    assert shipped.find("dem") is None and shipped.find("") is None and shipped.find("method") is None


def test_a_name_that_two_folders_have_needs_its_folder(tmp_path, monkeypatch):
    for name in ("method/x.yaml", "model/x.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.setattr(shipped, "folder", lambda: tmp_path)
    assert shipped.find("x") is None and shipped.find("model/x") == tmp_path / "model/x.yaml"


def test_names_become_paths_only_where_a_config_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo_path, vllm = str(ROOT / "configs/demo.yaml"), str(ROOT / "configs/mllm/vllm.yaml")
    words = ["test", "--config", "demo", "--config=demo", "-c", "demo", "--memory.mllm", "vllm"]
    assert shipped.with_paths(words) == [
        *["test", "--config", demo_path, f"--config={demo_path}", "-c", demo_path],
        *["--memory.mllm", vllm],
    ]
    others = ["--data.name", "demo", "--memory.mllm", "null", "--memory.mllm=my.Captions", "demo", "--config"]
    assert shipped.with_paths(others) == others
    Path("demo").write_text("seed_everything: 1")
    assert shipped.with_paths(["--config", "demo"]) == ["--config", "demo"]


def test_from_any_folder_a_name_is_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    by_path = ["--config", "configs/demo.yaml", "--config", "configs/method/official.yaml"]
    wanted = shown([*by_path, "--memory.mllm", "configs/mllm/vllm.yaml"], capsys)
    monkeypatch.chdir(tmp_path)
    assert shown(["--config", "demo", "--config=official", "--memory.mllm", "vllm"], capsys) == wanted
    assert wanted["memory"]["mllm"]["init_args"]["model"] == "llava-hf/llava-1.5-7b-hf"


def test_a_name_that_is_none_is_told_with_those_there_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["test", "--config", "demos"])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "--config demos: no such file" in told and "method/official" in told


def test_a_config_within_a_config_is_relative_to_it(tmp_path, monkeypatch, capsys):
    mllm = {"class_path": "ants_lightning.mllm.ReplayMLLM", "init_args": {"record": "answers.jsonl"}}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/mllm.yaml").write_text(yaml.safe_dump(mllm))
    (tmp_path / "mine/run.yaml").write_text(yaml.safe_dump({"memory": {"mllm": "mllm.yaml"}}))
    monkeypatch.chdir(tmp_path)
    found = shown(["--config", "demo", "--config", "mine/run.yaml"], capsys)["memory"]["mllm"]
    assert found["init_args"]["record"] == "answers.jsonl"


def test_files_of_the_package_have_paths_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plain_path("local-dir:$ants_lightning/demo/models/clip") == demo.CLIP
    assert plain_path("$ants_lightning/demo/models/llava") == demo.LLAVA
    assert plain_path("$ants_lightning") == "$ants_lightning"


def test_the_wheel_holds_the_configurations(tmp_path):
    build = f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert {
        path.relative_to(tmp_path / "site/ants_lightning/configs").as_posix()[:-5]
        for path in (tmp_path / "site/ants_lightning/configs").rglob("*.yaml")
    } == NAMES
    assert (tmp_path / "site/ants_lightning/py.typed").is_file()
    ask = "from ants_lightning.run import shipped; print(shipped.find('demo'))"
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    found = subprocess.run(
        [sys.executable, "-c", ask], cwd=tmp_path, env=env, check=True, capture_output=True, text=True
    ).stdout
    assert Path(found.strip()) == tmp_path / "site/ants_lightning/configs/demo.yaml"
