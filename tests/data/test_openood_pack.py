"""The pack of photographs in OpenOOD's layout."""

import hashlib
import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ants_lightning.cli import main
from ants_lightning.data import OpenOODDataModule
from ants_lightning.data.class_names import IMAGENET_200_LABELS, class_names_of

PACK = Path(__file__).parents[3] / "shared/data/openood_pack"


pack_only = pytest.mark.skipif(not PACK.is_dir(), reason=f"no photographs at {PACK}")


@pack_only
def test_the_pack_of_photographs_through_overrides():
    where = "benchmark_imglist/imagenet/test_{}.txt".format
    near, far = ["near_animals", "near_objects"], ["textures", "plants", "scenes"]
    data = OpenOODDataModule(
        PACK,
        near={name: where(name) for name in near},
        far={name: where(name) for name in far},
        num_workers=0,
        mix={"all": [*near, *far]},
        order="blocks",
        ood_share=0.5,
        transform=lambda image: image.size,
    )
    assert {name: len(s) for name, s in data.ood_sets.items()} == {
        "near_animals": 661,
        "near_objects": 635,
        "textures": 448,
        "plants": 440,
        "scenes": 480,
    }
    assert len(data.id_set) == 1163 and max(data.id_set.labels) < 1000 == len(data.class_names)
    data.setup("test")
    stream = data.streams["all"]
    assert data.groups == {"all": "mixed"} and stream.counts[0] == 1163 == sum(stream.counts[1:])
    # 1,163 of 2,664: 288.57, 277.22, 195.58, 192.09, 209.55; the two largest remainders round up
    assert stream.counts[1:] == [289, 277, 196, 192, 209]
    image, label = data.id_set[0]
    assert (image.mode, label) == ("RGB", 0) and stream[0]["label"] >= -1


@pack_only
def test_the_pack_without_overrides_lacks_four_lists():
    with pytest.raises(FileNotFoundError, match="4 problems with the 6 lists") as error:
        OpenOODDataModule(PACK)
    assert "textures" not in str(error.value)
    synsets = (PACK / "benchmark_imglist/imagenet/synset_words.txt").read_text("utf-8").splitlines()
    assert synsets[IMAGENET_200_LABELS[0]].startswith("n01443537") and synsets[
        IMAGENET_200_LABELS[199]
    ].startswith("n12267677")


@pack_only
def test_photographs_through_the_command_end_in_a_full_table(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[2])
    # The same photographs, but only 12 classes of ID: 1,000 names take the text tower a minute
    root = tmp_path / "root"
    (root / "benchmark_imglist/imagenet").mkdir(parents=True)
    for path in PACK.iterdir():
        if path.is_dir() and path.name != "benchmark_imglist":
            (root / path.name).symlink_to(path.resolve())
    for path in (PACK / "benchmark_imglist/imagenet").glob("test_*.txt"):
        lines = [line for line in path.read_text("utf-8").splitlines() if int(line.split()[-1]) < 12]
        (root / "benchmark_imglist/imagenet" / path.name).write_text("\n".join(lines), "utf-8")
    where = "benchmark_imglist/imagenet/test_{}.txt".format
    sets = {"near": ["near_animals"], "far": ["textures", "scenes"]}
    baselines = [
        f"ants_lightning.baselines.{name}" for name in ("MaxLogit", "Energy", "GLMCM", "AdaNeg", "TANL")
    ]
    mllm = {"model": "ants_lightning/demo/models/llava", "max_new_tokens": 16, "batch_size": 32}
    config = {
        "trainer": {"default_root_dir": str(tmp_path), "enable_progress_bar": False},
        "memory": {
            "mllm": {"class_path": "ants_lightning.mllm.TransformersMLLM", "init_args": mllm},
            "vsnl": {"delta": 0.3},
            "schedule": {"every": 1, "min_images": 8},
            "hygiene": {"max_id_similarity": None},  # weights drawn at random: all texts are alike
        },
        "model": {
            "model": "ViT-B-32-quickgelu",
            "pretrained": None,
            "num_groups": 1,
            "negatives": {
                "nouns": ["sailor", "gong", "lagoon", "ledger"],
                "adjectives": ["striped", "wooden"],
                "keep": 1.0,
            },
            "text_cache": None,
            "baselines": [{"class_path": path} for path in baselines],
        },
        "data": {
            "class_path": "ants_lightning.data.OpenOODDataModule",
            "init_args": {
                "root": str(root),
                "batch_size": 4,
                "num_workers": 0,
                "size": 16,
                "ood_share": 0.5,
                "class_names": list(class_names_of("imagenet1k")[:12]),
                **{group: {name: where(name) for name in names} for group, names in sets.items()},
            },
        },
    }
    (tmp_path / "pack.yaml").write_text(json.dumps(config), "utf-8")
    main(["test", "--config", "configs/own_data.yaml", "--config", str(tmp_path / "pack.yaml")])
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert {name: (s["n_id"] + s["n_ood"], s["group"]) for name, s in results["streams"].items()} == {
        "near_animals": (16, "near"),
        "textures": (16, "far"),
        "scenes": (16, "far"),
    }
    for stream in results["streams"].values():
        names = ["mcm", "neglabel", "max_logit", "energy", "gl_mcm", "adaneg", "tanl", "ens", "vsnl", "ants"]
        assert (
            list(stream["scores"]) == names
            and stream["mllm_calls"] + stream["mllm_recalled"] > 0 == stream["mllm_failures"]
        )
        assert stream["stream"]["size"] == 16 and set(stream["stream"]["sets"]) > {"id"}
    assert results["benchmark"] is None and set(results["groups"]) == {"near", "far"}
    order = load_file(tmp_path / "order.safetensors")
    digest = hashlib.sha256(order["scenes"].numpy().astype("<i8").tobytes()).hexdigest()
    assert digest == results["streams"]["scenes"]["stream"]["order_sha256"]
    shown = capsys.readouterr().out
    assert "near_animals (near)" in shown and "tanl" in shown and "mean" in shown
