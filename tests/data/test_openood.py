import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ants_lightning.cli import main
from ants_lightning.data import ImageList, OpenOODDataModule
from ants_lightning.data.class_names import IMAGENET_200_LABELS, class_names_of
from ants_lightning.data.image_lists import leaves_root
from ants_lightning.data.openood import BENCHMARKS

PACK = Path(__file__).parents[3] / "shared/data/openood_pack"
LARGE, CLASSIC = "images_largescale", "images_classic"
# benchmark → list file of benchmark_imglist → (image folder, path of an image, ID labels or None), as OpenOOD
# v1.5 has them
IMAGENET_OOD = {
    "test_ssb_hard": (LARGE, "ssb_hard/n01/{}.JPEG", None),
    "test_ninco": (LARGE, "ninco/x/{}.jpeg", None),
    "test_inaturalist": (LARGE, "inaturalist/images/{}.jpg", None),
    "test_textures": (CLASSIC, "texture/dots/{}.jpg", None),
    "test_openimage_o": (LARGE, "openimage_o/images/{}.jpg", None),
}
CIFAR_OOD = {
    "test_tin": (CLASSIC, "tin/val/images/val_{}.JPEG", None),
    "test_mnist": (CLASSIC, "mnist/test/{}.png", None),
    "test_svhn": (CLASSIC, "svhn/test/{}.png", None),
    "test_texture": (CLASSIC, "texture/dots/{}.jpg", None),
    "test_places365": (CLASSIC, "places365/field/{}.jpg", None),
}
LAYOUTS = {
    "imagenet1k": (
        "imagenet",
        {
            "test_imagenet": (LARGE, "imagenet_1k/val/ILSVRC2012_val_{}.JPEG", [0, 999, 5]),
            "val_imagenet": (LARGE, "imagenet_1k/val/ILSVRC2012_val_1{}.JPEG", [1, 2]),
            "test_imagenet_v2": (LARGE, "imagenet_v2/7/{}.jpeg", [7]),
            "test_imagenet_c": (LARGE, "imagenet_c/fog/3/{}.JPEG", [8]),
            "test_imagenet_r": (LARGE, "imagenet_r/n02607072/misc_{}.jpg", [393, 393]),
            **IMAGENET_OOD,
        },
    ),
    "imagenet200": (
        "imagenet200",
        {
            "test_imagenet200": (LARGE, "imagenet_1k/val/n01443537/ILSVRC2012_val_{}.JPEG", [0, 199]),
            "test_imagenet200_v2": (LARGE, "imagenet_v2/1/{}.jpeg", [0]),
            "test_imagenet200_c": (LARGE, "imagenet_c/fog/3/{}.JPEG", [8]),
            "test_imagenet200_r": (LARGE, "imagenet_r/n02607072/misc_{}.jpg", [110]),
            **IMAGENET_OOD,
        },
    ),
    "cifar10": (
        "cifar10",
        {
            "test_cifar10": (CLASSIC, "cifar10/test/airplane/{}.png", [0, 9]),
            "test_cifar10c": (CLASSIC, "cifar10c/{}_7.png", [7]),
            "test_cifar100": (CLASSIC, "cifar100/test/man/{}.png", None),
            **CIFAR_OOD,
        },
    ),
    "cifar100": (
        "cifar100",
        {
            "test_cifar100": (CLASSIC, "cifar100/test/man/{}.png", [46, 99]),
            "test_cifar10": (CLASSIC, "cifar10/test/cat/{}.png", None),
            **CIFAR_OOD,
        },
    ),
}
NEAR_FAR = {
    "imagenet1k": (["ssb_hard", "ninco"], ["inaturalist", "textures", "openimage_o"]),
    "imagenet200": (["ssb_hard", "ninco"], ["inaturalist", "textures", "openimage_o"]),
    "cifar10": (["cifar100", "tin"], ["mnist", "svhn", "texture", "places365"]),
    "cifar100": (["cifar10", "tin"], ["mnist", "svhn", "texture", "places365"]),
}


