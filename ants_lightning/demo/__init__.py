"""The embedded world: drawn images and miniature real models, for machines without a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_pil_image

from ants_lightning.data.streams import OODDataModule
from ants_lightning.demo.scenery import SCENES, TEXTURES
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES
from ants_lightning.demo.world import (
    ADJECTIVES,
    CONTEXT_SHARE,
    NOUNS,
    STREAM_WEAR,
    THINGS,
    Specs,
    draw_images,
    sample_specs,
)

MODELS = Path(__file__).parent / "models"
CLIP = f"local-dir:{MODELS / 'clip'}"
LLAVA = str(MODELS / "llava")


def word_list(words: list[str], seed: int = 0) -> list[str]:
    """The half of the world's vocabulary that the detector gets, without ID names.

    It is a half, since WordNet never holds everything either.
    """
    words = [word for word in words if word not in ID_CLASSES]
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(seed))
    return [words[i] for i in sorted(order[: len(words) // 2].tolist())]


WORDS: dict[str, Any] = {"nouns": word_list(NOUNS), "adjectives": word_list(ADJECTIVES)}
# The sizes of this world, as in configs/demo.yaml; everything else is the default. τ is one over the
# miniature's own logit scale, as 0.01 is one over CLIP's.
SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"negatives": {**WORDS, "keep": 0.7}, "num_groups": 1, "temperature": 0.04},
    "memory": {
        "ens": {"size": 100, "init": "empty"},
        "vsnl": {"delta": 0.5},
        "schedule": {"every": 4, "min_images": 100},
    },
}


class DrawnImages(Dataset):
    """Drawn images of some things, as `(PIL image, label)`; label = place in `names`.

    Args:
        names: things of the world.
        n: how many images.
        seed: of everything about them.
    """

    def __init__(self, names: list[str], n: int, seed: int) -> None:
        self.classes = list(names)
        g = torch.Generator().manual_seed(seed)
        self.specs: Specs = sample_specs(n, self.classes, g, context=CONTEXT_SHARE)
        self.images = torch.cat(
            [draw_images(self.specs[i : i + 200], g, STREAM_WEAR) for i in range(0, n, 200)]
        )
        self.labels = [self.classes.index(THINGS[int(k)]) for k in self.specs.thing]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image, int]:
        """Image and label."""
        return to_pil_image(self.images[index]), self.labels[index]


class DemoDataModule(OODDataModule):
    """Three streams: look-alikes of the ID classes (near), textures and scenes (far).

    Args:
        seed: of the drawing and of the order.
        n_id: ID images in each stream.
        n_ood: OOD images in each stream.
        batch_size: images per batch and device.
        features: folder of a feature cache, see `OODDataModule`.
        n_calibration: labelled ID images to set a threshold by.
    """

    def __init__(
        self,
        seed: int = 0,
        n_id: int = 600,
        n_ood: int = 600,
        batch_size: int = 32,
        features: str | None = None,
        n_calibration: int = 0,
    ) -> None:
        kinds = {"lookalikes": NEAR_CLASSES, "textures": list(TEXTURES), "scenes": SCENES}
        first = 1_000_003 * (seed + 1)  # far from the seeds of training
        super().__init__(
            id_set=DrawnImages(ID_CLASSES, n_id, first),
            near={"lookalikes": DrawnImages(kinds["lookalikes"], n_ood, first + 1)},
            far={
                name: DrawnImages(kinds[name], n_ood, first + 2 + i)
                for i, name in enumerate(("textures", "scenes"))
            },
            batch_size=batch_size,
            num_workers=0,
            seed=seed,
            features=features,
            calibration=DrawnImages(ID_CLASSES, n_calibration, first + 4) if n_calibration else None,
        )
