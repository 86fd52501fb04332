"""TANL against plain loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from baseline_parts import encode, logits, look, lse, make_inputs, rows, softmax
from test_baselines_stream import NAMES, WORDS, learn, stream

from ants_lightning.baselines import TANL
from ants_lightning.method.activation import activated, activation_aware_score, mean_activation
from ants_lightning.method.otsu import otsu_cut


@pytest.mark.parametrize(("k", "c", "n"), [(1, 1, 1), (5, 3, 7), (4, 2, 30)])
@pytest.mark.parametrize("chunk", [1, 8_000_000])
def test_mean_activation_is_that_of_plain_loops(k, c, n, chunk, monkeypatch):
    monkeypatch.setattr("ants_lightning.method.chunks._CHUNK", chunk)
    images, id_text, corpus = rows(k, seed=1), rows(c, seed=2), rows(n, seed=3)
    each = [softmax(logits(v, torch.cat([id_text, corpus]), 0.1))[c:] for v in images.tolist()]
    np.testing.assert_allclose(
        mean_activation(images, id_text, corpus, 0.1), np.mean(each, axis=0), rtol=2e-5
    )
    assert mean_activation(images[:0], id_text, corpus).tolist() == [0.0] * n


def test_activated_are_the_most_activated_ties_in_order():
    activation = torch.tensor([0.0, 2.0, -1.0, 2.0, 5.0])
    assert [activated(activation, m).tolist() for m in (1, 3, 9)] == [[4], [4, 1, 3], [4, 1, 3, 0, 2]]
    assert activated(torch.arange(3000) % 2, 1500).tolist() == list(range(1, 3000, 2))
    for bad, match in ((torch.zeros(2, 2), r"\(2, 2\)"), (activation, "at least 1, got 0")):
        with pytest.raises(ValueError, match=match):
            activated(bad, 0 if bad.ndim == 1 else 1)


@pytest.mark.parametrize(("c", "m", "step"), [(1, 1, 1), (3, 7, 1), (2, 7, 3), (2, 6, 3), (2, 5, 9)])
def test_activation_aware_score_is_that_of_plain_loops(c, m, step):
    ids, negatives = 20 * rows(6, c, seed=1), 20 * rows(6, m, seed=2)
    expected = []
    for f, h in zip(ids.tolist(), negatives.tolist(), strict=True):
        s = [sum(softmax(f + h[: min(m, i + step)])[:c]) for i in range(0, m, step)]
        expected.append(1 - sum(s) / len(s))
    np.testing.assert_allclose(activation_aware_score(ids, negatives, step), expected, rtol=1e-9, atol=1e-14)


def test_activation_aware_score_weighs_the_first_label_most_and_never_rounds_to_0():
    ids, high, low = torch.zeros(1, 1), torch.tensor([[3.0, -3.0]]), torch.tensor([[-3.0, 3.0]])
    assert activation_aware_score(ids, high) > activation_aware_score(ids, low)
    assert 0 < activation_aware_score(torch.full((1, 1), 200.0), torch.zeros(1, 3)) < 1e-80
    with pytest.raises(ValueError, match="no negatives"):
        activation_aware_score(ids, ids[:, :0])
    with pytest.raises(ValueError, match="step must be at least 1, got 0"):
        activation_aware_score(ids, high, 0)


def plain_otsu(scores):
    within = []
    for cut in range(100):
        sides = [s for s in scores if s < cut / 100], [s for s in scores if s >= cut / 100]
        within.append(sum(len(s) * np.var(s) for s in sides) if all(sides) else math.inf)
    best = [cut for cut in range(100) if within[cut] == min(within) or within[cut] < min(within) + 1e-10]
    return best[len(best) // 2] / 100


@pytest.mark.parametrize("n", [1, 2, 3, 50, 400])
@pytest.mark.parametrize("seed", range(4))
def test_otsu_threshold_is_that_of_plain_loops(n, seed):
    scores = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) ** (1 + seed)
    assert otsu_cut(scores) == plain_otsu(scores.tolist())


@pytest.mark.parametrize(
    ("scores", "cut"), [([0.2, 0.2], 0.5), ([], 0.5), ([0.0, 1.0], 0.5), ([0.015, 0.995, 0.995], 0.51)]
)
def test_otsu_threshold_of_ties(scores, cut):
    assert otsu_cut(torch.tensor(scores)) == cut


class PlainTANL:
    """TANL as Algorithm 1 of the paper, without the batch-adaptive variant."""

    def __init__(self, id_text, corpus, noise, some, labels, queue, gap, history, tau):
        self.id_text, self.corpus, self.tau = id_text.tolist(), corpus.tolist(), tau
        self.m, self.l, self.g, self.h = labels, queue, gap, history
        self.positive, self.negative = [self.id_text[i] for i in some][:queue], noise.tolist()[-queue:]
        self.choose()
        self.scores = [self.score(v) for v in [*self.id_text, *noise.tolist()]][-history:]

    def choose(self):
        def act(images):
            each = [softmax(logits(v, torch.tensor(self.id_text + self.corpus), self.tau)) for v in images]
            return np.mean(each, axis=0)[len(self.id_text) :]

        difference = act(self.negative) - act(self.positive)
        self.chosen = sorted(range(len(self.corpus)), key=lambda i: -difference[i])[: self.m]

    def score(self, v):
        ids = logits(v, torch.tensor(self.id_text), self.tau)
        negatives = [logits(v, torch.tensor([self.corpus[i]]), self.tau)[0] for i in self.chosen]
        return np.mean(
            [1 / (1 + math.exp(lse(negatives[:m]) - lse(ids))) for m in range(1, len(negatives) + 1)]
        )

    def learn(self, images):
        scores = [self.score(v) for v in images]
        self.scores = [*self.scores, *scores][-self.h :]
        cut = plain_otsu(self.scores)
        for v, s in zip(images, scores, strict=True):
            if s >= cut + self.g * (1 - cut):
                self.positive = [*self.positive, v][-self.l :]
            elif s < cut - self.g * cut:
                self.negative = [*self.negative, v][-self.l :]
        self.choose()


@pytest.mark.parametrize(
    ("labels", "queue", "gap", "history"), [(4, 6, 0.2, 30), (100, 300, 0.5, 20_000), (1, 2, 0.0, 5)]
)
@pytest.mark.parametrize("source", ["words", "negatives"])
def test_tanl_is_that_of_plain_loops(labels, queue, gap, history, source):
    words = (
        {"nouns": ["Cat", "owl", "ant", "owl"], "adjectives": ["red", "big", "old"]}
        if source == "words"
        else {}
    )
    inputs = make_inputs(NAMES, negatives=WORDS, **words)
    baseline = TANL(labels, queue, gap, history, seed=3)
    baseline.prepare(inputs)
    corpus = encode(["A owl.", "A ant.", "So red.", "So big.", "So old."]) if words else inputs.negative_text
    assert torch.equal(baseline.corpus, corpus)
    noise = torch.randn(15, 3, 4, 6, generator=torch.Generator().manual_seed(3)).flatten(1)[:, :16]
    noise = noise / noise.norm(dim=1, keepdim=True)
    some = torch.randperm(4, generator=torch.Generator().manual_seed(3)).tolist()
    plain = PlainTANL(inputs.id_text, corpus, noise, some, labels, queue, gap, history, 0.05)
    images, tests = stream(inputs, 40, spread=0.3, seed=7), stream(inputs, 6, seed=8)
    for a, b in ((0, 0), (0, 12), (12, 13), (13, 40)):
        if b:
            learn(baseline, images[a:b])
            plain.learn(images[a:b].tolist())
        assert baseline.chosen.tolist() == plain.chosen
        assert (len(baseline.positive), len(baseline.negative)) == (len(plain.positive), len(plain.negative))
        np.testing.assert_allclose(baseline.scores, plain.scores, rtol=5e-5, atol=1e-6)
        np.testing.assert_allclose(
            baseline(look(inputs, tests)), [1 - plain.score(v) for v in tests.tolist()], rtol=2e-4, atol=1e-9
        )
    np.testing.assert_allclose(baseline.positive, plain.positive, rtol=1e-6)
    np.testing.assert_allclose(baseline.negative, plain.negative, rtol=1e-6)


def test_tanl_finds_the_labels_of_the_ood_images_and_reset_forgets_them():
    inputs = make_inputs(NAMES, negatives=WORDS)
    baseline = TANL(labels=2, queue=20)
    baseline.prepare(inputs)
    first = baseline.chosen, baseline(look(inputs, rows(4, seed=1)))
    kinds = inputs.negative_text[[3, 7]].repeat(15, 1)
    images = F.normalize(torch.cat([kinds, inputs.id_text.repeat(8, 1)]) + 0.05 * rows(62, seed=4), dim=1)
    for _ in range(3):
        learn(baseline, images)
    assert set(baseline.chosen.tolist()) == {3, 7}
    assert len(baseline.positive) == len(baseline.negative) == 20
    baseline.reset()
    assert torch.equal(baseline.chosen, first[0]) and torch.equal(
        baseline(look(inputs, rows(4, seed=1))), first[1]
    )


def test_tanl_leaves_the_global_random_state_alone_and_takes_square_images():
    inputs = make_inputs(NAMES, negatives=WORDS, image_size=(3, 3))
    state = torch.get_rng_state()
    made = [TANL(seed=seed) for seed in (0, 0, 1)]
    for baseline in made:
        baseline.prepare(inputs)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(made[0].noise, made[1].noise) and not torch.equal(made[0].noise, made[2].noise)
