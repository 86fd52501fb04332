"""The benchmarks from OpenOOD's own layout."""

import os
import shutil

import pytest
import torch
from openood_parts import LARGE, LAYOUTS, draw, layout

from ants_lightning.data import OpenOODDataModule
from ants_lightning.data.class_names import class_names_of
from ants_lightning.data.openood import BENCHMARKS

NEAR_FAR = {
    "imagenet1k": (["ssb_hard", "ninco"], ["inaturalist", "textures", "openimage_o"]),
    "imagenet200": (["ssb_hard", "ninco"], ["inaturalist", "textures", "openimage_o"]),
    "cifar10": (["cifar100", "tin"], ["mnist", "svhn", "texture", "places365"]),
    "cifar100": (["cifar10", "tin"], ["mnist", "svhn", "texture", "places365"]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_benchmark_is_read_from_openoods_layout(tmp_path, name, caplog):
    root = layout(tmp_path, name)
    data = OpenOODDataModule(
        root, name, batch_size=4, num_workers=0, transform=lambda image: torch.tensor(image.size)
    )
    near, far = NEAR_FAR[name]
    assert data.groups == {**dict.fromkeys(near, "near"), **dict.fromkeys(far, "far")}
    assert list(data.groups) == [*near, *far] and data.class_names == list(
        class_names_of(BENCHMARKS[name].classes)
    )
    lists, entries = LAYOUTS[name]
    folder, pattern, labels = entries[f"test_{lists}"]
    assert data.id_set.labels == labels and data.id_set.classes == data.class_names
    assert data.id_set.paths == [str(root / folder / pattern.format(f"{i:04}")) for i in range(len(labels))]
    for ood in (*near, *far):
        folder, pattern, _ = entries[f"test_{ood}"]
        assert data.ood_sets[ood].paths == [str(root / folder / pattern.format(f"{i:04}")) for i in range(3)]
    image, label = data.ood_sets["tin" if "cifar" in name else "ninco"][1]
    assert (image.mode, image.size, label, image.getpixel((0, 0))[0]) == ("RGB", (8, 8), -1, 1)
    data.setup("test")
    assert {len(stream) for stream in data.streams.values()} == {len(labels) + 3}
    # that these lists are tiny is told, for each
    assert sum("not comparable" in record.message for record in caplog.records) == 1 + len(near) + len(far)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("imagenet1k", [0, 999, 5, 7, 8, 393, 393]),
        ("imagenet200", [0, 199, 0, 8, 110]),
        ("cifar10", [0, 9, 7]),
    ],
)
def test_full_spectrum_takes_covariate_shifted_images_as_id(tmp_path, name, labels):
    data = OpenOODDataModule(layout(tmp_path, name), name, covariate_shifted=True)
    assert data.id_set.labels == labels and list(data.groups) == [
        *NEAR_FAR[name][0],
        *NEAR_FAR[name][1],
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
