"""`OODMetrics`: exact AUROC, AUPR and FPR95 of several OOD scores over one stream, and its ID accuracy."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import classification as tm
from torchmetrics.utilities import dim_zero_cat


def detection_metrics(scores: Tensor, is_ood: Tensor) -> dict[str, float]:
    """How well OOD scores tell OOD images from ID images.

    ValueError for NaN among the scores, and where all images are ID or all are OOD.

    Args:
        scores: `(n,)`, larger = more OOD, of any range.
        is_ood: `(n,)`, bool.

    Returns:
        Fractions by name. `auroc`. `fpr95`: the share of OOD accepted at the threshold that accepts 95 % of
        ID (MCM, NegLabel). `fpr95_openood`: the share of ID rejected at the threshold that rejects 95 % of
        OOD (OpenOOD, and so the published ANTS table). `aupr_in` and `aupr_out`: average precision (the step
        sum) with ID or OOD as positives.
    """
    if scores.isnan().any():
        raise ValueError(f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN")
    n_ood = int(is_ood.sum())
    if n_ood in (0, len(is_ood)):
        raise ValueError(f"both ID and OOD images are needed, got {len(is_ood) - n_ood} ID and {n_ood} OOD")
    # Ranks replace the scores: torchmetrics puts scores outside [0, 1] through a sigmoid, and 1 - o rounds.
    rank = scores.unique(return_inverse=True)[1].double()  # (n,)
    rank, target = rank / rank.max().clamp(min=1), is_ood.long()
    ood_rejected = tm.binary_sensitivity_at_specificity(rank, target, min_specificity=0.95)[0]
    id_accepted = tm.binary_specificity_at_sensitivity(rank, target, min_sensitivity=0.95)[0]
    return {
        "auroc": tm.binary_auroc(rank, target).item(),
        "fpr95": 1 - ood_rejected.item(),
        "fpr95_openood": 1 - id_accepted.item(),
        "aupr_in": tm.binary_average_precision(1 - rank, 1 - target).item(),
        "aupr_out": tm.binary_average_precision(rank, target).item(),
    }


class OODMetrics(Metric):
    """Accumulates the OOD scores of one stream over any number of ranks; exact, nothing is binned.

    Args:
        names: of the scores, in the order of the columns that `update` takes.
        ood_names: of the OOD sets in the stream: label -1 is an image of the first, -2 of the second and so
            on, and a label beyond them is a ValueError. Without names any negative label is OOD.
    """

    full_state_update = False
    scores: list[Tensor]  # (n, scores) each
    ood_set: list[Tensor]  # (n,) each; -1 = ID, else the number of the OOD set
    id_correct: Tensor
    decided: Tensor  # (3,): decisions, ID images accepted, OOD images rejected
    lost: Tensor  # (2,): unreadable images, images with NaN or Inf

    def __init__(self, names: Sequence[str], ood_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.names, self.ood_names = list(names), list(ood_names)
        if len(set(self.ood_names)) < len(self.ood_names):
            raise ValueError(f"names of OOD sets must differ, got {self.ood_names}")
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("ood_set", [], dist_reduce_fx="cat")
        self.add_state("id_correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("decided", torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("lost", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")
        # So that a rank without images has tensors to sync, like the others.
        self._take(torch.empty(0, len(self.names)), torch.empty(0, dtype=torch.long))

    def _take(self, scores: Tensor, ood_set: Tensor) -> None:
        self.scores.append(scores.double())
        self.ood_set.append(ood_set)

    def lose(self, unreadable: int, not_finite: int) -> None:
        """Count images without scores: not readable, or with features that are not finite."""
        self.lost = self.lost + torch.tensor([unreadable, not_finite], device=self.lost.device)

    def update(self, scores: Tensor, label: Tensor, prediction: Tensor, is_ood: Tensor | None = None) -> None:
        """Take a batch.

        Args:
            scores: OOD scores, `(n, len(names))`.
            label: ID labels, `(n,)`; negative = OOD.
            prediction: predicted ID labels, `(n,)`.
            is_ood: decisions, `(n,)`, bool; None: there are none.
        """
        shape = (len(label), len(self.names))
        if label.ndim != 1 or prediction.shape != label.shape or scores.shape != shape:
            shapes = [tuple(x.shape) for x in (scores, label, prediction)]
            wanted = f"scores (n, {len(self.names)}), label (n,) and prediction (n,)"
            raise ValueError(f"{wanted} needed, got {shapes}")
        ood_set = (-1 - label.long()).clamp(min=-1)  # (n,)
        if self.ood_names and len(label) and int(ood_set.max()) >= len(self.ood_names):
            sets = f"{len(self.ood_names)} OOD sets: {self.ood_names}"
            raise ValueError(f"label {int(label.min())} with {sets}")
        self._take(scores, ood_set)
        if is_ood is not None:
            right = is_ood == (label < 0)  # (n,)
            accepted, rejected = (right & (label >= 0)).sum(), (right & (label < 0)).sum()
            decisions = torch.tensor(len(label), device=label.device)
            self.decided = self.decided + torch.stack([decisions, accepted, rejected])
        # A negative label equals no prediction.
        self.id_correct = self.id_correct + (prediction == label).sum()

    def compute(self) -> dict[str, Any]:
        """Measure the stream; ValueError where no image came.

        Returns:
            `n_id`, `n_ood`, `n_unreadable` and `n_not_finite`, numbers of images; `id_accuracy`; and
            `scores`, `detection_metrics` by name of the score. With decisions also `id_accepted` and
            `ood_rejected`, the shares of ID and of OOD images that were decided right. With two or more
            `ood_names` also `sets`: for each OOD set `n_ood` and `scores`, of all ID images against that set
            alone; sets without images are left out.
        """
        scores, ood_set = dim_zero_cat(self.scores), dim_zero_cat(self.ood_set)
        unreadable, not_finite = self.lost.tolist()
        if not len(ood_set):
            why = f"{unreadable} images could not be read, {not_finite} gave NaN or Inf"
            raise ValueError(f"the stream was empty: {why}")
        is_ood = ood_set >= 0
        by_name = self._measure(scores, is_ood)
        n_id, n_ood = int((~is_ood).sum()), int(is_ood.sum())
        out = {
            "n_id": n_id,
            "n_ood": n_ood,
            "n_unreadable": unreadable,
            "n_not_finite": not_finite,
            "id_accuracy": self.id_correct.item() / n_id,
            "scores": by_name,
        }
        decided, accepted, rejected = self.decided.tolist()
        if decided:
            out |= {"id_accepted": accepted / n_id, "ood_rejected": rejected / n_ood}
        if len(self.ood_names) > 1:
            out["sets"] = {}
            for i, name in enumerate(self.ood_names):
                in_set = ood_set == i  # (n,)
                if count := int(in_set.sum()):
                    keep = ~is_ood | in_set
                    measured = self._measure(scores[keep], is_ood[keep])
                    out["sets"][name] = {"n_ood": count, "scores": measured}
        return out

    def state(self) -> dict[str, Any]:
        """See `ANTS.state`."""
        state = {name: getattr(self, name) for name in self._defaults}
        return {name: list(value) if isinstance(value, list) else value for name, value in state.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a `state`."""
        for name, value in apply_to_collection(state, Tensor, lambda x: x.to(self.device)).items():
            setattr(self, name, value)
        self._update_count = len(self.scores)

    def _measure(self, scores: Tensor, is_ood: Tensor) -> dict[str, dict[str, float]]:
        return {name: detection_metrics(scores[:, i], is_ood) for i, name in enumerate(self.names)}
