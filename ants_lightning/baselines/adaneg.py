"""AdaNeg: proxies from the images of the stream, in the place of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ants_lightning.baselines.base import Baseline, Seen, confident
from ants_lightning.common.settings import check_counts, check_not_negative, check_shares
from ants_lightning.method.scores import margins

if TYPE_CHECKING:
    from ants_lightning.adapt.bank import Rows
    from ants_lightning.ants import ANTS

_CHUNK = 8_000_000  # cosines at a time


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax of logits `(n, k)`, `(n,)`, float64."""
    log_p = logits.double().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def keep_surest(labels: Tensor, entropies: Tensor, images: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each label's images the L of lowest entropy, ties to the earliest: the same however a stream is cut into calls.

    Args:
        labels: `(k,)`, int64; images in order of arrival, those kept before in front.
        entropies: `(k,)`.
        images: features, `(k, d)`.
        length: L.

    Returns:
        The three columns of those kept, by label, then entropy.
    """
    order = entropies.sort(stable=True).indices
    order = order[labels[order].sort(stable=True).indices]
    _, counts = labels[order].unique_consecutive(return_counts=True)
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    order = order[rank < length]
    return labels[order], entropies[order], images[order]


def proxy_cosines(features: Tensor, held: Tensor, sharpness: float) -> Tensor:
    """Cosines with sample-adaptive proxies, whose own features `(n, u, d)` are never made.

    The proxy of a label for the image v is `P = sum_l φ_l m_l`, `φ_l = exp(-β(1 - v·m_l))`, of its text and images m. So
    `v·P / |P| = sum_l φ_l v·m_l / sqrt(φᵀGφ)`, with their Gram matrix G. With β = 0 P is the task-adaptive proxy.

    Args:
        features: v, `(n, d)`, L2-normalised.
        held: m of u labels, as many for each, `(u, l, d)`, L2-normalised.
        sharpness: β.

    Returns:
        `(n, u)`, float32.
    """
    similar = (features @ held.flatten(0, 1).T).unflatten(1, held.shape[:2])  # (n, u, l)
    weights = (sharpness * (similar - similar.amax(2, keepdim=True))).exp()  # φ, but for a factor that the norm takes away
    squared = (torch.bmm(weights.transpose(0, 1), held @ held.mT).transpose(0, 1) * weights).sum(2)
    return (weights * similar).sum(2) / squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()


class AdaNeg(Baseline):
    """AdaNeg (Zhang and Zhang, "AdaNeg: Adaptive Negative Proxy Guided OOD Detection…", NeurIPS 2024, arXiv 2410.20149).

    `o(v) = o_ada(v) + λ o_nl(v)`, in [0, 1 + λ]. o_nl is NegLabel's score. In o_ada a proxy stands for the text of each ID class
    and negative label: the normalised sum of that text and of its images m, weighted by `φ(v·m) = exp(-β(1 - v·m))`
    (sample-adaptive), or all alike (task-adaptive: β = 0). Images with `S_nl ≥ γ + g(1-γ)` go to the nearest ID class, those with
    `S_nl < γ - gγ` to the nearest negative label; of each label's images the L of lowest entropy stay, that of the prediction
    among the ID classes or among the negative labels.

    From the authors' code: the text is part of a proxy, and λ weighs o_nl. Unlike it: a batch is scored before it is learnt; L
    images are kept beside the text (they keep L - 1); and entropies are exact (theirs are NaN in half precision, so that the
    first images stay for good).

    Args:
        length: L ≥ 1.
        threshold: γ in [0, 1].
        gap: g in [0, 1].
        sharpness: β ≥ 0.
        text_weight: λ ≥ 0.
        num_groups: G of both scores.
    """

    name = "adaneg"
    needs_negatives = True
    learned = ("labels", "entropies", "images")
    text: Tensor  # ID texts, then N_nl, (C + M, d)
    labels: Tensor  # of the images kept, into `text`, (k,), ascending
    entropies: Tensor  # (k,)
    images: Tensor  # (k, d)
    tau: float

    def __init__(
        self, length: int = 10, threshold: float = 0.5, gap: float = 0.5, sharpness: float = 5.5, text_weight: float = 0.1,
        num_groups: int = 5,
    ) -> None:  # fmt: skip
        super().__init__()
        check_counts(length=length, num_groups=num_groups)
        check_shares(threshold=threshold, gap=gap)
        check_not_negative(sharpness=sharpness, text_weight=text_weight)
        self.length, self.threshold, self.gap, self.sharpness = length, threshold, gap, sharpness
        self.text_weight, self.num_groups = text_weight, num_groups
        self.classes = 0
        self.hold("text", "labels", "entropies", "images")

    def prepare(self, model: ANTS) -> None:
        """Take the texts; ValueError without negative labels."""
        if not len(model.neglabel):
            raise ValueError("adaneg needs negative labels, ANTS has none")
        self.text = torch.cat([model.id_text, model.neglabel.grouped().to(model.id_text)])
        self.classes, self.tau = len(model.id_text), float(model.hparams["temperature"])
        self.reset()

    def reset(self) -> None:
        """Forget the images."""
        self.labels = self.text.new_zeros(0, dtype=torch.long)
        self.entropies, self.images = self.text.new_zeros(0, dtype=torch.float64), self.text[:0]

    def learn(self, rows: Rows) -> None:
        """Keep the confident images among these."""
        columns = [(self.labels, self.entropies, self.images)]
        for part in rows["features"].to(self.text).split(max(1, _CHUNK // len(self.text))):
            ids, negatives = self._logits(part @ self.text.T)
            masks = confident((-margins(ids, negatives, self.num_groups)).sigmoid().mean(1), self.threshold, self.gap)
            for mask, side, first in zip(masks, (ids, negatives), (0, self.classes), strict=True):
                columns.append((first + side[mask].argmax(1), entropy(side[mask]), part[mask]))
        labels, entropies, images = (torch.cat(column) for column in zip(*columns, strict=True))
        self.labels, self.entropies, self.images = keep_surest(labels, entropies, images, self.length)

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)`, float64."""
        texts = torch.cat([seen.id_cosine, seen.negative_cosine], 1)
        return self._score(self._with_proxies(seen.features, texts)) + self.text_weight * self._score(texts)

    def _with_proxies(self, features: Tensor, texts: Tensor) -> Tensor:
        """The cosines `(n, C + M)` with texts, those of labels that have images with their proxies."""
        used, counts = self.labels.unique_consecutive(return_counts=True)
        starts = counts.cumsum(0) - counts
        order, cosines = [counts[:0]], [texts[:, :0]]
        for count in counts.unique().tolist():  # labels with as many images go together
            some = (counts == count).nonzero()[:, 0]
            for part in some.split(max(1, _CHUNK // max(1, len(features) * (count + 1)))):
                which = starts[part][:, None] + torch.arange(count, device=part.device)
                held = torch.cat([self.text[used[part]][:, None], self.images[which]], 1)
                order.append(used[part])
                cosines.append(proxy_cosines(features, held, self.sharpness))
        return texts.index_copy(1, torch.cat(order), torch.cat(cosines, 1))

    def _score(self, cosines: Tensor) -> Tensor:
        ids, negatives = self._logits(cosines)
        return margins(ids, negatives, self.num_groups).double().sigmoid().mean(1)

    def _logits(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        logits = cosines / self.tau
        return logits[:, : self.classes], logits[:, self.classes :]
