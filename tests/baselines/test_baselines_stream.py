"""AdaNeg against plain loops, and what holds for all baselines that learn from the stream."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from baseline_parts import drawn_order, grouped_score, logits, look, make_inputs, rows, softmax

from ants_lightning.baselines import TANL, AdaNeg, adaneg

WORDS = [f"word{i}" for i in range(11)]
NAMES = ["cat", "dog", "bat", "elk"]


def stream(inputs, n, spread=0.2, seed=0, repeat=False):
    """Images near the texts of the inputs, ID and negative ones."""
    g = torch.Generator().manual_seed(seed)
    texts = torch.cat([inputs.id_text, inputs.negative_text])
    which = torch.randint(len(texts), (n,), generator=g)
    images = F.normalize(texts[which] + spread * torch.randn(n, texts.shape[1], generator=g), dim=1)
    return images[which] if repeat else images


def learn(baseline, images, cuts=()):
    for part in images.tensor_split(sorted(cuts)):
        baseline.learn({"features": part})


class PlainAdaNeg:
    """The memory as the paper fills it, one image at a time."""

    def __init__(self, inputs, length, threshold, gap, beta, weight, groups):
        self.id_text = inputs.id_text
        self.negatives = inputs.negative_text[drawn_order(len(inputs.negative_text))]
        self.length = length
        self.high = threshold + gap * (1 - threshold)
        self.low = threshold - gap * threshold
        self.beta, self.weight, self.groups, self.tau = beta, weight, groups, inputs.temperature
        self.memory = {}

    def learn(self, image):
        ids, negatives = logits(image, self.id_text, self.tau), logits(image, self.negatives, self.tau)
        score = 1 - grouped_score(ids, negatives, self.groups)
        if self.low <= score < self.high:
            return
        side, first = (ids, 0) if score >= self.high else (negatives, len(ids))
        entropy = -sum(p * math.log(p) for p in softmax(side) if p > 0)
        slot = self.memory.setdefault(first + side.index(max(side)), [])
        if len(slot) < self.length:
            slot.append((entropy, image))
        elif entropy < max(kept for kept, _ in slot) - 1e-12:
            worst = max(range(len(slot)), key=lambda i: (slot[i][0], i))
            del slot[worst]
            slot.append((entropy, image))

    def score(self, image):
        cosines = []
        for label, text in enumerate(torch.cat([self.id_text, self.negatives]).tolist()):
            held = np.array([text, *(kept for _, kept in self.memory.get(label, []))])
            proxy = sum(math.exp(-self.beta * (1 - np.dot(image, m))) * m for m in held)
            cosines.append(np.dot(image, proxy) / np.linalg.norm(proxy) / self.tau)
        texts = logits(image, self.id_text, self.tau), logits(image, self.negatives, self.tau)
        c = len(self.id_text)
        return grouped_score(cosines[:c], cosines[c:], self.groups) + self.weight * grouped_score(
            *texts, self.groups
        )


@pytest.mark.parametrize(("classes", "words", "groups"), [(4, 11, 2), (1, 1, 5), (3, 6, 1)])
@pytest.mark.parametrize(
    ("length", "gap", "beta", "weight"), [(10, 0.5, 5.5, 0.1), (2, 0.0, 0.0, 1.0), (1, 0.2, 40.0, 0.0)]
)
def test_adaneg_is_that_of_plain_loops(classes, words, groups, length, gap, beta, weight):
    inputs = make_inputs(NAMES[:classes], negatives=WORDS[:words])
    baseline = AdaNeg(length, 0.5, gap, beta, weight, groups)
    baseline.prepare(inputs)
    plain = PlainAdaNeg(inputs, length, 0.5, gap, beta, weight, groups)
    images = stream(inputs, 60)
    tests = stream(inputs, 8, seed=1)
    for upto in (0, 20, 60):
        learn(baseline, images[max(0, upto - 40) : upto] if upto else images[:0])
        for image in images[max(0, upto - 40) : upto].tolist() if upto else []:
            plain.learn(image)
        np.testing.assert_allclose(
            baseline(look(inputs, tests)), [plain.score(x) for x in tests.tolist()], rtol=5e-5, atol=1e-9
        )
        assert sorted(baseline.labels.tolist()) == sorted(
            label for label, kept in plain.memory.items() for _ in kept
        )
    assert len(baseline.labels) >= min(4, length)


def test_adaneg_with_an_empty_memory_is_neglabel_and_reset_makes_it_so():
    inputs, x = make_inputs(NAMES, negatives=WORDS), rows(5, seed=9)
    baseline = AdaNeg(text_weight=0.25, num_groups=4)
    baseline.prepare(inputs)
    first = baseline(look(inputs, x))
    negatives = inputs.negative_text[drawn_order(11)]
    expected = [
        1.25 * grouped_score(logits(v, inputs.id_text, 0.05), logits(v, negatives, 0.05), 4)
        for v in x.tolist()
    ]
    np.testing.assert_allclose(first, expected, rtol=5e-5)
    learn(baseline, stream(inputs, 40))
    assert not torch.equal(baseline(look(inputs, x)), first)
    baseline.reset()
    assert torch.equal(baseline(look(inputs, x)), first)


@pytest.mark.parametrize("cuts", [(7,), (1, 2, 3, 90), tuple(range(1, 120)), (0, 0, 60, 60, 120)])
@pytest.mark.parametrize("repeat", [False, True])
def test_adaneg_does_not_depend_on_how_the_stream_is_cut(cuts, repeat):
    inputs, tests = make_inputs(NAMES, negatives=WORDS), rows(6, seed=2)
    images = stream(inputs, 120, repeat=repeat)
    whole, pieces = AdaNeg(length=3, gap=0.1), AdaNeg(length=3, gap=0.1)
    for baseline, where in ((whole, ()), (pieces, cuts)):
        baseline.prepare(inputs)
        learn(baseline, images, where)
    assert torch.equal(whole.labels, pieces.labels) and len(whole.labels) > 12
    assert torch.equal(whole.images, pieces.images)
    torch.testing.assert_close(whole(look(inputs, tests)), pieces(look(inputs, tests)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("length", [1, 3, 100])
def test_keep_surest_is_the_memory_of_one_image_at_a_time(length):
    g = torch.Generator().manual_seed(length)
    # Many ties
    labels = torch.randint(5, (200,), generator=g)
    entropies = torch.randint(4, (200,), generator=g).double()
    images = torch.arange(200.0)[:, None]
    slots = {}
    for label, entropy, image in zip(labels.tolist(), entropies.tolist(), range(200), strict=True):
        slot = slots.setdefault(label, [])
        slot.append((entropy, image))
        slot.sort()
        del slot[length:]
    expected = [(label, *kept) for label in sorted(slots) for kept in slots[label]]
    for cut in ([0, 200], [0, 13, 14, 150, 200]):
        state = labels[:0], entropies[:0], images[:0]
        for a, b in itertools.pairwise(cut):
            new = labels[a:b], entropies[a:b], images[a:b]
            state = adaneg.keep_surest(*(torch.cat(pair) for pair in zip(state, new, strict=True)), length)
        assert [(int(i), float(e), int(x)) for i, e, x in zip(*state, strict=True)] == expected


def test_adaneg_in_small_chunks_and_without_images(monkeypatch):
    inputs, tests = make_inputs(NAMES, negatives=WORDS), rows(6, seed=2)
    found = []
    for chunk in (8_000_000, 1):
        monkeypatch.setattr("ants_lightning.method.chunks._CHUNK", chunk)
        baseline = AdaNeg(length=4, gap=0.1)
        baseline.prepare(inputs)
        learn(baseline, stream(inputs, 50))
        found.append(baseline(look(inputs, tests)))
        assert baseline(look(inputs, tests[:0])).shape == (0,)
    torch.testing.assert_close(*found, rtol=1e-5, atol=0)


def test_adaneg_learns_what_the_ood_images_of_the_stream_look_like():
    inputs = make_inputs(NAMES, negatives=WORDS)
    kind = F.normalize(inputs.negative_text[:1] + 0.4 * rows(1, seed=5), dim=1)
    seen, id_image = F.normalize(kind + 0.1 * rows(9, seed=6), dim=1), inputs.id_text[:1]
    baseline = AdaNeg()
    baseline.prepare(inputs)
    before = baseline(look(inputs, torch.cat([seen[-1:], id_image])))
    learn(baseline, seen[:-1])
    after = baseline(look(inputs, torch.cat([seen[-1:], id_image])))
    assert after[0] > before[0] and torch.allclose(after[1], before[1], atol=1e-3)


@pytest.mark.parametrize("make", [lambda: AdaNeg(length=2, gap=0.1), lambda: TANL(labels=3)])
def test_learning_under_inference_mode_as_without_it(make):
    baseline = make()
    inputs = make_inputs(NAMES, negatives=WORDS)
    images = stream(make_inputs(NAMES, negatives=WORDS), 40)
    tests = rows(4)
    found = []
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            baseline.prepare(inputs)
            learn(baseline, images, (9, 30))
            found.append(baseline(look(inputs, tests)))
            baseline.reset()
            learn(baseline, images, (9, 30))
            assert torch.equal(baseline(look(inputs, tests)), found[-1])
    baseline.reset()  # outside, with tensors made inside
    learn(baseline, images, (9, 30))
    assert torch.equal(found[0], found[1]) and torch.equal(baseline(look(inputs, tests)), found[0])


@pytest.mark.parametrize(
    ("baseline", "message"),
    [(AdaNeg, "adaneg needs negative labels"), (TANL, "tanl needs nouns, adjectives or")],
)
def test_without_negative_labels_there_is_an_error(baseline, message):
    with pytest.raises(ValueError, match=message):
        baseline().prepare(make_inputs(NAMES))


BAD = [
    (AdaNeg, {"length": 0}),
    (AdaNeg, {"gamma": 1.5}),
    (AdaNeg, {"gap": -0.1}),
    (AdaNeg, {"sharpness": -1.0}),
    (AdaNeg, {"text_weight": math.nan}),
    (AdaNeg, {"num_groups": 0}),
    (TANL, {"labels": 0}),
    (TANL, {"queue": 0}),
    (TANL, {"gap": math.nan}),
    (TANL, {"history": 0}),
    (TANL, {"step": 0}),
]


@pytest.mark.parametrize(("baseline", "setting"), BAD)
def test_bad_settings_are_refused_by_name_and_value(baseline, setting):
    ((name, value),) = setting.items()
    with pytest.raises(ValueError, match=f"{name} must .*got {value}"):
        baseline(**setting)
