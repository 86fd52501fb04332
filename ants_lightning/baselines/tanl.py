"""TANL: negative labels that the OOD images of the stream activate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ants_lightning.baselines.base import Baseline, Seen, confident
from ants_lightning.common.settings import check_counts, check_shares
from ants_lightning.method.negatives import without_names

if TYPE_CHECKING:
    from ants_lightning.adapt.bank import Rows
    from ants_lightning.ants import ANTS

_CHUNK = 8_000_000  # cosines at a time


def mean_activation(features: Tensor, id_text: Tensor, corpus: Tensor, temperature: float = 0.01) -> Tensor:
    """How images activate the labels of a corpus (TANL eq. 5): the mean of `softmax([v·t, v·n]/τ)` over the images, of the n.

    Args:
        features: v, `(k, d)`, L2-normalised.
        id_text: t, `(C, d)`, L2-normalised.
        corpus: n, `(N, d)`, L2-normalised.
        temperature: τ > 0.

    Returns:
        `(N,)`, float64; 0 without images.
    """
    texts = torch.cat([id_text, corpus]).float()
    total = torch.zeros(len(corpus), dtype=torch.float64, device=corpus.device)
    for part in features.float().split(max(1, _CHUNK // len(texts))):
        total = total + (part @ texts.T / temperature).softmax(1)[:, len(id_text) :].sum(0, dtype=torch.float64)
    return total / max(1, len(features))


def activated(activation: Tensor, count: int) -> Tensor:
    """The labels of largest activation (TANL eq. 6 of the difference, eq. 8), or all if there are fewer.

    ValueError for a count below 1, or no vector.

    Args:
        activation: `Act(X_neg) - Act(X_pos)`, `(N,)`.
        count: M.

    Returns:
        Indices, `(min(M, N),)`, int64, largest first; ties in the order of the labels.

    Example:
        >>> activated(torch.tensor([0.1, 0.3, -0.2, 0.3]), count=3)
        tensor([1, 3, 0])
    """
    check_counts(count=count)
    if activation.ndim != 1:
        raise ValueError(f"activation must have shape (N,), got {tuple(activation.shape)}")
    return activation.sort(descending=True, stable=True).indices[:count]


def activation_aware_score(id_logits: Tensor, negative_logits: Tensor, step: int = 1) -> Tensor:
    """OOD score against ranked negatives (TANL eq. 15): `o = 1 - S_aa`, the mean over m of the score against the first m.

    `o = mean_m sigmoid( lse_{j≤m}(negatives) - lse(ID) )`, so that earlier labels weigh more.

    Args:
        id_logits: `(n, C)`.
        negative_logits: `(n, M)`, most activated first, M > 0.
        step: m = step, 2 step, …, M; 1 in the paper.

    Returns:
        `(n,)` in [0, 1], float64.

    Example:
        >>> activation_aware_score(torch.zeros(1, 1), torch.zeros(1, 2))  # the mean of 1/2 and 2/3
        tensor([0.5833], dtype=torch.float64)
    """
    check_counts(step=step)
    count = negative_logits.shape[1]
    if not count:
        raise ValueError("no negatives to score against")
    ends = sorted({*range(step - 1, count, step), count - 1})
    odds = negative_logits.double().logcumsumexp(1)[:, ends] - id_logits.double().logsumexp(1, keepdim=True)
    return odds.sigmoid().mean(1)


def otsu_threshold(scores: Tensor) -> float:
    """The one of 0, 0.01, …, 0.99 that cuts scores into two sets of least variance within (Otsu, 1979), as TANL's γ.

    Args:
        scores: `(n,)` in [0, 1].

    Returns:
        The middle one of equally good cuts; 0.5 where no cut has scores on both sides.

    Example:
        >>> otsu_threshold(torch.tensor([0.105, 0.125, 0.905]))  # 0.13 to 0.90 are alike
        0.52
    """
    ordered = scores.double().sort().values
    cuts = torch.arange(100, dtype=torch.float64, device=scores.device) / 100
    below = torch.searchsorted(ordered, cuts)  # how many are under each cut
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    above = len(ordered) - below
    # The variance within is least where that between is largest: n₀n₁(μ₀ - μ₁)².
    apart = sums[below] / below - (sums[-1] - sums[below]) / above
    between = torch.where((below > 0) & (above > 0), below * above * apart**2, -1.0)
    best = (between == between.max()).nonzero()[:, 0]
    return int(best[len(best) // 2]) / 100


class TANL(Baseline):
    """TANL (Zhang et al., "Activation Matters: Test-time Activated Negative Labels…", CVPR 2026, arXiv 2603.25250).

    `o(v) = 1 - S_aa(v)` (eq. 15) against the M labels of a corpus of largest `Act(X_neg) - Act(X_pos)`, ranked by it. X_pos and
    X_neg are the last L images with `S_aa ≥ γ + g(1-γ)` and with `S_aa < γ - gγ` (eq. 9); γ cuts the last `history` scores in two
    by Otsu's method. They begin (eq. 10) with texts of ID classes and 15 images of Gaussian noise (authors: five kinds of noise).

    The corpus is all words of the model, or N_nl where it has none. Images are judged at sync points, with the labels of before:
    it matters where these lie, as batches do in the paper, but not how many GPUs there are. The paper's batch-adaptive variant
    (eq. 11 to 14, α = 0.95) scores an image by the others of its batch and is left out: it would differ with the number of GPUs.

    Args:
        labels: M ≥ 1.
        queue: L ≥ 1.
        gap: g in [0, 1]; 0.2 in the paper, 0.5 in the authors' script.
        history: scores that γ is found from.
        step: of eq. 15.
        seed: of the noise, and of which texts begin.
    """

    name = "tanl"
    needs_negatives = True
    learned = ("positive", "negative", "scores", "chosen", "chosen_text")
    id_text: Tensor  # (C, d)
    corpus: Tensor  # (N, d)
    noise: Tensor  # (15, d)
    positive: Tensor  # X_pos, (≤ L, d)
    negative: Tensor  # X_neg, (≤ L, d)
    scores: Tensor  # S_aa, (≤ history,)
    chosen: Tensor  # indices of the M labels, most activated first
    chosen_text: Tensor  # their features, (M, d)
    tau: float

    def __init__(
        self, labels: int = 1000, queue: int = 300, gap: float = 0.2, history: int = 20_000, step: int = 1, seed: int = 0
    ) -> None:
        super().__init__()
        check_counts(labels=labels, queue=queue, history=history, step=step)
        check_shares(gap=gap)
        self.labels, self.queue, self.gap, self.history, self.step, self.seed = labels, queue, gap, history, step, seed
        self.hold("id_text", "corpus", "noise", "positive", "negative", "scores", "chosen", "chosen_text")

    def prepare(self, model: ANTS) -> None:
        """Take the texts, and look at the noise; ValueError without words and negative labels."""
        prompts = ((model.nouns, model.hparams["noun_prompt"]), (model.adjectives, model.hparams["adjective_prompt"]))
        texts = [prompt.format(w) for words, prompt in prompts for w in without_names(words, model.class_names)]
        if not texts and not len(model.neglabel):
            raise ValueError("tanl needs nouns, adjectives or negative labels, ANTS has none")
        self.id_text, self.tau = model.id_text, float(model.hparams["temperature"])
        self.corpus = model.encoder(texts) if texts else model.neglabel.features.to(model.id_text)
        size = model.clip.visual.image_size
        height, width = (size, size) if isinstance(size, int) else size
        noise = torch.randn(15, 3, height, width, generator=torch.Generator().manual_seed(self.seed))
        self.noise = model.encode(noise.to(model.id_text.device))[0]
        self.reset()

    def reset(self) -> None:
        """Begin with texts as X_pos and noise as X_neg."""
        some = torch.randperm(len(self.id_text), generator=torch.Generator().manual_seed(self.seed))[: self.queue]
        self.positive, self.negative = self.id_text[some.to(self.id_text.device)], self.noise[-self.queue :]
        self._choose()
        self.scores = self._id_scores(torch.cat([self.id_text, self.noise]))[-self.history :]

    def learn(self, rows: Rows) -> None:
        """Queue the confident images among these, and choose labels anew."""
        features = rows["features"].to(self.id_text)
        scores = self._id_scores(features)
        self.scores = torch.cat([self.scores, scores])[-self.history :]
        positive, negative = confident(scores, otsu_threshold(self.scores), self.gap)
        self.positive = torch.cat([self.positive, features[positive]])[-self.queue :]
        self.negative = torch.cat([self.negative, features[negative]])[-self.queue :]
        self._choose()

    def _choose(self) -> None:
        act = [mean_activation(images, self.id_text, self.corpus, self.tau) for images in (self.negative, self.positive)]
        self.chosen = activated(act[0] - act[1], self.labels)
        self.chosen_text = self.corpus[self.chosen]

    def _id_scores(self, features: Tensor) -> Tensor:
        """S_aa, `(n,)`."""
        parts = [self._score(part, part @ self.id_text.T) for part in features.split(1024)]
        return 1 - torch.cat(parts)

    def _score(self, features: Tensor, id_cosine: Tensor) -> Tensor:
        return activation_aware_score(id_cosine / self.tau, features @ self.chosen_text.T / self.tau, self.step)

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)` in [0, 1], float64."""
        return self._score(seen.features, seen.id_cosine)
