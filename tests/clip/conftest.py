"""Fixtures of this folder."""

import open_clip
import pytest

from ants_lightning import demo


@pytest.fixture
def clip():
    return open_clip.create_model(demo.CLIP).requires_grad_(False).eval()


@pytest.fixture
def encoded(clip):
    """The number of texts in each forward of the text tower."""
    counts, encode_text = [], clip.encode_text

    def counting(tokens):
        counts.append(len(tokens))
        return encode_text(tokens)

    clip.encode_text = counting
    return counts
