"""AdaNeg: proxies made from images of the stream take the place of texts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ants_lightning.baselines.base import Baseline, DetectorInputs, Seen
from ants_lightning.common.settings import check_counts, check_not_negative, check_shares
from ants_lightning.method.activation import confident
from ants_lightning.method.chunks import split_rows
from ants_lightning.method.scores import group_order, margins


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax of logits `(n, k)`, `(n,)`, float64."""
    log_p = logits.double().log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def keep_surest(
    labels: Tensor, entropies: Tensor, images: Tensor, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the L images of lowest entropy for each label; of equal ones the earliest.

    The result does not depend on how a stream is cut into calls.

    Args:
        labels: `(k,)`, int64; images in order of arrival, after those kept before.
        entropies: `(k,)`.
        images: features, `(k, d)`.
        length: L.

    Returns:
        The three columns of the images kept, sorted by label, then entropy.
    """
    order = entropies.sort(stable=True).indices
    order = order[labels[order].sort(stable=True).indices]  # by label, then entropy, (k,)
    _, counts = labels[order].unique_consecutive(return_counts=True)  # images of each label, (labels,)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)  # where the images of its label begin, (k,)
    rank = torch.arange(len(order), device=order.device) - first
    order = order[rank < length]
    return labels[order], entropies[order], images[order]


def proxy_cosines(features: Tensor, held: Tensor, sharpness: float) -> Tensor:
    """Cosines with sample-adaptive proxies, without making their features `(n, u, d)`.

    For the image v the proxy of a label is `P = sum_l φ_l m_l`, with `φ_l = exp(-β(1 - v·m_l))` and m its
    text and images. So `v·P / |P| = sum_l φ_l v·m_l / sqrt(φᵀGφ)`, where G is the Gram matrix of m. P is the
    task-adaptive proxy if β = 0.

    Args:
        features: v, `(n, d)`, L2-normalised.
        held: m of u labels, l for each, `(u, l, d)`, L2-normalised.
        sharpness: β.

    Returns:
        `(n, u)`, float32.
    """
    similar = (features @ held.flatten(0, 1).T).unflatten(1, held.shape[:2])  # (n, u, l)
    # φ up to a factor for each image and label, which the norm cancels.
    weights = (sharpness * (similar - similar.amax(2, keepdim=True))).exp()  # (n, u, l)
    gram = held @ held.mT  # (u, l, l)
    weighted = torch.bmm(weights.transpose(0, 1), gram).transpose(0, 1)  # φᵀG, (n, u, l)
    squared = (weighted * weights).sum(2)  # |P|², (n, u)
    return (weights * similar).sum(2) / squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()


class AdaNeg(Baseline):
    """AdaNeg (Zhang and Zhang, "AdaNeg: Adaptive Negative Proxy Guided…", NeurIPS 2024, arXiv 2410.20149).

    `o(v) = o_ada(v) + λ o_nl(v)`, in [0, 1 + λ], where o_nl is NegLabel's score. In o_ada a proxy takes the
    place of each text, of ID classes and negative labels: the normalised sum of the text and of images m that
    belong to it. The weights are `φ(v·m) = exp(-β(1 - v·m))` (sample-adaptive); β = 0 makes them equal
    (task-adaptive). Images with `S_nl ≥ γ + g(1-γ)` go to the nearest ID class, those with `S_nl < γ - gγ` to
    the nearest negative label. For each label the L images of lowest entropy are kept: the entropy of the
    prediction among the ID classes, or among the negative labels.

    As in the authors' code, the text is part of a proxy, and λ weighs o_nl. Unlike there, a batch is scored
    before it is learnt; L images are kept beside the text (they keep L - 1); and entropies are exact (theirs
    are NaN in half precision, so that the first images stay for good).

    Args:
        length: L ≥ 1.
        gamma: γ in [0, 1].
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
        self,
        length: int = 10,
        gamma: float = 0.5,
        gap: float = 0.5,
        sharpness: float = 5.5,
        text_weight: float = 0.1,
        num_groups: int = 5,
    ) -> None:
        super().__init__()
        check_counts(length=length, num_groups=num_groups)
        check_shares(gamma=gamma, gap=gap)
        check_not_negative(sharpness=sharpness, text_weight=text_weight)
        self.length, self.gamma, self.gap, self.sharpness = length, gamma, gap, sharpness
        self.text_weight, self.num_groups = text_weight, num_groups
        self.classes = 0
        self.hold("text", "labels", "entropies", "images")

    def prepare(self, inputs: DetectorInputs) -> None:
        """Take the texts; ValueError without negative labels."""
        negatives = inputs.negative_text
        if not len(negatives):
            raise ValueError("adaneg needs negative labels, ANTS has none")
        order = group_order(len(negatives), inputs.num_groups)  # that of `Seen.negative_cosine`, (M,)
        self.text = torch.cat([inputs.id_text, negatives[order.to(negatives.device)]])
        self.classes, self.tau = len(inputs.id_text), inputs.temperature
        self.reset()

    def reset(self) -> None:
        """Begin a stream: forget all images."""
        self.labels = self.text.new_zeros(0, dtype=torch.long)
        self.entropies, self.images = self.text.new_zeros(0, dtype=torch.float64), self.text[:0]

    def learn(self, images: Mapping[str, Tensor]) -> None:
        """Take the confident images among these, and keep the surest of each label."""
        columns = [(self.labels, self.entropies, self.images)]
        for part in split_rows(images["features"].to(self.text), width=len(self.text)):
            ids, negatives = self._logits(part @ self.text.T)  # (part, C), (part, M)
            id_scores = (-margins(ids, negatives, self.num_groups)).sigmoid().mean(1)  # (part,)
            masks = confident(id_scores, self.gamma, self.gap)
            for mask, side, first in zip(masks, (ids, negatives), (0, self.classes), strict=True):
                columns.append((first + side[mask].argmax(1), entropy(side[mask]), part[mask]))
        labels, entropies, features = (torch.cat(column) for column in zip(*columns, strict=True))
        self.labels, self.entropies, self.images = keep_surest(labels, entropies, features, self.length)

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)`, float64."""
        with_texts = torch.cat([seen.id_cosine, seen.negative_cosine], 1)  # (n, C + M)
        with_proxies = self._with_proxies(seen.features, with_texts)  # (n, C + M)
        return self._score(with_proxies) + self.text_weight * self._score(with_texts)

    def _with_proxies(self, features: Tensor, with_texts: Tensor) -> Tensor:
        """The cosines with texts `(n, C + M)`, but with the proxy of each label that has images."""
        used, counts = self.labels.unique_consecutive(return_counts=True)  # u labels and their images, (u,)
        starts = counts.cumsum(0) - counts
        order, cosines = [counts[:0]], [with_texts[:, :0]]
        for count in counts.unique().tolist():  # labels with equally many images are computed together
            some = (counts == count).nonzero()[:, 0]
            for part in split_rows(some, width=len(features) * (count + 1)):
                which = starts[part][:, None] + torch.arange(count, device=part.device)  # (part, count)
                text = self.text[used[part]][:, None]  # (part, 1, d)
                held = torch.cat([text, self.images[which]], 1)  # (part, 1 + count, d)
                order.append(used[part])
                cosines.append(proxy_cosines(features, held, self.sharpness))  # (n, part)
        return with_texts.index_copy(1, torch.cat(order), torch.cat(cosines, 1))

    def _score(self, cosines: Tensor) -> Tensor:
        """NegLabel's score `(n,)`, float64, of cosines `(n, C + M)`."""
        ids, negatives = self._logits(cosines)
        return margins(ids, negatives, self.num_groups).double().sigmoid().mean(1)

    def _logits(self, cosines: Tensor) -> tuple[Tensor, Tensor]:
        logits = cosines / self.tau
        return logits[:, : self.classes], logits[:, self.classes :]
