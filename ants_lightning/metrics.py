"""`OODMetrics`: exact AUROC, both AUPRs and both FPR95 of several OOD scores over one stream, and its ID accuracy."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import classification as tm
from torchmetrics.utilities import dim_zero_cat


def detection_metrics(scores: Tensor, is_ood: Tensor) -> dict[str, float]:
    """How well OOD scores `(n,)` tell the images with `is_ood` `(n,)` from the others.

    Returns:
        Fractions: `auroc`; `fpr95`, the share of OOD accepted at the threshold that accepts 95 % of ID (MCM, NegLabel);
        `fpr95_openood`, the share of ID rejected at the threshold that rejects 95 % of OOD (OpenOOD, and so the
        published ANTS table); `aupr_in` and `aupr_out`, average precision (the step sum), ID or OOD being positive.
        NaN among the scores or only one class is a ValueError.
    """
    if scores.isnan().any():
        raise ValueError(f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN")
    n_ood = int(is_ood.sum())
    if n_ood in (0, len(is_ood)):
        raise ValueError(f"both ID and OOD images are needed, got {len(is_ood) - n_ood} ID and {n_ood} OOD")
    # torchmetrics would put scores outside [0, 1] through a sigmoid, and 1 - o rounds: ranks in double do neither.
    rank = scores.unique(return_inverse=True)[1].double()
    rank, target = rank / rank.max().clamp(min=1), is_ood.long()
    return {
        "auroc": tm.binary_auroc(rank, target).item(),
        "fpr95": 1 - tm.binary_sensitivity_at_specificity(rank, target, min_specificity=0.95)[0].item(),
        "fpr95_openood": 1 - tm.binary_specificity_at_sensitivity(rank, target, min_sensitivity=0.95)[0].item(),
        "aupr_in": tm.binary_average_precision(1 - rank, 1 - target).item(),
        "aupr_out": tm.binary_average_precision(rank, target).item(),
    }


class OODMetrics(Metric):
    """Accumulates the OOD scores `names` of one stream; exact (nothing is binned), over any number of ranks.

    Args:
        names: of the scores, in the order of the columns that `update` takes.
        ood_names: of the OOD sets that the stream mixes: label -1 is an image of the first, -2 of the second and so on, and a
            label beyond them is a ValueError. Without names any negative label is OOD.
    """

    full_state_update = False
    scores: list[Tensor]
    ood_set: list[Tensor]
    id_correct: Tensor
    decided: Tensor
    lost: Tensor

    def __init__(self, names: Sequence[str], ood_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.names, self.ood_names = list(names), list(ood_names)
        if len(set(self.ood_names)) < len(self.ood_names):
            raise ValueError(f"names of OOD sets must differ, got {self.ood_names}")
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("ood_set", [], dist_reduce_fx="cat")  # -1 = ID, else the number of the OOD set
        self.add_state("id_correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("decided", torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")  # images, ID accepted, OOD rejected
        self.add_state("lost", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")  # unreadable, not finite
        self._take(torch.empty(0, len(self.names)), torch.empty(0, dtype=torch.long))  # a rank without images syncs as others

    def _take(self, scores: Tensor, ood_set: Tensor) -> None:
        self.scores.append(scores.double())
        self.ood_set.append(ood_set)

    def lose(self, unreadable: int, not_finite: int) -> None:
        """Count images without scores: they could not be read, or their features are NaN or Inf."""
        self.lost = self.lost + torch.tensor([unreadable, not_finite], device=self.lost.device)

    def update(self, scores: Tensor, label: Tensor, prediction: Tensor, is_ood: Tensor | None = None) -> None:
        """Take OOD scores `(n, len(names))`, ID labels `(n,)` (negative = OOD), predicted ID labels and decisions `(n,)`."""
        if scores.shape != (len(label), len(self.names)) or not prediction.shape == label.shape == label.shape[:1]:
            shapes = [tuple(x.shape) for x in (scores, label, prediction)]
            raise ValueError(f"scores (n, {len(self.names)}), label (n,) and prediction (n,) needed, got {shapes}")
        ood_set = (-1 - label.long()).clamp(min=-1)
        if self.ood_names and len(label) and int(ood_set.max()) >= len(self.ood_names):
            raise ValueError(f"label {int(label.min())} with {len(self.ood_names)} OOD sets: {self.ood_names}")
        self._take(scores, ood_set)
        if is_ood is not None:
            right = is_ood == (label < 0)
            counts = [torch.tensor(len(label), device=label.device), (right & (label >= 0)).sum(), (right & (label < 0)).sum()]
            self.decided = self.decided + torch.stack(counts)
        self.id_correct = self.id_correct + (prediction == label).sum()  # a negative label equals no prediction

    def compute(self) -> dict[str, Any]:
        """`n_id`, `n_ood`, `id_accuracy`, what was lost, and `scores`: `detection_metrics` by name; ValueError if empty.

        With decisions also `id_accepted` and `ood_rejected`, the shares of ID and of OOD images that were decided right. With two
        or more `ood_names` also `sets`: by name `n_ood` and `scores`, all ID images against that OOD set alone; sets of which no
        image came are left out.
        """
        scores, ood_set = dim_zero_cat(self.scores), dim_zero_cat(self.ood_set)
        unreadable, not_finite = self.lost.tolist()
        if not len(ood_set):
            raise ValueError(f"the stream was empty: {unreadable} images could not be read, {not_finite} gave NaN or Inf")
        is_ood = ood_set >= 0
        by_name = self._measure(scores, is_ood)
        n_id, n_ood = int((~is_ood).sum()), int(is_ood.sum())
        out = {
            "n_id": n_id, "n_ood": n_ood, "n_unreadable": unreadable, "n_not_finite": not_finite,
            "id_accuracy": self.id_correct.item() / n_id, "scores": by_name,
        }  # fmt: skip
        decided, accepted, rejected = self.decided.tolist()
        if decided:
            out |= {"id_accepted": accepted / n_id, "ood_rejected": rejected / n_ood}
        if len(self.ood_names) > 1:
            counts = ood_set[is_ood].bincount(minlength=len(self.ood_names)).tolist()
            kept = {i: ~is_ood | (ood_set == i) for i, count in enumerate(counts) if count}
            out["sets"] = {
                self.ood_names[i]: {"n_ood": counts[i], "scores": self._measure(scores[keep], is_ood[keep])}
                for i, keep in kept.items()
            }
        return out

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        state = {name: getattr(self, name) for name in self._defaults}
        return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` told."""
        vars(self).update(apply_to_collection(state, Tensor, lambda x: x.to(self.device)))
        self._update_count = len(self.scores)

    def _measure(self, scores: Tensor, is_ood: Tensor) -> dict[str, dict[str, float]]:
        return {name: detection_metrics(scores[:, i], is_ood) for i, name in enumerate(self.names)}
