"""`OpenOODDataModule`: the benchmarks of OpenOOD v1.5, and the four-set ImageNet benchmark of MOS."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ants_lightning.data.class_names import class_names_of, read_class_names
from ants_lightning.data.image_lists import ImageLists
from ants_lightning.data.streams import OODDataModule

# Name → list or folder, relative to the root, and how many images it has
Sources = dict[str, tuple[str, int]]

ADVICE = (
    "What to do: put OpenOOD's lists in <root>/benchmark_imglist/<benchmark>/ and its images in "
    "<root>/images_largescale and <root>/images_classic, or all images under <root>; or name the lists "
    "that you have in id_lists, near and far. Nothing is downloaded here. The layout: docs/data.md"
)


def _lists(folder: str, **counts: int) -> Sources:
    return {name: (f"benchmark_imglist/{folder}/test_{name}.txt", count) for name, count in counts.items()}


@dataclass(frozen=True)
class Benchmark:
    """The sets of a benchmark.

    `shifted` are its covariate-shifted ID sets, `classes` is the key of its class names.
    """

    classes: str
    id_sets: Sources
    far: Sources
    near: Sources = field(default_factory=dict)
    shifted: Sources = field(default_factory=dict)


def _imagenet_ood(folder: str) -> dict[str, Sources]:
    return {
        "near": _lists(folder, ssb_hard=49_000, ninco=5_879),
        "far": _lists(folder, inaturalist=10_000, textures=5_160, openimage_o=15_869),
    }


def _cifar_ood(folder: str, other: str) -> dict[str, Sources]:
    return {
        "near": _lists(folder, **{other: 9_000}, tin=7_793),
        "far": _lists(folder, mnist=70_000, svhn=26_032, texture=5_640, places365=35_195),
    }


_IMAGENET_SHIFTED = _lists("imagenet", imagenet_v2=10_000, imagenet_c=10_000, imagenet_r=30_000)

BENCHMARKS = {
    "imagenet1k": Benchmark(
        "imagenet1k",
        _lists("imagenet", imagenet=45_000),
        shifted=_IMAGENET_SHIFTED,
        **_imagenet_ood("imagenet"),
    ),
    "imagenet200": Benchmark(
        "imagenet200",
        _lists("imagenet200", imagenet200=9_000),
        **_imagenet_ood("imagenet200"),
        shifted=_lists("imagenet200", imagenet200_v2=2_000, imagenet200_c=2_000, imagenet200_r=30_000),
    ),
    "cifar10": Benchmark(
        "cifar10",
        _lists("cifar10", cifar10=9_000),
        **_cifar_ood("cifar10", "cifar100"),
        shifted=_lists("cifar10", cifar10c=10_000),
    ),
    "cifar100": Benchmark(
        "cifar100", _lists("cifar100", cifar100=9_000), **_cifar_ood("cifar100", "cifar10")
    ),
    "imagenet1k_mos": Benchmark(  # Huang & Li, CVPR 2021; ID are all 50,000 validation images
        "imagenet1k",
        _lists("imagenet", imagenet=45_000)
        | {"val_imagenet": ("benchmark_imglist/imagenet/val_imagenet.txt", 5_000)},
        far={
            name: (name, count)
            for name, count in dict(iNaturalist=10_000, SUN=10_000, Places=10_000, Textures=5_640).items()
        },
        shifted=_IMAGENET_SHIFTED,
    ),
}


class OpenOODDataModule(OODDataModule):
    """The streams of an OpenOOD benchmark, from OpenOOD's own layout, under OpenOOD's names of the sets.

    All lists are read and all images looked for when the module is made; what is missing or malformed is
    raised together: a ValueError with malformed lines or paths that leave the root among it, else a
    FileNotFoundError. Nothing is downloaded.

    Args:
        root: folder with `benchmark_imglist`, and the images in `images_largescale` and `images_classic`, or
            in itself.
        benchmark: `imagenet1k`, `imagenet200`, `cifar10`, `cifar100`, or `imagenet1k_mos` (iNaturalist, SUN,
            Places, Textures, each a folder of images).
        near: other near-OOD sets instead: name → list file (`….txt`) or folder of images, relative to `root`.
        far: likewise; an empty mapping leaves the group out.
        id_lists: other ID lists instead, relative to `root`.
        covariate_shifted: full-spectrum evaluation: the benchmark's covariate-shifted sets are ID images too.
        class_names: other ID class names, or a text file with one a line; None: those of the benchmark.
        batch_size: images per batch and device.
        num_workers: of the loaders.
        seed: of the order of the streams and of what is left out.
        transform: PIL image → tensor; None: the model's own preprocessing.
        order: see `OODDataModule`, as for the next four.
        ood_share: share of OOD images in each stream.
        size: images in each stream.
        mix: streams made of several OOD sets.
        features: folder of a feature cache.
    """

    def __init__(
        self,
        root: str | Path,
        benchmark: str = "imagenet1k",
        near: dict[str, str] | None = None,
        far: dict[str, str] | None = None,
        id_lists: list[str] | None = None,
        covariate_shifted: bool = False,
        class_names: list[str] | str | None = None,
        batch_size: int = 256,
        num_workers: int = 4,
        seed: int = 0,
        transform: Callable[[Any], Any] | None = None,
        order: str = "mixed",
        ood_share: float | None = None,
        size: int | None = None,
        mix: dict[str, list[str]] | None = None,
        features: str | None = None,
    ) -> None:
        if benchmark not in BENCHMARKS:
            raise ValueError(f"benchmark must be one of {', '.join(BENCHMARKS)}, got {benchmark!r}")
        facts = BENCHMARKS[benchmark]
        if covariate_shifted and not facts.shifted:
            raise ValueError(f"benchmark {benchmark!r} has no covariate-shifted ID sets")
        if isinstance(class_names, str | os.PathLike):
            class_names = read_class_names(class_names)
        names = class_names or list(class_names_of(facts.classes))
        lists = ImageLists(root, names)
        known = [*facts.id_sets.values()] if id_lists is None else [(path, None) for path in id_lists]
        id_set = lists.read([*known, *(facts.shifted.values() if covariate_shifted else ())], is_id=True)
        near_sets, far_sets = (
            {name: lists.read([source], is_id=False) for name, source in _sources(own, given).items()}
            for own, given in ((facts.near, near), (facts.far, far))
        )
        lists.check(ADVICE)
        super().__init__(
            id_set,
            {**near_sets},
            {**far_sets},
            names,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
            transform=transform,
            order=order,
            ood_share=ood_share,
            size=size,
            mix=mix,
            features=features,
        )
        ours = (near, far, id_lists, class_names, ood_share, size, mix) == (
            None,
        ) * 7 and not covariate_shifted
        self.benchmark = benchmark if ours else None  # whether results may stand beside published ones


def _sources(own: Sources, given: Mapping[str, str] | None) -> dict[str, tuple[str, int | None]]:
    return {**own} if given is None else {name: (path, None) for name, path in given.items()}
