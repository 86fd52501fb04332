import io
import math

import pytest
import torch

from ants_lightning.adapt.bank import MemoryBank, join, take
from ants_lightning.adapt.settings import Mining


def stream(n, start=0, seed=0, levels=None):
    """n images of a stream; with `levels` the scores are tied."""
    generator = torch.Generator().manual_seed(seed + 1000 * start)
    scores = torch.rand(n, generator=generator)
    return {
        "index": torch.arange(start, start + n),
        "id_score": (scores * levels).round() / levels if levels else scores,
        "prediction": torch.randint(7, (n,), generator=generator),
        "owner": torch.arange(n) % 2,
        "features": torch.randn(n, 4, generator=generator),
    }


def added(parts, **settings):
    bank = MemoryBank(4, Mining(**settings))
    for part in parts:
        bank.add(part)
    return bank


def reference_bank(scores, gamma, size):
    """Places in the history: the lowest candidates, of equal ones the earliest, in stream order."""
    candidates = sorted((score, i) for i, score in enumerate(scores) if score < gamma)
    return sorted(i for _, i in candidates[:size])


def same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, dict):
            same(value, b[name])
        elif isinstance(value, torch.Tensor):
            assert value.dtype == b[name].dtype
            torch.testing.assert_close(value, b[name], rtol=0, atol=0, equal_nan=True)
        else:
            assert value == b[name]


@pytest.mark.parametrize("gamma", [0.125, 0.75, 1.0])
@pytest.mark.parametrize("size", [1, 10, 1000])
@pytest.mark.parametrize("levels", [None, 8])
def test_the_bank_keeps_the_candidates_of_lowest_score_in_stream_order(gamma, size, levels):
    whole = stream(120, levels=levels)
    parts = [take(whole, torch.arange(i, min(i + 17, 120))) for i in range(0, 120, 17)]
    bank = added(parts, gamma=gamma, bank_size=size)
    places = reference_bank(whole["id_score"].tolist(), gamma, size)
    assert bank.rows["position"].tolist() == places
    for name, column in whole.items():
        assert torch.equal(bank.rows[name], column[places]), name
    assert not bank.rows["described"].any() and bank.rows["described"].shape == (len(places),)
    assert bank.rows["prequential"].isnan().all() and bank.rows["prequential"].shape == (len(places), 2)


def test_history_and_mean_feature_cover_every_image():
    parts = [stream(30), stream(1, 30), stream(45, 31)]
    bank = added(parts, gamma=0.1, bank_size=2)
    assert torch.equal(bank.history, torch.cat([part["id_score"] for part in parts]))
    rows = [row for part in parts for row in part["features"].tolist()]
    expected = [math.fsum(row[d] for row in rows) / 76 for d in range(4)]
    torch.testing.assert_close(bank.mean_feature, torch.tensor(expected), rtol=1e-6, atol=1e-8)


def test_the_mean_is_summed_in_double():
    rows = stream(2)
    rows["features"] = torch.tensor([[1e8, 0, 0, 0], [1.0, 0, 0, 0]])
    small = {**rows, "features": torch.tensor([[-1e8, 0, 0, 0], [1.0, 0, 0, 0]])}
    assert added([rows, small]).mean_feature.tolist() == [0.5, 0, 0, 0]


def test_position_is_the_place_in_the_history_whatever_the_index():
    bank = added([stream(10, start=500), stream(10, start=100)], gamma=1.0)
    assert bank.rows["position"].tolist() == list(range(20))
    assert bank.rows["index"].tolist() == [*range(500, 510), *range(100, 110)]


