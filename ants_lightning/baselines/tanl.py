"""TANL: negative labels are those that OOD images of the stream activate."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ants_lightning.baselines.base import Baseline, DetectorInputs, Seen
from ants_lightning.common.settings import check_counts, check_shares
from ants_lightning.method.activation import activated, activation_aware_score, confident, mean_activation
from ants_lightning.method.otsu import otsu_cut


class TANL(Baseline):
    """TANL (Zhang et al., "Activation Matters: Test-time Activated…", CVPR 2026, arXiv 2603.25250).

    `o(v) = 1 - S_aa(v)` (eq. 15) against the M labels of a corpus that the images X_neg activate most and the
    images X_pos least: `Act(X_neg) - Act(X_pos)` is largest, and ranks them. X_pos are the last L images with
    `S_aa ≥ γ + g(1-γ)`, X_neg the last L with `S_aa < γ - gγ` (eq. 9); γ cuts the last `history` scores in
    two by Otsu's method. At first (eq. 10) X_pos holds texts of ID classes and X_neg 15 images of Gaussian
    noise; the authors take five kinds of noise.

    The corpus is all words of the model, or N_nl where it has none. At a sync point the images are scored
    with the labels chosen before it. So scores depend on where the sync points lie, as on the batches in the
    paper, but not on the number of GPUs. The paper's batch-adaptive variant (eq. 11 to 14, α = 0.95) is left
    out: it scores an image by the others of its batch, which would depend on the number of GPUs.

    Args:
        labels: M ≥ 1.
        queue: L ≥ 1.
        gap: g in [0, 1]; 0.2 in the paper, 0.5 in the authors' script.
        history: number of scores that γ is found from.
        step: of eq. 15.
        seed: of the noise, and of the choice of first texts.
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
        self,
        labels: int = 1000,
        queue: int = 300,
        gap: float = 0.2,
        history: int = 20_000,
        step: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_counts(labels=labels, queue=queue, history=history, step=step)
        check_shares(gap=gap)
        self.labels, self.queue, self.gap = labels, queue, gap
        self.history, self.step, self.seed = history, step, seed
        self.hold("id_text", "corpus", "noise", "positive", "negative", "scores", "chosen", "chosen_text")

    def prepare(self, inputs: DetectorInputs) -> None:
        """Encode the corpus and the noise; ValueError where there are neither words nor negative labels."""
        nouns, adjectives = inputs.vocabulary.texts()
        if not nouns and not adjectives and not len(inputs.negative_text):
            raise ValueError("tanl needs nouns, adjectives or negative labels, ANTS has none")
        self.id_text, self.tau = inputs.id_text, inputs.temperature
        texts = [*nouns, *adjectives]
        self.corpus = inputs.encode_text(texts) if texts else inputs.negative_text
        noise = torch.randn(15, 3, *inputs.image_size, generator=torch.Generator().manual_seed(self.seed))
        self.noise = inputs.encode_image(noise.to(inputs.id_text.device))
        self.reset()

    def reset(self) -> None:
        """Begin a stream with texts as X_pos and noise as X_neg (eq. 10)."""
        order = torch.randperm(len(self.id_text), generator=torch.Generator().manual_seed(self.seed))  # (C,)
        self.positive = self.id_text[order[: self.queue].to(self.id_text.device)]
        self.negative = self.noise[-self.queue :]
        self._choose()
        self.scores = self._id_scores(torch.cat([self.id_text, self.noise]))[-self.history :]

    def learn(self, images: Mapping[str, Tensor]) -> None:
        """Queue the confident images among these, and choose labels anew."""
        features = images["features"].to(self.id_text)  # (n, d)
        scores = self._id_scores(features)  # (n,)
        self.scores = torch.cat([self.scores, scores])[-self.history :]
        positive, negative = confident(scores, otsu_cut(self.scores), self.gap)
        self.positive = torch.cat([self.positive, features[positive]])[-self.queue :]
        self.negative = torch.cat([self.negative, features[negative]])[-self.queue :]
        self._choose()

    def _choose(self) -> None:
        """Choose the labels that X_neg activates more than X_pos (eq. 6 and 8)."""
        by_negative = mean_activation(self.negative, self.id_text, self.corpus, self.tau)  # (N,)
        by_positive = mean_activation(self.positive, self.id_text, self.corpus, self.tau)  # (N,)
        self.chosen = activated(by_negative - by_positive, self.labels)
        self.chosen_text = self.corpus[self.chosen]

    def _id_scores(self, features: Tensor) -> Tensor:
        """S_aa `(n,)` of features `(n, d)`."""
        parts = [self._score(part, part @ self.id_text.T) for part in features.split(1024)]
        return 1 - torch.cat(parts)

    def _score(self, features: Tensor, id_cosine: Tensor) -> Tensor:
        """`1 - S_aa`, `(n,)`, of features `(n, d)` and their cosines with the ID texts `(n, C)`."""
        negative_logits = features @ self.chosen_text.T / self.tau  # (n, M)
        return activation_aware_score(id_cosine / self.tau, negative_logits, self.step)

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)` in [0, 1], float64."""
        return self._score(seen.features, seen.id_cosine)
