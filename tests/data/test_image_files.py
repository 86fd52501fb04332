"""What a folder holds: which files are taken as images, and what is told of the others."""

import os

import pytest
from PIL import Image

from ants_lightning.data.image_files import find_images, image_extensions
from ants_lightning.data.reading import open_image


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


def found(folder):
    return [os.path.relpath(path, folder) for path in find_images(folder)]


def test_links_are_followed_once_and_never_round_and_round(tmp_path, caplog):
    root, away = tmp_path / "root", tmp_path / "away"
    for path in (
        "root/camera/b.png",
        "root/z/c.png",
        "away/monday/a.png",
        "away/monday/deep/d.png",
        "outside.png",
    ):
        picture(tmp_path / path)
    (root / "camera/monday").symlink_to(away / "monday")
    (root / "again").symlink_to(away / "monday/deep")  # found by the way of neither twice
    (root / "a_link_to_z").symlink_to(root / "z")  # a real folder of the root keeps its own name
    (root / "z/up").symlink_to(root)
    (root / "z/top").symlink_to(tmp_path)
    (root / "z/all").symlink_to("/")
    (away / "monday/back").symlink_to(away)
    (root / "one.png").symlink_to(tmp_path / "outside.png")  # links to files are images of their own
    assert found(root) == ["again/d.png", "camera/b.png", "camera/monday/a.png", "one.png", "z/c.png"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"5 images in the folder {root}; left out: ")
    assert f"2 links to a folder that holds this one ({root}/z/all)" in message
    assert f"4 links to a folder that is taken already ({root}/a_link_to_z)" in message


def test_what_is_no_image_is_left_out_and_told_by_reason(tmp_path, caplog):
    for name in (
        "a.png",
        "B.PNG",
        ".hidden.png",
        "._a.png",
        ".ipynb_checkpoints/a.png",
        "__MACOSX/a.png",
        "sub/c.png",
    ):
        picture(tmp_path / name)
    for name in ("notes.txt", "paper.pdf", "figure.eps", "film.mpg", "table.h5", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"no image")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    (tmp_path / "odd\x1b[31m\n.docx").touch()
    assert found(tmp_path) == ["B.PNG", "a.png", "sub/c.png"]
    (message,) = [record.getMessage() for record in caplog.records]
    for part in (
        f"4 hidden ({tmp_path}/._a.png)",
        f"2 links to nothing ({tmp_path}/gone.png)",
        f"1 no regular files ({tmp_path}/pipe.png)",
        f"7 of no image format that can be read here ({tmp_path}/Thumbs.db)",
    ):
        assert part in message
    assert "\x1b" not in message and "\n" not in message


def test_a_folder_of_nothing_but_images_is_not_spoken_of(tmp_path, caplog):
    picture(tmp_path / "a.png")
    assert found(tmp_path) == ["a.png"] and not caplog.records


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_told(tmp_path, caplog):
    picture(tmp_path / "a.png")
    picture(tmp_path / "shut/b.png")
    (tmp_path / "shut").chmod(0)
    assert found(tmp_path) == ["a.png"] and "1 folders that cannot be read" in caplog.text


def test_an_error_of_the_disk_in_one_folder_costs_that_folder(tmp_path, caplog, monkeypatch):
    picture(tmp_path / "a.png")
    picture(tmp_path / "torn/b.png")
    scan = os.scandir

    def torn(folder):
        if str(folder).endswith("torn"):
            raise OSError(5, "Input/output error")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", torn)
    assert found(tmp_path) == ["a.png"] and f"1 folders that cannot be read ({tmp_path}/torn)" in caplog.text


def test_all_formats_that_pillow_reads_here_and_no_others(tmp_path):
    known = image_extensions()
    kinds = {
        "jpg": "JPEG",
        "jpeg": "JPEG",
        "jfif": "JPEG",
        "jpe": "JPEG",
        "png": "PNG",
        "apng": "PNG",
        "gif": "GIF",
        "bmp": "BMP",
        "tif": "TIFF",
        "webp": "WEBP",
        "avif": "AVIF",
        "jp2": "JPEG2000",
        "ppm": "PPM",
        "tga": "TGA",
        "ico": "ICO",
        "mpo": "MPO",
    }
    for suffix, kind in kinds.items():
        try:
            Image.new("RGB", (16, 16)).save(tmp_path / f"a.{suffix}", kind)
        except (KeyError, OSError):  # Pillow was built without it
            continue
        assert open_image(tmp_path / f"a.{suffix}").size == (16, 16) and f".{suffix}" in known
    assert not {".pdf", ".eps", ".ps", ".mpg", ".mpeg", ".h5", ".hdf", ".wmf", ".txt", ".docx", ".svg"} & set(
        known
    )


def test_a_plug_in_that_is_registered_counts(monkeypatch):
    Image.init()
    monkeypatch.setitem(Image.OPEN, "HEIF", (lambda file, name: None, None))
    monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")
    assert ".heic" in image_extensions()
