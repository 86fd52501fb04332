"""Lists of OpenOOD and of others: encodings, links, counts and class names."""

import logging
import os
from pathlib import Path

import numpy as np
import open_clip
import pytest
from openood_parts import LARGE, layout, write_list
from PIL import Image

from ants_lightning.data import ImageList, OpenOODDataModule
from ants_lightning.data.class_names import IMAGENET_200_LABELS, class_names_of
from ants_lightning.data.openood import BENCHMARKS


def test_other_lists_and_folders_in_the_same_layout(tmp_path, caplog):
    root = layout(tmp_path, "cifar10")
    write_list(root, "mine/shapes", ["shapes/a.png", "shapes/b.png"], [-1, -1])
    write_list(root, "mine/id", ["id/a.png", "id/b.png"], [0, 1])
    names = tmp_path / "names.txt"
    names.write_text("circle\nsquare\n")
    with caplog.at_level(logging.WARNING):
        data = OpenOODDataModule(
            root,
            "cifar10",
            near={"shapes": "benchmark_imglist/mine/shapes.txt", "tiny": "tin"},
            far={},
            id_lists=["benchmark_imglist/mine/id.txt"],
            class_names=str(names),
            mix={"all": ["tiny", "shapes"]},
            ood_share=0.5,
            size=4,
            seed=3,
            order="blocks",
            transform=lambda image: 0,
        )
    assert not caplog.records  # own lists have no number to be compared with
    assert data.groups == {"all": "near"} and data.class_names == ["circle", "square"]
    assert data.id_set.paths == [str(root / "id/a.png"), str(root / "id/b.png")]
    assert [os.path.basename(path) for path in data.ood_sets["tiny"].paths] == [
        f"val_{i:04}.JPEG" for i in range(3)
    ]
    data.setup("test")
    description = data.streams["all"].description()
    assert description["sets"] == {"id": 2, "tiny": 1, "shapes": 1} and description["order"] == "blocks"
    with pytest.raises(ValueError, match="not in 0…0"):
        OpenOODDataModule(root, "cifar10", id_lists=["benchmark_imglist/mine/id.txt"], class_names=["circle"])


def test_a_directory_is_scanned_once_however_many_images_and_lists_it_has(tmp_path, monkeypatch):
    root = layout(tmp_path, "imagenet1k")
    scanned = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(str(path)) or real(path))
    lists = [f"benchmark_imglist/imagenet/{name}_imagenet.txt" for name in ("test", "val")]
    OpenOODDataModule(root, near={}, id_lists=lists)
    assert sorted(scanned) == sorted(set(scanned)) and str(root / LARGE / "imagenet_1k/val") in scanned