def draw(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path, "PNG")  # the decoder looks at the content, not at the name


def write_list(root, name, images, labels, folder=""):
    """A list of images that are drawn too, each in a colour of its own."""
    path = root / "benchmark_imglist" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image} {label}\n" for image, label in zip(images, labels, strict=True)))
    for i, image in enumerate(images):
        draw(root / folder / image, (i, sum(map(ord, name)) % 256, 0))


def layout(root, benchmark, drop=()):
    lists, entries = LAYOUTS[benchmark]
    for name, (folder, pattern, labels) in entries.items():
        labels = labels or [-1] * 3
        write_list(
            root, f"{lists}/{name}", [pattern.format(f"{i:04}") for i in range(len(labels))], labels, folder
        )
    for name in drop:
        (root / "benchmark_imglist" / lists / f"{name}.txt").unlink()
    return root


@pytest.mark.parametrize("benchmark", LAYOUTS)
def test_every_benchmark_is_read_from_openoods_layout(tmp_path, benchmark, caplog):
    root = layout(tmp_path, benchmark)
    data = OpenOODDataModule(
        root, benchmark, batch_size=4, num_workers=0, transform=lambda image: torch.tensor(image.size)
    )
    near, far = NEAR_FAR[benchmark]
    assert data.groups == {**dict.fromkeys(near, "near"), **dict.fromkeys(far, "far")}
    assert list(data.groups) == [*near, *far] and data.class_names == list(
        class_names_of(BENCHMARKS[benchmark].classes)
    )
    lists, entries = LAYOUTS[benchmark]
    folder, pattern, labels = entries[f"test_{lists}"]
    assert data.id_set.labels == labels and data.id_set.classes == data.class_names
    assert data.id_set.paths == [str(root / folder / pattern.format(f"{i:04}")) for i in range(len(labels))]
    for name in (*near, *far):
        folder, pattern, _ = entries[f"test_{name}"]
        assert data.ood_sets[name].paths == [str(root / folder / pattern.format(f"{i:04}")) for i in range(3)]
    image, label = data.ood_sets["tin" if "cifar" in benchmark else "ninco"][1]
    assert (image.mode, image.size, label, image.getpixel((0, 0))[0]) == ("RGB", (8, 8), -1, 1)
    data.setup("test")
    assert {len(stream) for stream in data.streams.values()} == {len(labels) + 3}
    # that these lists are tiny is told, for each
    assert sum("not comparable" in record.message for record in caplog.records) == 1 + len(near) + len(far)


@pytest.mark.parametrize(
    ("benchmark", "labels"),
    [
        ("imagenet1k", [0, 999, 5, 7, 8, 393, 393]),
        ("imagenet200", [0, 199, 0, 8, 110]),
        ("cifar10", [0, 9, 7]),
    ],
)
def test_full_spectrum_takes_covariate_shifted_images_as_id(tmp_path, benchmark, labels):
    data = OpenOODDataModule(layout(tmp_path, benchmark), benchmark, covariate_shifted=True)
    assert data.id_set.labels == labels and list(data.groups) == [
        *NEAR_FAR[benchmark][0],
        *NEAR_FAR[benchmark][1],
    ]


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'cifar100' has no covariate-shifted"):
        OpenOODDataModule(tmp_path, "cifar100", covariate_shifted=True)
    with pytest.raises(ValueError, match="imagenet1k_mos, got 'imagenet'"):
        OpenOODDataModule(tmp_path, "imagenet")


