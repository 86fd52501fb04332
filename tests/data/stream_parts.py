"""Images that tell their set and place."""

from PIL import Image

from ants_lightning.data import MixedStream


class Numbered:
    """n images that say which set they are of (red) and which place they have (green, blue); labels 0, 1,
    2, 0, …
    """

    def __init__(self, red, n, label=None):
        self.red, self.n, self.label = red, n, label

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        assert 0 <= i < self.n
        return Image.new(
            "RGB", (2, 2), (self.red, i // 256, i % 256)
        ), i % 3 if self.label is None else self.label


def where(image):
    red, high, low = image.getpixel((0, 0))
    return red, 256 * high + low


def stream(n_id=60, a=30, b=10, **settings):
    return MixedStream(Numbered(0, n_id), {"a": Numbered(1, a), "b": Numbered(2, b)}, where, **settings)


def items(s):
    return [s[i] for i in range(len(s))]


def reds(s):
    return [item["image"][0] for item in items(s)]
