"""Faulty and odd image files, through data sets and loaders."""

import resource
import zipfile
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from faulty import GREY, GREY8, Faults, drawing, expected
from PIL import Image, ImageFile, ImageOps
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from ants_lightning import ANTS, demo
from ants_lightning.data import HFDataset, ImageList, MixedStream
from ants_lightning.data.columns import label_of, path_of
from ants_lightning.data.huggingface import _decode
from ants_lightning.data.reading import collate, log_lost, open_image, to_rgb
from ants_lightning.demo.scenery import SCENES
from ants_lightning.demo.shapes import ID_CLASSES

QUIET = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    return Faults(tmp_path_factory.mktemp("faults"))


def test_every_kind_of_image_becomes_the_right_pixels(faults):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    for name, pixels in faults.pixels.items():
        image = open_image(faults.folder / "id" / name)
        assert image.mode == "RGB" and np.array_equal(np.asarray(image), pixels), name
    # the torchvision loader clips 16 bits; ours can take its place
    assert np.asarray(faults.ood.loader(faults.folder / "id/grey16.png")).mean() > 250
    own = ImageFolder(faults.folder, loader=open_image)
    place = next(i for i, (path, _) in enumerate(own.samples) if path.endswith("grey16.png"))
    assert np.array_equal(np.asarray(own[place][0]), faults.pixels["grey16.png"])


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "LA", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "I;16B", "I;16L"],
)
def test_every_mode_gives_rgb(mode, recwarn):
    assert to_rgb(Image.new(mode, (5, 4))).getpixel((0, 0))[0] in (0, *range(245, 256)) and not recwarn.list


def test_pillow_does_not_warn_of_a_palette_with_transparency(faults, recwarn):
    open_image(faults.folder / "id/palette.png")
    assert not recwarn.list


def test_one_shade_beyond_all_ranges_is_black():
    assert to_rgb(Image.fromarray(np.full((2, 2), 1e6, np.float32))).getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_lost_is_the_faulty_item_and_the_rest_is_the_same_bits(faults, workers):
    transform = ANTS(demo.CLIP).preprocess
    data = faults.data(transform=transform, num_workers=workers)
    data.trainer = L.Trainer(**QUIET)
    data.setup("test")
    stream = data.streams["scenes"]
    good, lost = expected(faults, stream, transform)
    assert len(good) + len(lost) == len(stream) == 95 and len(lost) == 9
    for k, batch in enumerate(data.test_dataloader()["scenes"]):
        here = range(8 * k, min(8 * k + 8, 95))
        assert batch["index"].tolist() == [i for i in here if i in good]
        assert torch.equal(batch["image"], torch.stack([good[i][0] for i in here if i in good]))
        assert batch["label"].tolist() == [good[i][1] for i in here if i in good]
        assert batch["path"] == [good[i][2] for i in here if i in good]
        assert ("lost" in batch) == any(i in lost for i in here)
        told = batch.get("lost", [])
        assert [(one["index"], (one["path"], one["label"])) for one in told] == [
            (i, lost[i]) for i in here if i in lost
        ]
        for one in told:
            assert one["why"].startswith(faults.why.get(Path(one["path"]).name, "OSError") + ": ")
            with pytest.raises(OSError, match=Path(one["path"]).name if one["label"] >= 0 else "truncated"):
                stream.raw_image(one["index"])


def test_a_batch_of_which_nothing_is_left():
    class Torn(Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, i):
            raise EOFError(f"image {i}\nis torn")

    stream = MixedStream(Torn(), demo.DrawnImages(SCENES, 2, 0), pil_to_tensor, order="id_first")
    first, second = DataLoader(stream, batch_size=6, collate_fn=collate)
    assert first["image"].shape == (0, 3, 1, 1) and first["label"].shape == first["index"].shape == (0,)
    assert first["label"].dtype == first["index"].dtype == torch.int64 and len(first["lost"]) == 6
    assert (
        first["lost"][2]["why"] == f"EOFError: image {int(stream.order[2])} is torn"
        and first["lost"][2]["label"] == -1
    )
    assert second["label"].tolist() == [-1, -1] and "lost" not in second and "path" not in second


