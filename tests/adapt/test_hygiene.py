"""Label hygiene: spellings, plurals, synonyms, and texts too close to an ID class."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ants_lightning.adapt.hygiene import Hygiene, fold, forms
from ants_lightning.demo.controls import PerfectCaptions
from ants_lightning.demo.shapes import ID_CLASSES

NAMES = ["sports car", "T-shirt", "goose", "bus", "great white shark", "Straße"]


@pytest.mark.parametrize(
    "text",
    [
        "sports car",
        "Sports Car",
        "SPORTS-CAR",
        "sports_car",
        "a sports car",
        "The sports  cars",
        "sport car",
        "t shirt",
        "tee shirt",
        "T-SHIRTS",
        "geese",
        "Geese.",
        "buses",
        "coach",
        "motorcoach",
        "white shark",
        "Carcharodon carcharias",
        "STRASSE",
        "ｇｏｏｓｅ",
    ],
)
def test_names_of_id_classes_are_recognised(text):
    assert Hygiene(NAMES, torch.eye(6), None).is_id_name(text)


@pytest.mark.parametrize(
    "text", ["car", "shirt", "cuckoo", "duck", "shark fin", "red bus", "truck", "", "busy", "鹅"]
)
def test_other_names_are_not(text):
    assert not Hygiene(NAMES, torch.eye(6), None).is_id_name(text)


def test_fold_keeps_letters_of_all_scripts():
    assert (
        fold("Ärzte-Haus") == "ärztehaus"
        and fold("赤 狐!") == "赤狐"
        and fold("A") == "a"
        and fold("the") == "the"
    )


def test_forms_hold_the_name_itself():
    assert all(fold(name) in forms(name) for name in NAMES)


@given(st.text())
def test_forms_of_any_text_hold_it(text):
    assert fold(text) in forms(text) | {""}


@pytest.mark.parametrize("name", [" S", "-in-law", "-of-", "", " ", "\n", "-of-the-of-", "x" * 5000])
def test_forms_of_what_is_no_noun_are_it_alone_or_what_inflect_makes_of_it(name):
    assert {fold(name)} - {""} <= forms(name)


def test_without_names_the_bound_on_the_similarity_stays():
    free = Hygiene(["star"], torch.tensor([[1.0, 0.0]]), 0.6, names=False)
    assert not free.is_id_name("star") and not free.is_id_name("Stars")
    assert free.far_enough(torch.tensor([[1.0, 0.0], [0.6, 0.8]])).tolist() == [False, True]


def test_texts_closer_to_an_id_class_than_told_are_found():
    features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    id_text = torch.tensor([[1.0, 0.0]])
    assert Hygiene(["a"], id_text, 0.6).far_enough(features).tolist() == [False, True, True]
    assert Hygiene(["a"], id_text, 0.5).far_enough(features).tolist() == [False, False, True]
    assert Hygiene(["a"], id_text, None).far_enough(features).all()


class Parrot(PerfectCaptions):
    """Says ID names, and one that is none, in two spellings."""

    def describe(self, images, avoid):
        return [name.upper() for name in avoid]

    def similar_classes(self, names, count=5, images=None):
        return [[*ID_CLASSES[:2], "Stars", "comb", "COMB"] for _ in names]


def test_the_memory_drops_and_counts_them(run, small_demo):
    _, model, results = run(Parrot(small_demo))
    assert model.spaces.ens.labels == model.spaces.neglabel.labels and model.spaces.vsnl.labels == [
        "The nice comb."
    ]
    for stream in results["streams"].values():
        assert stream["n_vsnl"] == 1 and stream["n_dropped"] > 3


def test_without_hygiene_they_stay(run, small_demo):
    _, model, results = run(Parrot(small_demo), hygiene={"names": False, "max_id_similarity": None})
    assert {"The nice Stars.", f"The nice {ID_CLASSES[0]}."} <= set(model.spaces.vsnl.labels)
    assert all(stream["n_dropped"] == 0 for stream in results["streams"].values())


def test_without_hygiene_the_bound_on_the_similarity_stays(run, small_demo):
    _, model, _ = run(Parrot(small_demo), hygiene={"names": False})
    assert {"The nice comb.", "The nice COMB."} & set(model.spaces.vsnl.labels)
    assert not {f"The nice {name}." for name in ID_CLASSES} & set(
        model.spaces.vsnl.labels
    )  # cosine 1 with themselves


def test_a_bound_on_the_similarity_drops_all_that_are_closer(run):
    _, model, results = run(hygiene={"max_id_similarity": 0.5})
    assert (model.spaces.vsnl.features @ model.spaces.id_text.T).max() <= 0.5 + 1e-6
    free = run()[2]
    for name, stream in results["streams"].items():
        assert stream["n_dropped"] > free["streams"][name]["n_dropped"]
    assert all(
        stream["n_vsnl"] == 0 for stream in run(hygiene={"max_id_similarity": -1.0})[2]["streams"].values()
    )


def test_distinct_labels_are_each_once_and_no_id_name():
    hygiene = Hygiene(["cat", "hot dog"], torch.zeros(2, 4), None)
    said = ["Hot-dog", "lynx", "tiger", "", "!", "Cats", "lynx", "the Lynx", "T-Shirt"]
    assert hygiene.distinct(said) == ["lynx", "tiger", "T-Shirt"]
    assert hygiene.distinct([]) == []
