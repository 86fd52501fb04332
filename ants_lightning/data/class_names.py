"""Class names of the benchmarks, and of a text file."""

from functools import cache
from pathlib import Path

from ants_lightning.clip.word_files import read_list

# The 200 classes of ImageNet-R (Hendrycks et al., ICCV 2021) as ImageNet-1k labels, in the order of OpenOOD's
# ImageNet-200, whose classes they are.
_IMAGENET_200 = """
    1 2 4 6 8 9 11 13 22 23 26 29 31 39 47 63 71 76 79 84 90 94 96 97 99 100 105 107 113 122 125 130 132
    144 145 147 148 150 151 155 160 161 162 163 171 172 178 187 195 199 203 207 208 219 231 232 234 235
    242 245 247 250 251 254 259 260 263 265 267 269 276 277 281 288 289 291 292 293 296 299 301 308 309
    310 311 314 315 319 323 327 330 334 335 337 338 340 341 344 347 353 355 361 362 365 366 367 368 372
    388 390 393 397 401 407 413 414 425 428 430 435 437 441 447 448 457 462 463 469 470 471 472 476 483
    487 515 546 555 558 570 579 583 587 593 594 596 609 613 617 621 629 637 657 658 701 717 724 763 768
    774 776 779 780 787 805 812 815 820 824 833 847 852 866 875 883 889 895 907 928 931 932 933 934 936
    937 943 945 947 948 949 951 953 954 957 963 965 967 980 981 983 988
"""
IMAGENET_200_LABELS = [int(label) for label in _IMAGENET_200.split()]
_CIFAR10 = """
    airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck
"""
_CIFAR100 = """
    apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus,
    butterfly, camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch,
    crab, crocodile, cup, dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house,
    kangaroo, keyboard, lamp, lawn mower, leopard, lion, lizard, lobster, man, maple tree, motorcycle,
    mountain, mouse, mushroom, oak tree, orange, orchid, otter, palm tree, pear, pickup truck, pine tree,
    plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road, rocket, rose, sea, seal, shark,
    shrew, skunk, skyscraper, snail, snake, spider, squirrel, streetcar, sunflower, sweet pepper, table,
    tank, telephone, television, tiger, tractor, train, trout, tulip, turtle, wardrobe, whale, willow tree,
    wolf, woman, worm
"""


@cache
def class_names_of(benchmark: str) -> tuple[str, ...]:
    """The class names of a benchmark by label.

    Args:
        benchmark: `imagenet1k`, `imagenet200`, `cifar10` or `cifar100`.
    """
    if benchmark in ("cifar10", "cifar100"):
        names = _CIFAR10 if benchmark == "cifar10" else _CIFAR100
        return tuple(name.strip() for name in names.split(","))
    from open_clip import IMAGENET_CLASSNAMES  # takes seconds to load

    # open_clip says "missile" and "sunglasses" twice. Names must differ, so one of each pair goes by the name
    # that WordNet gives it.
    imagenet = list(IMAGENET_CLASSNAMES)
    imagenet[744], imagenet[836] = "projectile", "sunglass"
    labels = range(1000) if benchmark == "imagenet1k" else IMAGENET_200_LABELS
    return tuple(imagenet[label] for label in labels)


def read_class_names(path: str | Path) -> list[str]:
    """The class names of a file, by label.

    The file is a text file with line i (from 0) for label i, or JSON (`clip.word_files.read_list`).

    A missing or empty file is a ValueError; so is a blank line before the end, since it would shift all
    labels after it.
    """
    names = read_list(path, "class_names (a file with one a line, or JSON)")
    if not names or "" in names:
        where = f"line {names.index('') + 1} is blank" if names else "no names"
        raise ValueError(f"class_names: {where} in {str(path)!r}")
    return names
