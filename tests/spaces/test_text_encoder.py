"""The text encoder: features of CLIP, batches, and texts that encode to nothing."""

import pytest
import torch
from text_space_parts import LETTERS, alone, counting, tokenizer

from ants_lightning.clip.encoder import TextEncoder


def test_features_are_those_of_clip_normalised_in_the_order_of_the_texts(clip):
    texts = [f"text {i}" for i in range(11)]
    found = TextEncoder(clip, tokenizer, batch_size=4)(texts[::-1])
    assert found.shape == (11, 16) and found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found, alone(clip, texts[::-1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(11))
    assert (found[0] - found[1]).abs().max() > 1e-3  # the texts are told apart


def test_texts_go_through_the_model_in_batches(clip):
    batches = []
    TextEncoder(clip, counting(batches), batch_size=4)([f"t{i}" for i in range(10)])
    assert batches == [["t0", "t1", "t2", "t3"], ["t4", "t5", "t6", "t7"], ["t8", "t9"]]


def test_a_text_is_encoded_once(clip):
    batches = []
    encoder = TextEncoder(clip, counting(batches))
    first = encoder(["a", "b", "a", "a"])
    again = encoder(["b", "c", "a"])
    assert batches == [["a", "b"], ["c"]]
    assert torch.equal(first[0], first[2]) and torch.equal(first[[1, 0]], again[[0, 2]])
    torch.testing.assert_close(again, alone(clip, "bca"), atol=1e-5, rtol=0)


def test_the_oldest_leave_a_full_cache_and_no_answer_is_short(clip):
    batches = []
    encoder = TextEncoder(clip, counting(batches), cache_size=3)
    torch.testing.assert_close(encoder("abcde"), alone(clip, "abcde"), atol=1e-5, rtol=0)
    encoder(["c", "d", "e"])
    assert len(batches) == 1
    encoder(["b"])
    encoder(["e"])
    encoder(["c"])
    assert batches[1:] == [["b"], ["c"]]


def test_a_text_that_encodes_to_nan_is_named(clip):
    with torch.no_grad():
        clip.token_embedding.weight[LETTERS.index("z") + 1] = torch.nan
    encoder = TextEncoder(clip, tokenizer, batch_size=2)
    with pytest.raises(ValueError, match="'a z b'"):
        encoder(["one", "two", "three", "a z b", "four"])
    torch.testing.assert_close(encoder(["four"]), alone(clip, ["four"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("last", [0.0, torch.inf])
def test_a_text_that_encodes_to_zero_or_infinity_is_named(clip, last):
    encoder = TextEncoder(clip, tokenizer)
    encoder(["good"])
    torch.nn.init.zeros_(clip.text_projection).data[-1, -1] = last
    with pytest.raises(ValueError, match="'bad'"):
        encoder(["good", "bad", "worse"])


@pytest.mark.parametrize("texts", [[], ()])
def test_no_texts_are_an_error(clip, texts):
    with pytest.raises(ValueError, match="no texts"):
        TextEncoder(clip, tokenizer)(texts)
