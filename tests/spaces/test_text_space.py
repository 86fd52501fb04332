"""`TextSpace`: the queue, its groups, and label banks."""

import pytest
import torch
from text_space_parts import alone, counting, tokenizer

from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.spaces.text_space import TextSpace


def features(*numbers):
    """Recognisable rows: number i is the row (i, -i)."""
    return torch.tensor([[float(i), -float(i)] for i in numbers]).reshape(-1, 2)


def space_of(*pushes, **settings):
    """A space after pushes of numbers: text i has the row (i, -i)."""
    space = TextSpace(2, **settings)
    for numbers in pushes:
        space.push([str(i) for i in numbers], features(*numbers))
    return space


def assert_holds(space, *numbers):
    assert space.labels == [str(i) for i in numbers] and len(space) == len(numbers)
    assert torch.equal(space.features, features(*numbers))


def test_the_newest_texts_stay():
    assert_holds(space_of([1, 2], [3], [4, 5], capacity=3), 3, 4, 5)


def test_a_push_larger_than_the_capacity_keeps_its_last_texts():
    assert_holds(space_of([1], range(2, 9), capacity=3), 6, 7, 8)
    assert_holds(space_of([1, 2], [2, 1, 2, 3], capacity=1), 3)


def test_without_capacity_all_stay():
    assert_holds(space_of(range(50), range(50, 80)), *range(80))


def test_a_text_pushed_again_becomes_the_newest_and_is_not_doubled():
    assert_holds(space_of([1, 2, 3], [1]), 2, 3, 1)
    assert_holds(space_of([1, 2, 3], [1], [4], capacity=3), 3, 1, 4)
    assert_holds(space_of([1, 2, 1, 1, 3, 2]), 1, 3, 2)


def test_a_text_pushed_again_takes_its_new_features():
    space = space_of([1, 2])
    space.push(["1"], features(9))
    assert space.labels == ["2", "1"] and torch.equal(space.features, features(2, 9))


def test_push_counts_the_new_texts():
    space = space_of([1, 2])
    assert space.push(["2", "3", "3", "4"], features(2, 3, 3, 4)) == 2
    assert space.push(["3"], features(3)) == 0


@pytest.mark.parametrize("capacity", [None, 2])
def test_pushing_nothing_changes_nothing(capacity):
    space = TextSpace(2, capacity=capacity)
    assert space.push([], features()) == 0
    assert_holds(space)
    space.push(["1"], features(1))
    assert space.push([], features()) == 0
    assert_holds(space, 1)


def test_replace_and_clear_forget_all_others():
    space = space_of([1, 2, 3])
    space.replace(["2", "7", "8"], features(2, 7, 8))
    assert_holds(space, 2, 7, 8)
    space.clear()
    assert_holds(space)
    assert space.grouped().shape == (0, 2)


@pytest.mark.parametrize(("n", "groups"), [(10, 3), (7, 1), (3, 9)])
def test_grouped_rows_come_in_the_order_of_the_seeded_permutation(n, groups):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
    assert torch.equal(space_of(range(n), num_groups=groups).grouped(), features(*order))


def test_a_space_filled_under_inference_mode_can_be_pushed_to_after_it():
    space = space_of([1, 2], capacity=2)
    with torch.inference_mode():
        space.push(["3"], features(3))
    space.push(["4"], features(4))
    assert_holds(space, 3, 4)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_texts_and_features_of_different_number_are_an_error_and_not_taken(count):
    space = space_of([1])
    with pytest.raises(ValueError):
        space.push(["2", "3"], features(*range(count)))
    assert_holds(space, 1)


@pytest.mark.parametrize("capacity", [0, -1])
def test_capacity_out_of_range(capacity):
    with pytest.raises(ValueError, match=f"capacity .*{capacity}"):
        TextSpace(2, capacity=capacity)


LABELS = ["red", "a blue thing", "green 3", "z"]


def bank_of(encoder, folder, labels=LABELS, name="labels"):
    space = TextSpace(16)
    space.push(labels, encoder(labels))
    space.save(folder, name, encoder)
    return space


def loaded(encoder, folder, **settings):
    space = TextSpace(16, **settings)
    space.push(["gone"], torch.ones(1, 16))
    space.load(folder, "labels", encoder)
    return space