def test_the_four_sets_of_mos_are_folders_and_id_are_all_validation_images(tmp_path):
    root = layout(tmp_path, "imagenet1k")
    draw(root / "iNaturalist/images/b.jpg", (1, 0, 0))
    draw(root / "iNaturalist/images/a.jpg", (2, 0, 0))
    (root / "iNaturalist/readme.txt").write_text("no image")
    draw(root / "SUN/x.JPG", (3, 0, 0))
    draw(root / LARGE / "Places/images/deep/er/p.png", (4, 0, 0))
    for kind in ("dotted", "banded"):
        draw(root / f"dtd/images/{kind}/{kind}_0001.jpg", (5, 0, 0))
    (root / "dtd/imdb").mkdir()
    shutil.move(root / "dtd", root / "Textures")
    data = OpenOODDataModule(root, "imagenet1k_mos")
    assert data.groups == dict.fromkeys(["iNaturalist", "SUN", "Places", "Textures"], "far")
    found = {name: [os.path.relpath(path, root) for path in s.paths] for name, s in data.ood_sets.items()}
    assert found == {
        "iNaturalist": ["iNaturalist/images/a.jpg", "iNaturalist/images/b.jpg"],
        "SUN": ["SUN/x.JPG"],
        "Places": [f"{LARGE}/Places/images/deep/er/p.png"],
        "Textures": ["Textures/images/banded/banded_0001.jpg", "Textures/images/dotted/dotted_0001.jpg"],
    }
    assert data.id_set.labels == [0, 999, 5, 1, 2] and data.ood_sets["SUN"][0][1] == -1
    shutil.move(root / "Textures", root / "dtd")  # under the name of its archive
    assert len(OpenOODDataModule(root, "imagenet1k_mos").ood_sets["Textures"]) == 2
    shutil.rmtree(root / "SUN")
    (root / "SUN").mkdir()
    shutil.rmtree(root / LARGE / "Places")
    with pytest.raises(FileNotFoundError) as error:
        OpenOODDataModule(root, "imagenet1k_mos")
    text = str(error.value)
    assert "2 problems" in text and "- Places: no such folder" in text and "- SUN: no images" in text


def test_all_that_is_missing_is_reported_together_with_counts_and_names(tmp_path):
    root = layout(tmp_path, "imagenet1k", drop=["test_ninco", "test_openimage_o"])
    write_list(
        root, "imagenet/test_ssb_hard", [f"ssb_hard/n{i // 4}/{i}.JPEG" for i in range(12)], [-1] * 12, LARGE
    )
    for i in (1, 3, 4, 8, 11):
        (root / LARGE / f"ssb_hard/n{i // 4}/{i}.JPEG").unlink()
    shutil.rmtree(root / CLASSIC)
    with pytest.raises(FileNotFoundError) as error:
        OpenOODDataModule(root)
    lines = str(error.value).splitlines()
    assert lines[0] == f"4 problems with the 6 lists and folders under {str(root)!r}:"
    assert lines[1] == (
        "- benchmark_imglist/imagenet/test_ssb_hard.txt: 5 of 12 images missing, first "
        "images_largescale/ssb_hard/n0/1.JPEG, images_largescale/ssb_hard/n0/3.JPEG, "
        "images_largescale/ssb_hard/n1/4.JPEG (looked in images_largescale, images_classic, the root)"
    )
    assert lines[2] == "- benchmark_imglist/imagenet/test_ninco.txt: no such list"
    textures = (
        "- benchmark_imglist/imagenet/test_textures.txt: 3 of 3 images missing, first images_classic/texture/"
    )
    assert lines[3].startswith(textures)
    assert lines[4] == "- benchmark_imglist/imagenet/test_openimage_o.txt: no such list"
    assert lines[5].startswith("What to do:") and len(lines) == 6


def test_a_root_that_is_not_there_is_reported_too(tmp_path):
    with pytest.raises(FileNotFoundError, match="7 problems"):
        OpenOODDataModule(tmp_path / "absent", "cifar10")


