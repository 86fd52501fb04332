"""Streams of any share of OOD images from the drawn world, for `imbalance.py`."""

import lightning as L
import torch

from ants_lightning import ANTS
from ants_lightning.data.features import FeatureCache, encode_sets, tower_identity
from ants_lightning.demo import CLIP, SETTINGS, DrawnImages
from ants_lightning.demo.scenery import SCENES, TEXTURES
from ants_lightning.demo.shapes import ID_CLASSES, NEAR_CLASSES

N = 2000  # images of most streams
POOLS = {"id": (ID_CLASSES, 5600), "near": (NEAR_CLASSES, N), "far": ([*TEXTURES, *SCENES], N)}
KINDS = list(POOLS)
REFERENCE = "50 % near and far"


def share(kind, percent):
    ood = N * percent // 100
    return [{"id": N - ood, kind: ood}]


STREAMS = {  # parts one after another; the images of a part are mixed
    REFERENCE: [{"id": N // 2, "near": N // 4, "far": N // 4}],
    "ID only": [{"id": N}],
    **{
        f"{percent} % {kind}": share(kind, percent) for kind in ("near", "far") for percent in (1, 10, 50, 90)
    },
    **{f"{kind} only": [{kind: N}] for kind in ("near", "far")},
    **{f"5,000 ID, then 50 % {kind}": [{"id": 5000}, {"id": 600, kind: 600}] for kind in ("near", "far")},
    "near, then far": [{"id": 600, "near": 600}, {"id": 600, "far": 600}],
    "far, then near": [{"id": 600, "far": 600}, {"id": 600, "near": 600}],
    **{f"blocks of ID and {kind}": [{"id": 200}, {kind: 200}] * 5 for kind in ("near", "far")},
}
LATE = ((0, 1000), (4000, 5000), (5000, 5128), (5128, 5600), (5600, 6200))
HALFWAY = ((0, 1000), (1200, 1328), (1328, 1800), (1800, 2400))
WINDOWS = {
    **dict.fromkeys(("5,000 ID, then 50 % near", "5,000 ID, then 50 % far"), LATE),
    **dict.fromkeys(("near, then far", "far, then near"), HALFWAY),
}


class Parts:
    """A stream of `parts`; images are taken from the front of each pool, so that longer streams hold those
    of shorter ones.
    """

    ood_names = ("near", "far")

    def __init__(self, sets, parts, seed):
        self.sets = list(sets.values())
        starts = [0, *torch.tensor([len(s) for s in self.sets]).cumsum(0)]
        used, g = dict.fromkeys(KINDS, 0), torch.Generator().manual_seed(seed)
        order = []
        for part in parts:
            places = [
                torch.arange(n) + used[kind] + int(starts[KINDS.index(kind)]) for kind, n in part.items()
            ]
            used = {kind: n + part.get(kind, 0) for kind, n in used.items()}
            order.append(torch.cat(places)[torch.randperm(sum(part.values()), generator=g)])
        self.order, self.starts = torch.cat(order), torch.tensor(starts[1:-1])

    def __len__(self):
        return len(self.order)

    def raw_image(self, index):
        which = int(torch.bucketize(self.order[index], self.starts, right=True))
        return self.sets[which][int(self.order[index]) - sum(map(len, self.sets[:which]))][0].convert("RGB")

    def description(self):
        return {}


class Pools:
    """The drawn images of one seed, and their features."""

    def __init__(self, seed, root):
        self.seed, self.root = seed, root
        self.sets = {
            kind: DrawnImages(names, n, 7_000_000 + 10 * seed + i)
            for i, (kind, (names, n)) in enumerate(POOLS.items())
        }
        model, trainer, folder = ANTS(CLIP, **SETTINGS["model"]), self.trainer(), f"{root}/features-{seed}"
        encode_sets(trainer, model, self.sets, model.preprocess, folder, batch_size=200, workers=0)
        self.features = FeatureCache(folder, tower_identity(model.clip, model.preprocess, trainer)).read(
            self.sets
        )

    def trainer(self, *callbacks):
        return L.Trainer(
            callbacks=list(callbacks),
            logger=False,
            enable_progress_bar=False,
            accelerator="cpu",
            default_root_dir=self.root,
            enable_model_summary=False,
        )
