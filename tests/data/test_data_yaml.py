"""Data modules of YAML files, through the command."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from ants_lightning import demo
from ants_lightning.cli import main
from ants_lightning.data import HFDataset


@pytest.fixture(scope="session")
def drawings():
    """Eight drawings of each kind."""
    known = demo.DrawnImages(["circle", "square"], 40, 5)
    of = {
        name: [known[i][0] for i in range(40) if known[i][1] == label][:8]
        for label, name in enumerate(known.classes)
    }
    for i, name in enumerate(("oval", "octagon")):
        other = demo.DrawnImages([name], 8, 6 + i)
        of[name] = [other[j][0] for j in range(8)]
    assert all(len(images) == 8 for images in of.values())
    return of


@pytest.fixture
def folders(tmp_path, drawings):
    """The drawings as folders of classes: `id/0_circle`, `id/1_square`, `near/oval`, `far/octagon`."""
    for name, place in {
        "circle": "id/0_circle",
        "square": "id/1_square",
        "oval": "near/oval",
        "octagon": "far/octagon",
    }.items():
        (tmp_path / place).mkdir(parents=True)
        for i, image in enumerate(drawings[name]):
            image.save(tmp_path / place / f"{i}.png")
    (tmp_path / "names.txt").write_text("circle\nsquare\n")
    return tmp_path


@pytest.fixture
def run(tmp_path):
    """Write a configuration with these `data`, run it by the command, and read the results."""

    def run(data, *more):
        config = {
            "trainer": {
                "accelerator": "cpu",
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "default_root_dir": str(tmp_path / "run"),
            },
            "model": {"model": demo.CLIP, "pretrained": None, **demo.SETTINGS["model"]},
            "data": data,
            "verbose": False,
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        main(["test", "--config", str(tmp_path / "run.yaml"), *more])
        return json.loads((tmp_path / "run/results.json").read_text())["streams"]

    return run


def folder(path):
    return {"class_path": "torchvision.datasets.ImageFolder", "init_args": {"root": str(path)}}


def module(folders, **more):
    return {
        "class_path": "ants_lightning.data.OODDataModule",
        "init_args": {
            "id_set": folder(folders / "id"),
            "near": {"oval": folder(folders / "near")},
            "far": {"octagon": folder(folders / "far")},
            "batch_size": 8,
            "num_workers": 0,
            **more,
        },
    }


def test_image_folders_with_class_names_from_a_file(run, folders):
    streams = run(module(folders, class_names=str(folders / "names.txt")))
    assert {name: (s["group"], s["n_id"], s["n_ood"]) for name, s in streams.items()} == {
        "oval": ("near", 16, 8),
        "octagon": ("far", 16, 8),
    }
    assert streams["oval"]["id_accuracy"] > 0.7  # names and labels belong together


def test_class_names_in_the_yaml_and_streams_of_several_sets(run, folders):
    settings = {
        "order": "blocks",
        "ood_share": 0.5,
        "size": 20,
        "mix": {"all": ["octagon", "oval"]},
        "seed": 3,
    }
    streams = run(module(folders, class_names=["circle", "square"], **settings))
    assert list(streams) == ["all"] and streams["all"]["group"] == "mixed"
    assert (streams["all"]["n_id"], streams["all"]["n_ood"]) == (10, 10)


def test_options_of_streams_on_the_command_line(run, folders):
    data = module(folders, class_names=["circle", "square"])
    streams = run(data, "--data.size", "9", "--data.mix", '{"both": ["oval", "octagon"]}')
    assert {name: (s["n_id"], s["n_ood"]) for name, s in streams.items()} == {
        "both": (5, 4)
    }  # 4.5 and 4.5: the first


def test_a_bad_stream_and_a_missing_file_stop_the_run_before_it_starts(run, folders, tmp_path):
    for data, match in (
        (module(folders, class_names=str(folders / "absent.txt")), r"no such file: .*absent\.txt"),
        (module(folders, class_names=["a", "b"], mix={"x": ["y"]}), r"mix 'x' .* \['y'\]"),
    ):
        with pytest.raises(ValueError, match=match):
            run(data)
    assert not (tmp_path / "run/results.json").exists()


def hf(folders, **arguments):
    return {"class_path": "ants_lightning.data.HFDataset", "init_args": {"path": str(folders), **arguments}}


@pytest.fixture
def saved(tmp_path, drawings):
    """A data set saved to disk, images of other modes among them, and one of two splits."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["circle", "square"]),
            "number": datasets.Value("int64"),
        }
    )
    images = [*drawings["circle"], *drawings["square"]]
    images[0] = images[0].convert("L")
    rows = {"picture": images, "kind": [0] * 8 + [1] * 8, "number": list(range(16))}
    single = datasets.Dataset.from_dict(rows, features=features)
    single.save_to_disk(str(tmp_path / "single"))
    datasets.DatasetDict({"test": single, "train": single.select(range(3))}).save_to_disk(
        str(tmp_path / "splits")
    )
    return tmp_path


