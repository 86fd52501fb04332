"""CSP: NegLabel with a conjugated semantic pool, adjectives before names of superclasses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ants_lightning.baselines.base import Baseline, Seen
from ants_lightning.method.counts import count_of
from ants_lightning.method.negatives import mine_negative_labels, without_names
from ants_lightning.method.scores import group_order, margins

if TYPE_CHECKING:
    from ants_lightning.ants import ANTS

SUPERCLASSES = (
    "environment", "space", "object", "scene", "place", "item", "area", "view", "thing", "pattern", "structure", "landscape",
    "vista", "creature",
)  # fmt: skip
PROMPTS = ("{}", "a nice photo of {}", "a good photo of {}", "a close-up photo of {}")


def conjugate(adjectives: Sequence[str], superclasses: Sequence[str], seed: int) -> list[str]:
    """Each adjective before the name of a superclass that a local generator draws, uniformly."""
    drawn = torch.randint(len(superclasses), (len(adjectives),), generator=torch.Generator().manual_seed(seed))
    return [f"{adjective} {superclasses[i]}" for adjective, i in zip(adjectives, drawn.tolist(), strict=True)]


def mine_apart(
    candidate_text: Tensor, id_text: Tensor, keep: int | float, percentile: float, max_id_similarity: float | None
) -> Tensor:
    """NegMining (`mining.mine_negative_labels`) without the candidates that are too close to some ID class; `keep` is of all.

    Returns:
        Indices of candidates, int64, farthest first; ValueError where none is far enough.
    """
    count = count_of(keep, len(candidate_text))
    apart = torch.arange(len(candidate_text), device=candidate_text.device)
    if max_id_similarity is not None:
        nearest = torch.cat([(part @ id_text.T).amax(1) for part in candidate_text.split(4096)])
        apart = apart[nearest <= max_id_similarity]
    if not len(apart):
        raise ValueError(f"all {len(candidate_text)} candidates have a cosine above {max_id_similarity} with an ID class")
    return apart[mine_negative_labels(candidate_text[apart], id_text, count, percentile)]


class CSP(Baseline):
    """CSP (Chen et al., "Conjugated Semantic Pool Improves OOD Detection…", NeurIPS 2024, arXiv 2410.08611).

    `o(v) = mean_g sigmoid( lse_{n in N_g}(v·n/τ) - lse_c(v·t_c/τ) )`, NegLabel's score. N: those of the nouns that NegMining keeps,
    and those of the pool, which has one "adjective superclass" an adjective. τ, G, `keep`, percentile, words and the nouns' prompt
    are the model's; the authors average eight prompts for nouns and ID classes, and take words from other files of WordNet.

    Args:
        superclasses: their names.
        prompts: a label of the pool is the mean of its features with these, normalised.
        seed: of the draw of superclasses.
        max_id_similarity: no label has a larger cosine with an ID class (authors' code); None: any.
    """

    name = "csp"
    negative_text: Tensor
    tau: float
    num_groups: int

    def __init__(
        self, superclasses: Sequence[str] = SUPERCLASSES, prompts: Sequence[str] = PROMPTS, seed: int = 0,
        max_id_similarity: float | None = 0.95,
    ) -> None:  # fmt: skip
        super().__init__()
        if not superclasses or not prompts:
            raise ValueError(f"superclasses and prompts needed, got {list(superclasses)} and {list(prompts)}")
        for prompt in prompts:
            if prompt.count("{}") != 1:
                raise ValueError(f"a prompt must hold one {{}}, got {prompt!r}")
        self.superclasses, self.prompts, self.seed = list(superclasses), list(prompts), seed
        self.max_id_similarity = max_id_similarity
        self.hold("negative_text")

    def prepare(self, model: ANTS) -> None:
        """Encode and mine both pools; ValueError where the model has no nouns or no adjectives."""
        nouns, adjectives = (without_names(words, model.class_names) for words in (model.nouns, model.adjectives))
        if not nouns or not adjectives:
            raise ValueError(f"csp needs nouns and adjectives, ANTS has {len(nouns)} and {len(adjectives)}: give both")
        h = model.hparams
        pool = conjugate(adjectives, self.superclasses, self.seed)
        texts = torch.stack([model.encoder([prompt.format(label) for label in pool]) for prompt in self.prompts])
        parts = (model.encoder([h["noun_prompt"].format(noun) for noun in nouns]), F.normalize(texts.mean(0), dim=1))
        limits = h["keep"], h["percentile"], self.max_id_similarity
        found = torch.cat([part[mine_apart(part, model.id_text, *limits)] for part in parts])
        self.tau, self.num_groups = float(h["temperature"]), int(h["num_groups"])
        self.negative_text = found[group_order(len(found), self.num_groups).to(found.device)]

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)` in [0, 1], float64."""
        odds = margins(seen.id_cosine / self.tau, seen.features @ self.negative_text.T / self.tau, self.num_groups)
        return odds.double().sigmoid().mean(1)