@pytest.mark.parametrize("eta", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("size", [5, 1000])
def test_mine_finds_the_lowest_share_of_the_whole_history(eta, size):
    parts = [stream(40, 40 * i + 5) for i in range(3)]
    bank = added([], gamma=0.5, eta=eta, bank_size=size)
    scores = []
    for part in parts:
        bank.add(part)
        scores += part["id_score"].tolist()
        low = sorted(score for score in scores if score < 0.5)
        chosen = low[: math.ceil(eta * len(low))]
        rows = bank.mine()
        assert bank.gamma_star == chosen[-1] and bank.n_negative == len(chosen)
        kept = reference_bank(scores, 0.5, size)  # γ, not γ*, makes a candidate
        assert bank.rows["position"].tolist() == kept
        expected = [i for i, score in enumerate(scores) if score <= chosen[-1] and i in kept]
        assert bank.rows["position"][rows].tolist() == expected
        assert rows.tolist() == sorted(rows.tolist())


@pytest.mark.parametrize("parts", [[], [stream(20)]])
def test_without_candidates_nothing_is_mined_and_gamma_stays(parts):
    bank = added(parts, gamma=0.0)
    assert bank.mine().tolist() == []
    assert (bank.gamma_star, bank.n_negative) == (0.0, 0)


def test_no_image_has_a_mean_of_zero():
    assert torch.equal(MemoryBank(4, Mining()).mean_feature, torch.zeros(4))


def test_what_is_noted_of_an_image_stays_with_it():
    bank = added([stream(30)], gamma=1.0, bank_size=10)
    noted = bank.rows["position"][[1, 4]].tolist()
    bank.set_described(torch.tensor([1, 4]))
    bank.set_prequential(torch.tensor([4, 1]), torch.tensor([[0.4, 0.5], [0.1, 0.2]]))
    low = stream(5, 30)
    low["id_score"] = low["id_score"] / 1000  # push five others out
    bank.add(low)
    positions = bank.rows["position"].tolist()
    assert positions == reference_bank(bank.history.tolist(), 1.0, 10)
    for place, scores in zip(noted, ([0.1, 0.2], [0.4, 0.5]), strict=True):
        if place in positions:
            torch.testing.assert_close(bank.rows["prequential"][positions.index(place)], torch.tensor(scores))
    told = [place for place, done in zip(positions, bank.rows["described"], strict=True) if done]
    assert told == [place for place in noted if place in positions] != []
    assert int(bank.rows["prequential"].isnan().all(1).sum()) == 10 - len(told)


def test_the_first_prequential_scores_stay():
    bank = added([stream(5)], gamma=1.0)
    bank.set_prequential(torch.tensor([2, 3]), torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    bank.set_prequential(torch.tensor([3, 0]), torch.tensor([[0.9, 0.9], [0.5, 0.6]]))
    expected = torch.full((5, 2), torch.nan)
    expected[[0, 2, 3]] = torch.tensor([[0.5, 0.6], [0.1, 0.2], [0.3, 0.4]])
    torch.testing.assert_close(bank.rows["prequential"], expected, equal_nan=True)


def test_state_goes_through_a_safe_file_and_the_stream_goes_on_alike():
    bank = added([stream(40)], gamma=0.7, eta=0.3, bank_size=20)
    bank.set_described(bank.mine())
    file = io.BytesIO()
    torch.save(bank.state(), file)
    file.seek(0)
    restored = MemoryBank(4, Mining())
    restored.restore(torch.load(file, weights_only=True))
    same(restored.state(), bank.state())
    for one in (bank, restored):
        one.add(stream(30, 40))
        one.set_prequential(
            one.mine(),
            torch.rand(1, 2, generator=torch.Generator().manual_seed(0)).expand(len(one.mine()), 2),
        )
    same(restored.state(), bank.state())
    assert (restored.gamma, restored.eta, restored.bank_size) == (0.7, 0.3, 20)


def test_a_snapshot_does_not_change_when_the_stream_goes_on():
    bank = added([stream(20)], gamma=1.0)
    snapshot, twin = bank.state(), MemoryBank(4, Mining())
    twin.restore(snapshot)
    bank.set_described(torch.tensor([0]))
    bank.set_prequential(torch.tensor([1]), torch.tensor([[0.1, 0.2]]))
    bank.add(stream(20, 20))
    same(snapshot, added([stream(20)], gamma=1.0).state())
    same(twin.state(), added([stream(20)], gamma=1.0).state())


def test_join_puts_parts_one_after_another_and_take_picks_rows():
    whole = stream(12)
    parts = [take(whole, torch.arange(5)), take(whole, torch.arange(5, 5)), take(whole, torch.arange(5, 12))]
    same(join(parts), whole)
    picked = take(whole, torch.tensor([7, 0]))
    assert picked["index"].tolist() == [7, 0] and torch.equal(picked["features"], whole["features"][[7, 0]])


def test_nothing_grows_with_the_stream(monkeypatch):
    monkeypatch.setattr("ants_lightning.adapt.bank.HISTORY", 50)
    bank = MemoryBank(4, Mining(gamma=0.5, eta=0.5, bank_size=10))
    scores = []
    for i in range(20):
        bank.add(part := stream(30, 30 * i))
        scores += part["id_score"].tolist()
        rows = bank.mine()
        low = [score for score in scores if score < 0.5]
        kept = reference_bank(scores, 0.5, 10)
        assert bank.n_negative == math.ceil(0.5 * len(low)) and bank.n_seen == len(scores)
        # The bank's part of X_neg, and all of it as long as the bank holds it.
        assert bank.rows["position"][rows].tolist() == sorted(
            sorted(kept, key=lambda p: scores[p])[: bank.n_negative]
        )
        if bank.n_negative <= 10:
            assert bank.gamma_star == sorted(low)[bank.n_negative - 1]
        else:  # of the newest images
            recent = sorted(score for score in scores[-50:] if score < 0.5)
            assert bank.gamma_star == recent[math.ceil(0.5 * len(recent)) - 1]
    assert bank.history.tolist() == scores[-50:] and len(bank.rows["index"]) == 10
    assert bank.mean_feature.shape == (4,) and len(scores) == 600


def test_a_full_bank_is_left_alone_by_scores_that_are_not_lower():
    bank = added([stream(30)], gamma=1.0, bank_size=5)
    before, top = bank.rows, float(bank.rows["id_score"].max())
    more = {**stream(3, 30), "id_score": torch.tensor([top, 0.99, top])}
    bank.add(more)
    assert bank.rows is before and bank.n_candidates == 33  # nothing was copied
    bank.add({**stream(1, 33), "id_score": torch.tensor([0.0])})
    assert bank.rows is not before and 33 in bank.rows["position"].tolist()


def test_the_guard_looks_at_the_newest_thousand_images():
    ood, known = torch.linspace(0, 0.1, 300), torch.linspace(0.6, 1, 700)

    def shows(*parts, least=0.8):
        rows = stream(sum(map(len, parts)))
        return added([{**rows, "id_score": torch.cat(parts)}]).shows_negatives(least)

    assert shows(known, ood) and shows(known, known, ood) and shows(ood, known)
    assert not shows(ood, known, known) and shows(ood, known, known, least=None)