def test_an_image_that_cannot_be_read_names_its_path(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    images = ImageList([str(tmp_path / "bad.png"), str(tmp_path / "gone.png")], [0, 1])
    for i, name in enumerate(("bad.png", "gone.png")):
        with pytest.raises(OSError, match=f"cannot read the image .*{name}"):
            images[i]
    with pytest.raises(ValueError, match="1 paths with 2 labels"):
        ImageList(["a"], [0, 1])


def test_counts_of_the_benchmarks():
    total = {name: sum(count for _, count in b.id_sets.values()) for name, b in BENCHMARKS.items()}
    assert total == {
        "imagenet1k": 45_000,
        "imagenet200": 9_000,
        "cifar10": 9_000,
        "cifar100": 9_000,
        "imagenet1k_mos": 50_000,
    }
    assert {name: count for name, (_, count) in BENCHMARKS["imagenet1k_mos"].far.items()} == {
        "iNaturalist": 10_000,
        "SUN": 10_000,
        "Places": 10_000,
        "Textures": 5_640,
    }


def test_class_names_of_the_benchmarks():
    sizes = {"imagenet1k": 1000, "imagenet200": 200, "cifar10": 10, "cifar100": 100}
    found = {name: list(class_names_of(name)) for name in sizes}
    assert {name: len(names) for name, names in found.items()} == sizes
    assert all(len(set(names)) == len(names) and all(map(str.strip, names)) for names in found.values())
    assert sorted(found["cifar100"]) == found["cifar100"] and sorted(found["cifar10"]) == found["cifar10"]
    assert [found["cifar100"][i] for i in (1, 46, 98)] == ["aquarium fish", "man", "woman"]
    pairs = zip(found["imagenet1k"], open_clip.IMAGENET_CLASSNAMES, strict=True)
    assert [pair for pair in pairs if pair[0] != pair[1]] == [
        ("projectile", "missile"),
        ("sunglass", "sunglasses"),
    ]
    labels = np.array(IMAGENET_200_LABELS)
    assert len(labels) == 200 and (np.diff(labels) > 0).all() and labels[-1] < 1000
    for place, name in {0: "goldfish", 1: "great white shark", 16: "scorpion", 199: "acorn"}.items():
        assert found["imagenet200"][place] == name
    # ImageNet-R in OpenOOD's lists: n02607072, n03498962, n01770393 are 393, 596, 71 of the 1,000 and 110,
    # 144, 16 of the 200
    assert (
        IMAGENET_200_LABELS[110] == 393 and IMAGENET_200_LABELS[144] == 596 and IMAGENET_200_LABELS[16] == 71
    )


def lists_of(root, text, encoding="utf-8"):
    (root / "ood").mkdir(exist_ok=True)
    for i in range(3):
        Image.new("RGB", (8, 8)).save(root / f"ood/{i} à.png")
    (root / "ood.txt").write_bytes(text.encode(encoding))
    (root / "id.txt").write_text("ood/0 à.png 0\n", "utf-8")
    return OpenOODDataModule(str(root), "cifar10", near={"x": "ood.txt"}, far={}, id_lists=["id.txt"])


LINES = "".join(f"ood/{i} à.png -1\n" for i in range(3))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
def test_lists_with_marks_and_line_ends_of_other_systems_are_read(tmp_path, encoding, end):
    data = lists_of(tmp_path, LINES.replace("\n", end), encoding)
    assert data.ood_sets["x"].paths == [str(tmp_path / f"ood/{i} à.png") for i in range(3)]


@pytest.mark.parametrize(
    ("text", "encoding", "match"),
    [
        ("\n" + LINES, "latin-1", r"ood\.txt: 1 bad lines; line 2 is not UTF-8: b'\\xe0"),
        (LINES, "utf-16-le", r"ood\.txt: 1 bad lines; .*UTF-8"),
        (LINES + "ood/1\0.png -1", "utf-8", r"ood\.txt: 1 bad lines; .*NUL"),
        (LINES + "ood/1.png " + "9" * 5000, "utf-8", "line 4 has no label"),
    ],
)
def test_lists_of_other_encodings_are_named_with_the_line(tmp_path, text, encoding, match):
    with pytest.raises(ValueError, match=match):
        lists_of(tmp_path, text, encoding)


def test_a_list_that_is_no_file_is_never_opened(tmp_path):
    lists_of(tmp_path, LINES)
    for name in ("pipe.txt", "folder.txt", "gone.txt"):
        {"p": os.mkfifo, "f": os.mkdir, "g": lambda path: os.symlink("/mnt/not-mounted", path)}[name[0]](
            tmp_path / name
        )
        with pytest.raises(FileNotFoundError, match=f"{name}: no such list"):
            OpenOODDataModule(str(tmp_path), "cifar10", near={"x": name}, far={}, id_lists=["id.txt"])


def test_links_to_nothing_pipes_and_folders_are_missing_images(tmp_path):
    lists_of(tmp_path, LINES)
    (tmp_path / "real.png").symlink_to(tmp_path / "ood/0 à.png")
    (tmp_path / "gone.png").symlink_to("/mnt/not-mounted/0.png")
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    names = ["real.png", "gone.png", "round.png", "folder.png", "pipe.png", "n" * 300 + "/a.png"]
    (tmp_path / "ood.txt").write_text("".join(f"{name} -1\n" for name in names))
    with pytest.raises(
        FileNotFoundError, match=r"ood\.txt: 5 of 6 images missing, first .*gone\.png, .*round\.png, .*folder"
    ):
        OpenOODDataModule(str(tmp_path), "cifar10", near={"x": "ood.txt"}, far={}, id_lists=["id.txt"])


def test_a_folder_of_linked_class_folders_is_found_whole(tmp_path):
    lists_of(tmp_path, LINES)
    (tmp_path / "away").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "away/a.jpe", "JPEG")
    (tmp_path / "Textures/images/here").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "Textures/images/here/b.gif")
    (tmp_path / "Textures/images/dotted").symlink_to(tmp_path / "away")
    data = OpenOODDataModule(str(tmp_path), "cifar10", near={"x": "Textures"}, far={}, id_lists=["id.txt"])
    assert [Path(path).name for path in data.ood_sets["x"].paths] == ["a.jpe", "b.gif"]
