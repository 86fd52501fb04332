"""The words of WordNet: which there are, and what the script makes of Debian's files."""

import lzma

import numpy as np
import pytest

from ants_lightning.assets.make_wordnet import FILES, synset_lines
from ants_lightning.clip.wordnet import ASSETS, adjectives, nouns, synsets


def test_words_are_unique_ignoring_case_and_of_one_kind():
    words = [word.lower() for word in [*nouns(), *adjectives()]]
    assert len(set(words)) == len(words) == 70_794
    assert all(word == word.strip() != "" and not set(word) & set("~_\t()") for word in words)


def test_nouns_are_the_first_words_of_their_synsets_in_order():
    words = nouns(())
    assert words[:4] == ["entity", "physical entity", "abstraction", "thing"]
    assert words.index("dog") < words.index("car") < words.index("pearly everlasting")
    assert not {"auto", "motorcar"} & set(words)  # the second and later words of car


def test_animals_and_foods_are_left_out_unless_told():
    left = set(nouns(())) - set(nouns())
    assert {"badger", "giant panda", "pizza", "guacamole"} <= left and not {"forklift", "volcano"} & left
    assert len(nouns(("person", "quantity", "group"))) == 56_129  # as CSP has it


def test_adjectives_are_no_nouns():
    words = adjectives()
    assert {"hairy", "on the go", "striped"} <= set(words) and "red" not in words and "red" in nouns()
    assert set(words) - set(adjectives(("pert",))) > {"lunar", "chelonian"}


def test_files_come_as_any_list_or_alone_and_the_words_are_the_callers_own():
    wanted = nouns(("person",))
    assert nouns(["person"]) == nouns(np.array(["person"])) == nouns("person") == wanted != nouns()
    wanted.clear()
    assert len(nouns("person")) > 50_000 and adjectives("pert") == adjectives(["pert"]) != adjectives()


@pytest.mark.parametrize("words", [nouns, adjectives])
def test_a_file_that_there_is_not(words):
    with pytest.raises(ValueError, match="'vehicle'"):
        words(("vehicle",))


def test_the_assets_hold_all_synsets_of_wordnet_3_0():
    assert len(synsets("nouns")) == 82_115 and len(synsets("adjectives")) == 18_156  # wnstats(7WN)
    assert {file for part in ("nouns", "adjectives") for file, *_ in synsets(part)} == set(FILES.values())
    assert all(lzma.decompress(path.read_bytes()) for path in ASSETS.glob("*.xz"))


def test_lines_of_the_script():
    data = (
        "  1 licence of data\n"
        '00000011 05 n 03 dog 0 Canis_familiaris 0 hound 2 001 @ 00000099 n 0000 | an animal; "a dog"\n'
        "00000055 01 a 02 able(p) 0 apt(ip) 0 000 | gloss (p)\n"
    )
    index = (
        "  1 licence of index\n"
        "dog n 2 2 @ ~ 2 1 00000011 00000070\ncanis_familiaris n 1 1 @ 1 0 00000011\n"
        "hound n 2 1 @ 2 1 00000070 00000011\nable a 1 0 1 1 00000055\napt a 1 0 1 1 00000055\n"
    )
    assert synset_lines(data, index) == ["animal\tdog\tCanis familiaris\t~hound", "pert\table\tapt"]