def test_images_of_any_data_set_are_rgb_for_the_model_and_the_mllm():
    stream = MixedStream([(Image.fromarray(GREY), 0)], [(Image.fromarray(GREY), 0)], np.asarray)
    for i in range(2):
        for found in (stream[i]["image"], np.asarray(stream.raw_image(i))):
            assert np.array_equal(found, np.stack([GREY8] * 3, 2))


def test_a_transform_that_raises_loses_the_image_and_a_bug_ends_the_run():
    def picky(image):
        if image.size == (3, 3):
            raise ZeroDivisionError("too small")
        return torch.zeros(3, 2, 2)

    small = [(Image.new("RGB", (3, 3)), 4), (Image.new("RGB", (5, 5)), 5)]
    stream = MixedStream(small, demo.DrawnImages(SCENES, 1, 0), picky, order="id_first")
    items = {int(stream.order[i]): stream[i] for i in range(3)}
    assert items[0]["lost"]["why"] == "ZeroDivisionError: too small" and items[0]["lost"]["label"] == 4
    assert items[1]["label"] == 5 and items[2]["label"] == -1
    with pytest.raises(NameError):
        MixedStream(small, small, lambda image: no_such_name)[0]  # noqa: F821
    with pytest.raises(TypeError, match=r"got \['Tensor', 'int'\] at"):
        MixedStream([(torch.zeros(3, 4, 4), 0)], small, picky, order="id_first")[0]
    # As of a Hugging Face row without image
    none = MixedStream([(None, 7)], small, picky, order="id_first")[0]["lost"]
    assert none["label"] == 7 and none["why"].startswith("AttributeError")


def test_paths_and_labels_are_told_without_decoding(faults, tmp_path):
    folder = ImageFolder(faults.folder / "ood")
    listed = ImageList(["a/x.png", "b/y.png"], [5, 6])
    for data, place, path, label in (
        (folder, 3, folder.samples[3][0], 0),
        (listed, 1, "b/y.png", 6),
        (Subset(Subset(listed, [1, 0]), [0]), 0, "b/y.png", 6),
        (demo.DrawnImages(ID_CLASSES, 3, 0), 2, "", demo.DrawnImages(ID_CLASSES, 3, 0).labels[2]),
        ([1, 2], 0, "", -1),
    ):
        assert (path_of(data, place), label_of(data, place)) == (path, label)
    datasets = pytest.importorskip("datasets")
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    torn = {"bytes": b"no image", "path": None}
    rows = {"image": [drawing(), torn, None], "label": [2, 4, 6]}
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(str(tmp_path / "rows"))
    stream = MixedStream(
        HFDataset(str(tmp_path / "rows")), folder, lambda image: image.size, order="id_first"
    )
    items = {int(stream.order[i]): stream[i] for i in range(3)}
    assert items[0]["label"] == 2 and items[0]["image"] == (64, 64)
    assert [items[i]["lost"]["label"] for i in (1, 2)] == [4, 6] and items[1]["lost"]["why"].startswith(
        "UnidentifiedImageError"
    )


def test_of_each_kind_of_loss_the_first_is_logged(caplog):
    told = {}
    lost = [
        {"index": i, "path": f"{i}.png", "why": why}
        for i, why in enumerate(["OSError: a", "EOFError: b", "OSError: c"])
    ]
    for part in (lost[:1], [], lost[1:]):
        log_lost(part, told)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split("): ")[1] for message in messages] == ["0.png OSError: a", "1.png EOFError: b"]
    assert told == {"OSError": "OSError: a", "EOFError": "EOFError: b"}