def test_a_label_bank_comes_back_as_it_was_and_nothing_is_encoded(clip, tmp_path):
    batches = []
    saved = bank_of(TextEncoder(clip, tokenizer), tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "labels.safetensors",
        "labels.txt",
    ]
    assert (tmp_path / "new" / "folder" / "labels.txt").read_bytes() == b"red\na blue thing\ngreen 3\nz\n"
    space = loaded(TextEncoder(clip, counting(batches)), tmp_path / "new" / "folder")
    assert space.labels == LABELS and torch.equal(space.features, saved.features)
    assert len(batches) == 1  # for the fingerprint


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_an_edited_bank_is_what_its_lines_say(clip, tmp_path, line_end):
    batches = []
    saved = bank_of(TextEncoder(clip, tokenizer), tmp_path)
    lines = ["\ufeffz", "", "my own", "red ", "   ", "red", "other", "z"]
    (tmp_path / "labels.txt").write_bytes(line_end.join(lines).encode())
    space = loaded(TextEncoder(clip, counting(batches)), tmp_path)
    assert space.labels == ["z", "my own", "red", "other"] and batches[1:] == [["my own", "other"]]
    assert torch.equal(space.features[[0, 2]], saved.features[[3, 0]])
    torch.testing.assert_close(space.features[[1, 3]], alone(clip, ["my own", "other"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["other weights", "no features", "torn features", "remembered"])
def test_without_features_of_this_model_all_lines_are_encoded(clip, tmp_path, caplog, case):
    encoder = TextEncoder(clip, tokenizer)
    if case == "remembered":
        encoder.remember(["red"], torch.ones(1, 16))
    bank_of(encoder, tmp_path)
    path = tmp_path / "labels.safetensors"
    if case == "other weights":
        torch.nn.init.normal_(clip.text_projection)
    elif case == "no features":
        path.unlink()
    elif case == "torn features":
        path.write_bytes(path.read_bytes()[:-8])
    space = loaded(TextEncoder(clip, tokenizer), tmp_path)
    assert space.labels == LABELS
    torch.testing.assert_close(space.features, alone(clip, LABELS), atol=1e-5, rtol=0)
    assert (str(path) in caplog.text) == (case != "no features")


def test_a_bank_larger_than_the_capacity_keeps_its_last_lines(clip, tmp_path):
    encoder = TextEncoder(clip, tokenizer)
    bank_of(encoder, tmp_path)
    assert loaded(encoder, tmp_path, capacity=2).labels == LABELS[2:]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines", "two lines"),
        ("carriage\r", "carriage"),
        ("page\fbreak", "page break"),
        ("line\u2028end", "line end"),
        ("\ud83d dog", "dog"),
        ("esc \x1b[31mred", "esc [31mred"),
        ("", None),
        ("  ", None),
        ("\n", None),
        ("go\0od", None),
    ],
)
def test_a_text_that_is_no_line_is_saved_as_one_with_its_features_or_left_out(
    clip, tmp_path, caplog, text, line
):
    encoder, space = TextEncoder(clip, tokenizer), TextSpace(16)
    features = torch.nn.functional.normalize(
        torch.rand(3, 16, generator=torch.Generator().manual_seed(0)), dim=1
    )
    space.push(["go od", text, "last"], features)
    space.save(tmp_path, "labels", encoder)
    found = loaded(TextEncoder(clip, tokenizer), tmp_path)
    kept = [0, 2] if line is None else [0, 1, 2]
    assert found.labels == ["go od", *([line] if line else []), "last"] and torch.equal(
        found.features, features[kept]
    )
    assert (f"labels: 1 of 3 texts are no lines and saved cleaned, or not: {text!r}" in caplog.text) == (
        text.strip() != line
    )
    space.replace([text, " "], features[:2])
    if line is None and text.isspace():
        with pytest.raises(ValueError, match="no texts to save as 'labels'"):
            space.save(tmp_path, "labels", encoder)


def test_bad_label_banks_are_named_and_change_nothing(clip, tmp_path):
    encoder, space = TextEncoder(clip, tokenizer), space_of([1])
    with pytest.raises(ValueError, match="no texts to save"):
        TextSpace(16).save(tmp_path, "labels", encoder)
    with pytest.raises(ValueError, match=r"no such label bank: .*labels\.txt"):
        space.load(tmp_path, "labels", encoder)
    for content, match in (
        (b"\n  \n", "txt holds no text"),
        (b"caf\xe9", r"labels\.txt' is not UTF-8"),
        (b"a", "16 dimensions"),
    ):
        (tmp_path / "labels.txt").write_bytes(content)
        with pytest.raises(ValueError, match=match):
            space.load(tmp_path, "labels", encoder)
    bank_of(encoder, tmp_path)
    with pytest.raises(ValueError, match=r"labels\.safetensors has 16 dimensions where 2"):
        space.load(tmp_path, "labels", encoder)
    assert_holds(space, 1)
