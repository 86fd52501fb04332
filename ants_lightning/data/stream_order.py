"""Which images a stream holds, and in which order: counts by set, and a seeded order."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ants_lightning.common.settings import check_choice

ORDERS = ("mixed", "id_first", "blocks")


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` in proportion to `weights`, by largest remainders (ties: the first); exact in sum.

    No part exceeds its weight where `total` does not exceed their sum.

    >>> apportion(10, [30, 20, 11])
    [5, 3, 2]
    """
    parts = [divmod(total * weight, sum(weights)) for weight in weights]
    by_rest = sorted(range(len(parts)), key=lambda i: -parts[i][1])
    extra = set(by_rest[: total - sum(whole for whole, _ in parts)])
    return [whole + (i in extra) for i, (whole, _) in enumerate(parts)]


def stream_counts(
    available: Sequence[int], ood_share: float | None = None, size: int | None = None
) -> list[int]:
    """How many images a stream takes of each set, ID first, of those `available`.

    Args:
        available: images of the ID set and of each OOD set.
        ood_share: share of OOD images in (0, 1), reached by leaving out images of the side that is too many;
            None: as it is.
        size: images in all; ID, OOD and each OOD set keep their proportions to the nearest image. None: all.

    A share or size that cannot be, or that leaves no image of a set, is a ValueError.
    """
    n_id, n_ood = available[0], sum(available[1:])
    if not n_id or not n_ood:
        raise ValueError(f"a stream needs ID and OOD images, got {n_id} and {n_ood}")
    sides = [n_id, n_ood]
    if ood_share is not None:
        if not 0 < ood_share < 1:
            raise ValueError(f"ood_share must be between 0 and 1, got {ood_share}")
        sides = [
            min(n_id, round(n_ood * (1 - ood_share) / ood_share)),
            min(n_ood, round(n_id * ood_share / (1 - ood_share))),
        ]
    if size is not None:
        if not 2 <= size <= sum(sides):
            raise ValueError(
                f"size must be between 2 and the {sum(sides)} images ({sides[0]} ID, {sides[1]} OOD), got "
                f"{size}"
            )
        sides = apportion(size, sides)
    counts = [sides[0], *apportion(sides[1], available[1:])]
    if 0 in counts:
        raise ValueError(
            f"ood_share={ood_share} and size={size} of {list(available)} images leave {counts} of the sets, "
            f"ID first"
        )
    return counts


def stream_order(
    available: Sequence[int], counts: Sequence[int], order: str = "mixed", seed: int = 0
) -> Tensor:
    """Places of a stream `(Σ counts,)`, int64, in the concatenation of sets of `available` images, ID first.

    `mixed` is a seeded permutation. `id_first` has the ID images, then the OOD images. `blocks` has the OOD
    sets one after another; ID images are spread at random over the blocks, in proportion to their OOD images.
    The same `seed` and `counts` choose the same images in every order. With nothing left out `mixed` is
    `torch.randperm(Σ counts)` of the seed.
    """
    check_choice(ORDERS, order=order)
    generator = torch.Generator().manual_seed(seed)
    # Drawn first, so that it does not depend on what is left out.
    mix = torch.randperm(sum(counts), generator=generator)
    chosen = [
        torch.randperm(n, generator=generator)[:count].sort().values
        for n, count in zip(available, counts, strict=True)
    ]
    starts = [0, *accumulate(available)]
    places = torch.cat([places + start for places, start in zip(chosen, starts[:-1], strict=True)])[mix]
    kinds = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))  # 0: ID, k: the k-th OOD set
    which = kinds[mix]
    if order == "mixed":
        return places
    block = (which > 0).long() if order == "id_first" else which - 1
    if order == "blocks":
        share = torch.tensor(apportion(counts[0], counts[1:]))
        blocks = torch.arange(len(share)).repeat_interleave(share)
        block[which == 0] = blocks[torch.randperm(counts[0], generator=generator)]
    return places[block.argsort(stable=True)]