@pytest.mark.parametrize("size", [(1, 30_000), (30_000, 1), (3, 20_000), (7, 225), (2, 65)])
def test_of_a_long_line_the_middle_is_read(tmp_path, size):
    pixels = np.zeros((*size[::-1], 3), np.uint8)
    long = int(size[0] > size[1])
    pixels[..., 0] = np.expand_dims(np.arange(max(size)) % 251, 1 - long)
    Image.fromarray(pixels).save(tmp_path / "line.png")
    read = np.asarray(open_image(tmp_path / "line.png"))
    most = 32 * min(size)
    assert sorted(read.shape[:2]) in ([min(size), most], [min(size), most + 1])
    cut = (max(size) - max(read.shape)) // 2
    keep = slice(cut, cut + max(read.shape))
    assert np.array_equal(read, pixels[keep] if not long else pixels[:, keep])


@pytest.mark.parametrize("size", [(1, 32), (64, 2), (5, 160), (40, 30), (1, 1)])
def test_images_of_usual_shapes_are_read_whole(size):
    image = Image.effect_noise(size, 90).convert("RGB")
    assert to_rgb(image).tobytes() == image.tobytes()


def test_a_thin_image_costs_no_memory_in_any_set_for_the_model_and_the_mllm():
    model, thin = ANTS(demo.CLIP), [(Image.new("RGB", (1, 30_000)), 0), (Image.new("P", (30_000, 1)), 0)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stream = MixedStream(thin, thin, model.preprocess)
    for i in range(4):
        assert stream[i]["image"].shape == (3, 64, 64) and max(stream.raw_image(i).size) <= 33
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_exif_turns_no_picture_wherever_it_comes_from(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "png", "webp"):
        Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / f"a.{suffix}", exif=exif)
        with Image.open(tmp_path / f"a.{suffix}") as image:
            shown = to_rgb(image)
            assert shown.size == (40, 20) and ImageOps.exif_transpose(image).size == (20, 40)
            assert ImageOps.exif_transpose(shown).size == (40, 20)  # nor later: processors of MLLMs obey EXIF
    datasets = pytest.importorskip("datasets")
    blob = (tmp_path / "a.jpg").read_bytes()
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {
        "image": [{"bytes": blob, "path": None}, {"bytes": None, "path": str(tmp_path / "a.jpg")}],
        "label": [0, 1],
    }
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(str(tmp_path / "rows"))
    data = HFDataset(str(tmp_path / "rows"))
    assert [data[i][0].size for i in range(2)] == [(40, 20)] * 2
    assert ImageList([str(tmp_path / "a.jpg")], [0])[0][0].size == (40, 20)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "a.jpg", "in/a.jpg")
    row = {"bytes": None, "path": f"zip://in/a.jpg::{tmp_path}/all.zip"}
    assert _decode(row).size == (40, 20) and _decode(None) is None
    assert datasets.Dataset.from_dict(
        {"image": ["no image"]}
    ).features  # a column of another kind stays as it is


def test_labels_of_a_hugging_face_set_that_are_none_are_named(tmp_path):
    datasets = pytest.importorskip("datasets")
    for labels, kind, shown in (
        (["bell", "cow"], "string", "'bell'"),
        ([None, 1], "int64", "None"),
        ([-1, 1], "int64", "-1"),
    ):
        kinds = datasets.Features({"image": datasets.Image(), "label": datasets.Value(kind)})
        folder = str(tmp_path / shown.strip("'"))
        datasets.Dataset.from_dict(
            {"image": [drawing(), drawing(1)], "label": labels}, features=kinds
        ).save_to_disk(folder)
        data = HFDataset(folder)
        stream = MixedStream(data, demo.DrawnImages(SCENES, 2, 0), pil_to_tensor, order="id_first")
        with pytest.raises(ValueError, match=rf"image 0 of the ID set.*label {shown}"):
            [stream[i] for i in range(2)]
        assert (
            MixedStream(demo.DrawnImages(SCENES, 2, 0), data, pil_to_tensor, order="id_first")[3]["label"]
            == -1
        )
