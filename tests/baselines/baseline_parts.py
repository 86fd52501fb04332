"""Plain loops and inputs made of letters, for the tests of baselines."""

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from ants_lightning.baselines import (
    DetectorInputs,
    Seen,
)
from ants_lightning.clip.settings import Negatives, Prompts
from ants_lightning.clip.vocabulary import Vocabulary
from ants_lightning.method.scores import group_order


def rows(n, d=16, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def encode(texts, d=16):
    """A feature a text, from its letters alone."""
    seeds = [sum(ord(letter) * 31**i for i, letter in enumerate(text)) % 2**31 for text in texts]
    return torch.cat([rows(1, d, seed) for seed in seeds])


def make_inputs(classes, nouns=(), adjectives=(), negatives=(), d=16, **settings):
    """What ANTS gives to `Baseline.prepare`, with features made of letters."""
    prompts = Prompts(settings.pop("id_prompt", "The {}."), "A {}.", "So {}.")
    mining = Negatives(list(nouns), list(adjectives), settings.pop("keep", 0.5), percentile=0.9)
    inputs = DetectorInputs(
        id_text=encode([prompts.id.format(name) for name in classes], d),
        negative_text=encode(negatives, d) if negatives else torch.empty(0, d),
        vocabulary=Vocabulary.read(mining, prompts).without(classes),
        mining=mining,
        temperature=0.05,
        num_groups=3,
        image_size=(4, 6),
        encode_text=lambda texts: encode(texts, d),
        encode_image=lambda images: F.normalize(images.flatten(1)[:, :d], dim=1),
    )
    return replace(inputs, **settings)


def look(inputs, features, patches=None):
    order = group_order(len(inputs.negative_text), inputs.num_groups)
    return Seen(features, features @ inputs.id_text.T, features @ inputs.negative_text[order].T, patches)


def softmax(logits):
    top = max(logits)
    mass = [math.exp(x - top) for x in logits]
    return [m / sum(mass) for m in mass]


def lse(logits):
    return max(logits) + math.log(sum(math.exp(x - max(logits)) for x in logits))


def logits(v, texts, tau):
    return [sum(float(a) * float(b) for a, b in zip(v, t, strict=True)) / tau for t in texts.tolist()]


def grouped_score(id_logits, negative_logits, num_groups):
    """NegLabel's OOD score of one image; negatives in group order."""
    runs = np.array_split(negative_logits, min(num_groups, len(negative_logits)))
    return np.mean([1 / (1 + math.exp(lse(id_logits) - lse(list(run)))) for run in runs])


def drawn_order(n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
