"""What is missing, malformed or outside the root of OpenOOD's folders."""

import shutil

import pytest
from openood_parts import CLASSIC, LARGE, draw, layout, write_list

from ants_lightning.data import OpenOODDataModule
from ants_lightning.data.image_lists import leaves_root


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
