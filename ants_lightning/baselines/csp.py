"""CSP: NegLabel with a conjugated semantic pool, whose labels are adjectives before names of superclasses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ants_lightning.baselines.base import Baseline, DetectorInputs, Seen
from ants_lightning.clip.settings import check_prompt
from ants_lightning.clip.vocabulary import in_prompt
from ants_lightning.method.counts import count_of
from ants_lightning.method.negatives import mine_negative_labels
from ants_lightning.method.scores import group_order, margins

SUPERCLASSES = (
    "environment",
    "space",
    "object",
    "scene",
    "place",
    "item",
    "area",
    "view",
    "thing",
    "pattern",
    "structure",
    "landscape",
    "vista",
    "creature",
)
PROMPTS = ("{}", "a nice photo of {}", "a good photo of {}", "a close-up photo of {}")


def conjugate(adjectives: Sequence[str], superclasses: Sequence[str], seed: int) -> list[str]:
    """Each adjective before the name of a superclass, drawn uniformly by a generator of this seed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(superclasses), (len(adjectives),), generator=generator)
    return [f"{adjective} {superclasses[i]}" for adjective, i in zip(adjectives, drawn.tolist(), strict=True)]


def mine_apart(
    candidate_text: Tensor,
    id_text: Tensor,
    keep: int | float,
    percentile: float,
    max_id_similarity: float | None,
) -> Tensor:
    """NegMining (`mine_negative_labels`) without the candidates that are too close to an ID class.

    Args:
        candidate_text: `(m, d)`, L2-normalised.
        id_text: `(C, d)`, L2-normalised.
        keep: a count or a share, of all candidates.
        percentile: of NegMining.
        max_id_similarity: the largest cosine that a candidate may have with any ID class; None: any.

    Returns:
        Indices of candidates, int64, farthest first; ValueError where none is far enough.
    """
    count = count_of(keep, len(candidate_text))
    apart = torch.arange(len(candidate_text), device=candidate_text.device)
    if max_id_similarity is not None:
        nearest = torch.cat([(part @ id_text.T).amax(1) for part in candidate_text.split(4096)])  # (m,)
        apart = apart[nearest <= max_id_similarity]
    if not len(apart):
        found = f"a cosine above {max_id_similarity} with an ID class"
        raise ValueError(f"all {len(candidate_text)} candidates have {found}")
    return apart[mine_negative_labels(candidate_text[apart], id_text, count, percentile)]


class CSP(Baseline):
    """CSP (Chen et al., "Conjugated Semantic Pool Improves OOD Detection…", NeurIPS 2024, arXiv 2410.08611).

    `o(v) = mean_g sigmoid( lse_{n in N_g}(v·n/τ) - lse_c(v·t_c/τ) )`, NegLabel's score. N is what NegMining
    keeps of the nouns and of the pool, which has one "adjective superclass" for each adjective. τ, G, `keep`,
    percentile, words and the nouns' prompt are those of the model. The authors average eight prompts for
    nouns and ID classes, and take words from other files of WordNet.

    Args:
        superclasses: their names.
        prompts: the feature of a label of the pool is its mean over these prompts, normalised.
        seed: of the draw of superclasses.
        max_id_similarity: the largest cosine of a label with an ID class (authors' code); None: any.
    """

    name = "csp"
    negative_text: Tensor
    tau: float
    num_groups: int

    def __init__(
        self,
        superclasses: Sequence[str] = SUPERCLASSES,
        prompts: Sequence[str] = PROMPTS,
        seed: int = 0,
        max_id_similarity: float | None = 0.95,
    ) -> None:
        super().__init__()
        if not superclasses or not prompts:
            raise ValueError(f"superclasses and prompts needed, got {list(superclasses)} and {list(prompts)}")
        for prompt in prompts:
            check_prompt("a prompt", prompt)
        self.superclasses, self.prompts, self.seed = list(superclasses), list(prompts), seed
        self.max_id_similarity = max_id_similarity
        self.hold("negative_text")

    def prepare(self, inputs: DetectorInputs) -> None:
        """Encode and mine both pools; ValueError where there are no nouns or no adjectives."""
        words = inputs.vocabulary
        if not words.nouns or not words.adjectives:
            there = f"ANTS has {len(words.nouns)} and {len(words.adjectives)}"
            raise ValueError(f"csp needs nouns and adjectives, {there}: give both")
        labels = conjugate(words.adjectives, self.superclasses, self.seed)
        nouns = inputs.encode_text(words.texts()[0])  # (nouns, d)
        prompted = [inputs.encode_text(in_prompt(prompt, labels)) for prompt in self.prompts]
        pool = F.normalize(torch.stack(prompted).mean(0), dim=1)  # (adjectives, d)
        limits = inputs.mining.keep, inputs.mining.percentile, self.max_id_similarity
        parts = [part[mine_apart(part, inputs.id_text, *limits)] for part in (nouns, pool)]
        found = torch.cat(parts)  # (M, d)
        self.tau, self.num_groups = inputs.temperature, inputs.num_groups
        self.negative_text = found[group_order(len(found), self.num_groups).to(found.device)]

    def forward(self, seen: Seen) -> Tensor:
        """OOD scores `(n,)` in [0, 1], float64."""
        negative_logits = seen.features @ self.negative_text.T / self.tau  # (n, M)
        odds = margins(seen.id_cosine / self.tau, negative_logits, self.num_groups)  # (n, G)
        return odds.double().sigmoid().mean(1)