def test_bad_lines_are_reported_together_with_what_is_missing(tmp_path):
    root = layout(tmp_path, "cifar10", drop=["test_tin"])
    lists = root / "benchmark_imglist/cifar10"
    good = "cifar10/test/airplane/0000.png"
    (lists / "test_cifar10.txt").write_text(
        f"{good} 3\n{good}\n{good} 10\n\n{good} -1\n{good} 2.5\n{good} cat\n"
    )
    (lists / "test_mnist.txt").write_text("")
    with pytest.raises(ValueError) as error:
        OpenOODDataModule(root, "cifar10")
    text = str(error.value)
    assert "3 problems with the 7 lists" in text
    assert "test_tin.txt: no such list" in text and "test_mnist.txt: the list is empty" in text
    assert "test_cifar10.txt: 5 bad lines; line 2 has no label: " in text
    assert (
        f"line 3 has a label that is not in 0…9: '{good} 10'; line 5 has a label that is not in 0…9: "
        f"'{good} -1'\n" in text
    )


def test_labels_of_ood_lists_are_not_looked_at_and_names_may_hold_spaces(tmp_path):
    root = layout(tmp_path, "cifar10")
    write_list(root, "cifar10/test_svhn", ["svhn/test/a b 1.png", "svhn/test/c.png"], [9, 123], CLASSIC)
    data = OpenOODDataModule(root, "cifar10")
    assert data.ood_sets["svhn"].labels == [-1, -1] and data.ood_sets["svhn"].paths[0].endswith(
        "/svhn/test/a b 1.png"
    )


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../a.png",
        "a/../../b.png",
        "a\\..\\b.png",
        "C:/a.png",
        "C:a.png",
        "\\\\host\\a.png",
        "..",
    ],
)
def test_no_path_leaves_the_root(tmp_path, name):
    assert leaves_root(name)
    root = layout(tmp_path / "root", "cifar10")
    draw(tmp_path / "a.png", (1, 1, 1))
    with (root / "benchmark_imglist/cifar10/test_tin.txt").open("a") as file:
        file.write(f"{name} -1\n")
    with pytest.raises(ValueError, match=r"test_tin\.txt: 1 bad lines; line 4 leaves the root"):
        OpenOODDataModule(root, "cifar10")


@pytest.mark.parametrize("name", ["a/b.png", "a..b/c..png", "...", "a b/c.png"])
def test_names_that_only_look_so_stay_inside(name):
    assert not leaves_root(name)


@pytest.mark.parametrize(
    "settings", [{"near": {"x": "../other"}}, {"far": {"x": "/elsewhere/l.txt"}}, {"id_lists": ["../l.txt"]}]
)
def test_no_list_or_folder_is_outside_the_root(tmp_path, settings):
    with pytest.raises(ValueError, match=r"- (\.\./other|/elsewhere/l\.txt|\.\./l\.txt): leaves the root"):
        OpenOODDataModule(layout(tmp_path, "cifar10"), "cifar10", **settings)


def test_an_id_list_cannot_be_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"tin: an ID list must be a \.txt"):
        OpenOODDataModule(layout(tmp_path, "cifar10"), "cifar10", id_lists=["tin"])


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
    root = (
        tmp_path / "root"
    )  # the same photographs, but only 12 classes of ID: 1,000 names take the text tower a minute
    (root / "benchmark_imglist/imagenet").mkdir(parents=True)
    for path in PACK.iterdir():
        if path.is_dir() and path.name != "benchmark_imglist":
            (root / path.name).symlink_to(path.resolve())
    for path in (PACK / "benchmark_imglist/imagenet").glob("test_*.txt"):
        lines = [line for line in path.read_text("utf-8").splitlines() if int(line.split()[-1]) < 12]
        (root / "benchmark_imglist/imagenet" / path.name).write_text("\n".join(lines), "utf-8")
    where, sets = (
        "benchmark_imglist/imagenet/test_{}.txt".format,
        {"near": ["near_animals"], "far": ["textures", "scenes"]},
    )
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
