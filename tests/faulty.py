"""A folder of faulty image files, and what must become of each."""

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import ImageFolder

from ants_lightning import demo
from ants_lightning.data import ImageList, OODDataModule
from ants_lightning.demo.scenery import SCENES
from ants_lightning.demo.shapes import ID_CLASSES

GREY = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
GREY8 = (GREY / 257).round().astype(np.uint8)


def drawing(seed=0):
    return demo.DrawnImages(SCENES, 1, seed)[0][0]


def write_lost(folder):
    """One file of each kind that cannot be had, by the exception that tells it."""
    drawing().save(folder / "whole.jpg")
    drawing().save(folder / "whole.png")
    for kind in ("jpg", "png"):
        whole = (folder / f"whole.{kind}").read_bytes()
        (folder / f"truncated.{kind}").write_bytes(whole[: len(whole) // 2])
        (folder / f"whole.{kind}").unlink()
    (folder / "zero.jpg").touch()
    (folder / "text.jpg").write_text("Not an image, whatever its name says.\n" * 50)
    (folder / "folder.png").mkdir()
    Image.new("1", (14_000, 14_000)).save(folder / "huge.png")  # 196 million pixels in 24 kB
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(folder / "nan.tiff")
    return {
        "truncated.jpg": "OSError",
        "truncated.png": "OSError",
        "zero.jpg": "UnidentifiedImageError",
        "text.jpg": "UnidentifiedImageError",
        "folder.png": "IsADirectoryError",
        "missing.png": "FileNotFoundError",
        "huge.png": "DecompressionBombError",
        "nan.tiff": "ValueError",
    }


def write_odd(folder):
    """Files of every other kind, and the pixels `(h, w, 3)` that they must give; None: those of Pillow's
    own conversion.
    """
    image = drawing()
    red = Image.new("RGB", (64, 64), (250, 0, 0))
    green = Image.new("RGB", (64, 64), (0, 250, 0))
    alpha = Image.fromarray(GREY8)
    grey = np.stack([GREY8] * 3, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees: not obeyed
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(GREY).save(folder / "grey16.png")
    Image.fromarray(GREY.astype(">u2")).save(folder / "grey16big.tiff")
    Image.fromarray(GREY.astype(np.int32)).save(folder / "grey32.tiff")
    Image.fromarray(GREY8.astype(np.int32)).save(folder / "grey8in32.tiff")
    Image.fromarray(GREY.astype(np.int32) * 1000 - 5000).save(folder / "stretched.tiff")
    Image.fromarray(GREY.astype(np.float32) / 65535).save(folder / "float.tiff")
    red.save(folder / "animated.gif", save_all=True, append_images=[green])
    red.save(folder / "animated.webp", save_all=True, append_images=[green], lossless=True)
    red.save(folder / "animated.png", save_all=True, append_images=[green])
    Image.merge("RGBA", (*image.split(), alpha)).save(folder / "rgba.png")
    Image.merge("LA", (alpha, alpha)).save(folder / "la.png")
    palette = image.quantize(16)
    palette.save(folder / "palette.png", transparency=bytes(range(0, 160, 10)))
    image.convert("1").save(folder / "bits.png")
    image.save(folder / "turned.png", exif=exif)
    image.save(folder / "exif.jpg", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xffrubbish", quality=95)
    reds = np.asarray(red)
    pixels = {
        "cmyk.jpg": None,
        "grey16.png": grey,
        "grey16big.tiff": grey,
        "grey32.tiff": grey,
        "grey8in32.tiff": grey,
        "stretched.tiff": grey,
        "float.tiff": grey,
        "animated.gif": reds,
        "animated.webp": reds,
        "animated.png": reds,
        "rgba.png": np.asarray(image),
        "la.png": grey,
        "palette.png": np.asarray(palette.convert("RGB")),
        "bits.png": np.asarray(image.convert("1").convert("RGB")),
        "turned.png": np.asarray(image),
        "exif.jpg": None,
    }
    for name in ("cmyk.jpg", "exif.jpg"):
        with Image.open(folder / name) as odd:
            pixels[name] = np.asarray(odd.convert("RGB"))
    return pixels


class Faults:
    """A folder with 40 good ID files (drawings of the ID classes), 30 good OOD files, and all the faulty
    ones among both.
    """

    def __init__(self, folder):
        self.folder = folder
        for name in ("id", "ood/kind"):
            (folder / name).mkdir(parents=True)
        drawn, other = demo.DrawnImages(ID_CLASSES, 40, 1), demo.DrawnImages(SCENES, 30, 2)
        for i, (image, _) in enumerate(drawn):
            image.save(folder / f"id/{i:02}.png")
        for i, (image, _) in enumerate(other):
            image.save(folder / f"ood/kind/{i:02}.png")
        self.why = write_lost(folder / "id")
        self.pixels = write_odd(folder / "id")
        cut = (folder / "ood/kind/07.png").read_bytes()[:-300]
        (folder / "ood/kind/07x.png").write_bytes(cut)
        names = [f"{i:02}.png" for i in range(40)]
        names[5:5], names[20:20] = list(self.why), list(self.pixels)
        self.labels = [drawn.labels[int(name[:2])] if name[0].isdigit() else 3 for name in names]
        self.paths = [str(folder / "id" / name) for name in names]
        self.ood = ImageFolder(folder / "ood")  # a data set that is not ours

    @property
    def ids(self):
        return ImageList(self.paths, self.labels)

    def data(self, **settings):
        settings = {"batch_size": 8, "num_workers": 0, "class_names": ID_CLASSES, **settings}
        return OODDataModule(self.ids, far={"scenes": self.ood}, seed=3, **settings)


def pixels_of(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def expected(faults, stream, transform):
    """By a plain loop: good images by index, and index → (path, label) of those lost."""
    good, lost = {}, {}
    for index, place in enumerate(stream.order.tolist()):
        n = len(faults.paths)
        path = faults.paths[place] if place < n else faults.ood.samples[place - n][0]
        label = faults.labels[place] if place < n else -1
        name = Path(path).name
        if name in faults.why or name == "07x.png":
            lost[index] = (path, label)
        else:
            odd = faults.pixels.get(name) if place < n else None
            good[index] = (transform(pixels_of(path) if odd is None else Image.fromarray(odd)), label, path)
    return good, lost
