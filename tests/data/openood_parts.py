"""OpenOOD's layout, written with a few small images."""

from PIL import Image

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