def test_hugging_face_sets_with_class_names_of_their_own(run, saved, folders, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(saved / "cache"))
    data = module(folders)
    data["init_args"]["id_set"] = hf(saved / "splits", image="picture", label="kind")
    data["init_args"]["far"] = {"octagon": hf(folders / "far", split="train", label=None)}
    streams = run(data)
    assert {name: (s["group"], s["n_id"], s["n_ood"]) for name, s in streams.items()} == {
        "oval": ("near", 16, 8),
        "octagon": ("far", 16, 8),
    }
    assert streams["oval"]["id_accuracy"] > 0.7


def test_hf_dataset_by_itself(saved, folders, drawings, monkeypatch):
    import datasets

    single = HFDataset(str(saved / "single"), image="picture", label="kind")
    assert len(single) == 16 and single.classes == ["circle", "square"]
    assert [single[i][1] for i in range(16)] == [0] * 8 + [1] * 8
    assert single[0][0].mode == "RGB" and single[5][0].tobytes() == drawings["circle"][5].tobytes()
    splits = str(saved / "splits")
    assert len(HFDataset(splits, "train", image="picture", label="kind")) == 3
    numbered = HFDataset(splits, image="picture", label="number")
    assert numbered.classes is None and numbered[7][1] == 7
    assert HFDataset(splits, image="picture", label=None)[9][1] == -1
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(saved / "cache"))
    images = HFDataset(str(folders / "id"), "train")
    assert images.classes == ["0_circle", "1_square"] and len(images) == 16 and images[15][1] == 1
    for arguments, match in (
        ({"image": "picture", "label": "kinds"}, r"no column 'kinds': \['picture', 'kind', 'number'\]"),
        ({}, "no column 'image'"),
        ({"split": "dev", "image": "picture"}, r"no split 'dev': \['test', 'train'\]"),
    ):
        with pytest.raises(ValueError, match=match):
            HFDataset(splits, **arguments)


def test_without_the_library_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install datasets"):
        HFDataset(str(tmp_path))


def test_openood_lists(run, tmp_path, drawings):
    lists = tmp_path / "root/benchmark_imglist/shapes"
    lists.mkdir(parents=True)
    for name, label in (("circle", 0), ("square", 1), ("oval", -1), ("octagon", -1)):
        (tmp_path / "root/images_classic" / name).mkdir(parents=True)
        for i, image in enumerate(drawings[name]):
            image.save(tmp_path / f"root/images_classic/{name}/{i}.png")
        with (lists / f"test_{'id' if label >= 0 else name}.txt").open("a") as file:
            file.writelines(f"{name}/{i}.png {label}\n" for i in range(8))
    init = {
        "root": str(tmp_path / "root"),
        "id_lists": ["benchmark_imglist/shapes/test_id.txt"],
        "class_names": ["circle", "square"],
        "near": {"oval": "benchmark_imglist/shapes/test_oval.txt"},
        "far": {"octagon": "octagon"},
        "num_workers": 0,
        "order": "id_first",
        "mix": {"all": ["oval", "octagon"]},
    }
    streams = run({"class_path": "ants_lightning.data.OpenOODDataModule", "init_args": init})
    assert {name: (s["group"], s["n_id"], s["n_ood"]) for name, s in streams.items()} == {
        "all": ("mixed", 16, 16)
    }
    assert streams["all"]["id_accuracy"] > 0.7
    (tmp_path / "root/images_classic/oval/3.png").unlink()
    with pytest.raises(
        ValueError, match=r"1 of 8 images missing, first images_classic/oval/3\.png"
    ):  # jsonargparse makes it one
        run({"class_path": "ants_lightning.data.OpenOODDataModule", "init_args": init})


def test_the_streams_are_those_of_the_seed(folders):
    from torchvision.datasets import ImageFolder

    from ants_lightning.data import OODDataModule

    near = {"oval": ImageFolder(folders / "near")}
    data = OODDataModule(ImageFolder(folders / "id"), near, transform=lambda image: image, seed=4)
    data.setup("test")
    assert torch.equal(
        data.streams["oval"].order, torch.randperm(24, generator=torch.Generator().manual_seed(4))
    )
    assert data.class_names == ["0 circle", "1 square"] and isinstance(
        data.streams["oval"][0]["image"], Image.Image
    )


BLOCKS = re.findall(
    r"```yaml\n(.*?)```", (Path(__file__).parents[2] / "docs/data.md").read_text("utf-8"), re.DOTALL
)


@pytest.mark.parametrize("block", BLOCKS, ids=[str(i) for i in range(len(BLOCKS))])
def test_every_example_of_the_documentation_parses(block, tmp_path, capsys):
    (tmp_path / "data.yaml").write_text(block)
    with pytest.raises(SystemExit) as end:
        main(["test", "--config", str(tmp_path / "data.yaml"), "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)["data"]
    wanted = yaml.safe_load(block)["data"]
    assert end.value.code == 0 and printed["class_path"] == f"ants_lightning.data.{wanted['class_path']}"
    assert {key: printed["init_args"][key] for key in ("ood_share", "mix", "size")} == {
        key: wanted["init_args"].get(key) for key in ("ood_share", "mix", "size")
    }
