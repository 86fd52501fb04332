"""Parts of a configuration go on top of each other key by key: base configs, method overlays and MLLMs."""

import itertools
from pathlib import Path

import pytest
import yaml

from ants_lightning import ENS, Mining, NegativeMemory, Report
from ants_lightning.cli import main

ROOT = Path(__file__).parents[1]
BASES = sorted((ROOT / "configs").glob("*.yaml"))
OVERLAYS = sorted([*(ROOT / "configs/method").glob("*.yaml"), *(ROOT / "configs/model").glob("*.yaml")])
MLLMS = sorted((ROOT / "configs/mllm").glob("*.yaml"))
USERS = {
    "trainer": {
        "callbacks": [
            {"class_path": "lightning.pytorch.callbacks.DeviceStatsMonitor", "init_args": {"cpu_stats": True}}
        ]
    },
    "memory": {"mllm": {"class_path": "ReplayMLLM", "init_args": {"record": "mine.jsonl"}}},
}


def shown(words, monkeypatch, capsys):
    """What `--print_config` shows."""
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        main(["test", *map(str, words), "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def on_top(below, above):
    """A mapping with another on top, key by key; a class and its arguments go as one."""
    if not isinstance(below, dict) or not isinstance(above, dict) or "class_path" in above:
        return above
    return {
        key: on_top(below.get(key), above[key]) if key in above else below[key] for key in {**below, **above}
    }


def written(config):
    """A config as it is written, with its MLLM in place of the name of its file."""
    found = yaml.safe_load(config.read_text()) if isinstance(config, Path) else config
    named = found.get("memory", {}).get("mllm")
    if isinstance(named, str):
        found["memory"]["mllm"] = yaml.safe_load((config.parent / named).read_text())
    return found


def assert_holds(config, wanted, where=""):
    """Every value that is wanted is in the config; of a class and its arguments at least these."""
    for key, value in wanted.items():
        if key == "class_path":  # shown with its whole path
            assert config[key].rpartition(".")[2] == value.rpartition(".")[2], where
        elif isinstance(value, dict):
            assert_holds(config[key], value, f"{where}.{key}")
        elif key in ("baselines", "callbacks"):
            assert [one["class_path"].rpartition(".")[2] for one in config[key]] == [
                one["class_path"].rpartition(".")[2] for one in value
            ], where
        else:
            assert config[key] == value, f"{where}.{key}"


def merged(*configs):
    """The configs, each on top of those before."""
    found = {}
    for config in configs:
        found = on_top(found, written(config))
    return found


def names(paths):
    return "-".join(path.stem for path in paths)


@pytest.mark.parametrize("configs", [*itertools.product(BASES, OVERLAYS)], ids=names)
def test_an_overlay_goes_above_and_below_every_config(configs, monkeypatch, capsys):
    for pair in (configs, configs[::-1]):
        words = [word for config in pair for word in ("--config", config)]
        assert_holds(shown(words, monkeypatch, capsys), merged(*pair))


@pytest.mark.parametrize("overlays", [*itertools.permutations(OVERLAYS, 2)], ids=names)
def test_two_overlays_in_any_order_keep_the_users_mllm_and_callbacks(overlays, tmp_path, monkeypatch, capsys):
    users = tmp_path / "users.yaml"
    users.write_text(yaml.safe_dump(USERS))
    base = ROOT / "configs/openood.yaml"
    for configs in (
        [base, users, *overlays],
        [*overlays, base, users],
        [base, overlays[0], users, overlays[1]],
    ):
        found = shown([word for config in configs for word in ("--config", config)], monkeypatch, capsys)
        assert_holds(found, merged(*configs))
        mllm = found["memory"]["mllm"]
        assert mllm["class_path"] == "ants_lightning.mllm.ReplayMLLM"
        assert mllm["init_args"] == {"record": "mine.jsonl", "recorded_model": None}
        assert found["trainer"]["callbacks"] == USERS["trainer"]["callbacks"]


@pytest.mark.parametrize("mllm", MLLMS, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "base", [ROOT / "configs/demo.yaml", ROOT / "configs/openood.yaml"], ids=lambda path: path.stem
)
def test_an_mllm_goes_on_top_of_a_config_and_stays_below_overlays(base, mllm, monkeypatch, capsys):
    wanted = yaml.safe_load(mllm.read_text())
    for overlays in itertools.permutations([path for path in OVERLAYS if path.stem in ("official", "paper")]):
        above = [word for overlay in overlays for word in ("--config", overlay)]
        first = shown(["--config", base, "--memory.mllm", mllm, *above], monkeypatch, capsys)
        last = shown(["--config", base, *above, "--memory.mllm", mllm], monkeypatch, capsys)
        assert first == last
        assert first["memory"]["mllm"]["class_path"] == f"ants_lightning.mllm.{wanted['class_path']}"
        assert_holds(first["memory"]["mllm"]["init_args"], wanted["init_args"])
        assert_holds(first, merged(base, *overlays, {"memory": {"mllm": wanted}}))


def test_single_settings_of_a_group_go_on_top(monkeypatch, capsys):
    words = ["--memory.mining.gamma", "0.8", "--memory.ens.size", "500", "--report.table", "false"]
    found = shown(["--config", "configs/demo.yaml", *words], monkeypatch, capsys)
    assert found["memory"]["mining"] == {"gamma": 0.8, "eta": 0.5, "rule": "paper", "bank_size": 10_000}
    assert found["memory"]["ens"] == {"size": 500, "init": "empty", "activated": None}
    assert found["memory"]["schedule"]["every"] == 4 and found["report"] == {"table": False}


QUICK = [
    "--config",
    "configs/demo.yaml",
    "--data.n_id",
    "20",
    "--data.n_ood",
    "20",
    "--trainer.enable_progress_bar",
    "false",
]


def started(words, monkeypatch, tmp_path):
    """The trainer's callbacks at the start of a run that ends there."""
    monkeypatch.chdir(ROOT)
    seen = []
    monkeypatch.setattr(
        NegativeMemory, "setup", lambda memory, trainer, *_, **__: seen.append(trainer) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        main(["test", *QUICK, "--trainer.default_root_dir", str(tmp_path), *words])
    return seen[0].callbacks


def test_the_groups_become_the_callbacks_memory_first_and_the_users_stay(monkeypatch, tmp_path):
    users = tmp_path / "users.yaml"
    users.write_text(yaml.safe_dump({"trainer": USERS["trainer"]}))
    words = [
        "--config",
        str(users),
        "--memory.mllm",
        "null",
        "--memory.mining.gamma",
        "0.8",
        "--report.table",
        "false",
    ]
    callbacks = started(words, monkeypatch, tmp_path)
    kinds = [type(callback).__name__ for callback in callbacks]
    assert kinds[0] == "NegativeMemory"
    assert [kinds.count(kind) for kind in ("NegativeMemory", "Report", "DeviceStatsMonitor")] == [1, 1, 1]
    memory, report = callbacks[0], callbacks[kinds.index("Report")]
    assert (
        memory.guard.mllm is None and memory.settings.mining.gamma == 0.8 and memory.settings.ens.size == 100
    )
    assert report.table is False


@pytest.mark.parametrize(
    ("kind", "told"),
    [(NegativeMemory, "NegativeMemory: set it by `memory:`"), (Report, "Report: set it by `report:`")],
)
def test_a_callback_with_a_group_of_its_own_is_refused_among_the_users(kind, told, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump({"trainer": {"callbacks": [{"class_path": f"ants_lightning.{kind.__name__}"}]}})
    )
    with pytest.raises(ValueError, match=told):
        main(["test", *QUICK, "--config", str(tmp_path / "mine.yaml")])


def test_a_plain_evaluator_has_a_report_without_a_table(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    words = [*QUICK, "--trainer.default_root_dir", str(tmp_path), "--memory.mllm", "null"]
    main(["test", *words, "--report.table", "false"])
    shown = capsys.readouterr().out
    assert "neglabel" not in shown and (tmp_path / "results.json").is_file()
    main(["test", *words])
    assert "neglabel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "value", "told"),
    [
        ("mining.gamma", "1.5", r"mining\.gamma must lie in \[0, 1\], got 1\.5"),
        ("ens.size", "0", r"ens\.size must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_told_with_the_name_that_was_written(
    word, value, told, monkeypatch, tmp_path
):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=told):
        main(["test", *QUICK, f"--memory.{word}", value])


def test_dicts_and_groups_are_the_same_in_python():
    groups = NegativeMemory(mining=Mining(gamma=0.8), ens=ENS(size=5))
    dicts = NegativeMemory(None, {"gamma": 0.8}, {"size": 5})
    assert groups.settings == dicts.settings != NegativeMemory().settings
    assert groups.settings.asdict()["mining"] == {
        "gamma": 0.8,
        "eta": 0.5,
        "rule": "paper",
        "bank_size": 10_000,
    }
    with pytest.raises(ValueError, match="mining has no setting 'gama'; it has gamma, eta, rule, bank_size"):
        NegativeMemory(mining={"gama": 0.8})
