"""Images that are surely not preprocessed are refused in words; those that may be are not."""

import pytest
import torch

from ants_lightning import ANTS, demo
from ants_lightning.clip.pixels import check_pixels, in_words


@pytest.fixture(scope="module")
def model():
    return ANTS(demo.CLIP, class_names=["star", "ring"])


class AnySize(torch.nn.Module):
    """As a convolutional tower of timm: it takes any size but those that it fails at."""

    image_size = 64

    def forward(self, images):
        if images.shape[-1] % 32:
            raise AssertionError(f"{images.shape[-1]} is no multiple of 32")
        return images.mean((1, 2, 3))


GOOD = torch.randn(8, 3, 64, 64)
BYTES = torch.randint(256, (8, 3, 64, 64))


@pytest.mark.parametrize(
    ("images", "what"),
    [
        (BYTES.byte(), "are torch.uint8"),
        (BYTES, "are torch.int64"),
        (GOOD > 0, "are torch.bool"),
        (GOOD[:, :1], r"have the shape \(8, 1, 64, 64\), not"),
        (torch.randn(8, 64, 64, 3), r"\(8, 64, 64, 3\) \(channels last, NHWC\)"),
        (torch.randn(8, 4, 64, 64), r"\(8, 4, 64, 64\)"),
        (torch.randn(8, 3, 224, 224), "are 224 × 224 pixels"),
        (torch.randn(8, 3, 64, 63), "are 64 × 63 pixels"),
        (BYTES.float(), r"have values of 0…25\d"),
        (BYTES.double(), "have values of 0…25"),
    ],
)
def test_what_is_certain_is_refused_with_what_is_wanted(model, images, what):
    with pytest.raises(
        ValueError, match=rf"{what}.*floats \(n, 3, 64, 64\) as `model\.preprocess` makes them"
    ):
        check_pixels(images, model.clip.visual)


def test_what_may_be_right_is_let_pass(model):
    dark = torch.zeros(8, 3, 64, 64)
    noisy = GOOD.clone()
    noisy[0] *= 100  # one odd image is no fault of the preprocessing
    broken = GOOD.clone()
    broken[:, :, 0] = torch.inf
    for images in (
        GOOD,
        GOOD.double(),
        GOOD.half(),
        GOOD[:1],
        GOOD * 5,
        GOOD.clamp(0, 1),
        dark,
        noisy,
        broken,
        GOOD * torch.nan,
    ):
        check_pixels(images, model.clip.visual)
    check_pixels(torch.randn(2, 3, 96, 96), AnySize())


def test_a_tower_that_fails_at_another_size_says_so_in_words():
    tower = AnySize()
    assert in_words(tower, torch.randn(2, 3, 96, 96), tower).shape == (2,)
    with pytest.raises(
        ValueError,
        match=r"are 50 × 50 pixels, at which the image tower fails \(50 is no multiple of 32\).*64, 64",
    ):
        in_words(tower, torch.randn(2, 3, 50, 50), tower)

    def full(_):
        raise torch.OutOfMemoryError("96 GiB")

    def bug(_):
        raise RuntimeError("another fault")

    for broken, images in ((full, torch.randn(2, 3, 96, 96)), (bug, torch.randn(2, 3, 64, 64))):
        with pytest.raises(RuntimeError, match=r"96 GiB|another fault"):
            in_words(broken, images, tower)


def test_float64_gives_what_float32_gives(model):
    torch.testing.assert_close(model.encode(GOOD.double())[0], model.encode(GOOD)[0])
