"""A question before the stream: it is known before the first batch whether an MLLM can answer."""

from typing import Any

from PIL import ImageDraw
from PIL.Image import Image, new

SIDE = 224  # pixels


def picture() -> Image:
    """A red disc on a green ground under a blue sky: what nobody needs a network for."""
    image = new("RGB", (SIDE, SIDE), (130, 190, 250))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, SIDE * 2 // 3, SIDE, SIDE), fill=(60, 140, 60))
    draw.ellipse((SIDE // 4, SIDE // 4, SIDE * 3 // 4, SIDE * 3 // 4), fill=(210, 40, 40))
    return image


def ask_first(mllm: Any, name: str, count: int) -> str:
    """Why an MLLM that is set up cannot answer; "" where it can.

    It must describe `picture` and name classes similar to `name`.

    Neither answer is counted, recorded or used. TimeoutError goes through: a server may still be loading its
    model.

    Args:
        mllm: see `MLLM`; one with `replays` is not asked.
        name: an ID class.
        count: similar classes to ask for, at least 1.
    """
    if getattr(mllm, "replays", False):
        return ""
    asked = {
        "describe a picture": lambda: mllm.describe([picture()], [name]),
        f"name classes similar to {name!r}": lambda: mllm.similar_classes([name], count),
    }
    for what, ask in asked.items():
        try:
            answers = ask()
        except TimeoutError:
            raise
        except Exception as error:  # whatever a model or a server throws
            return f"asked to {what} it raised {type(error).__name__}: {error!s:.1000}"
        if not isinstance(answers, list) or len(answers) != 1:
            return f"asked to {what} it gave no list of one answer: {answers!r:.200}"
        if answers[0] is None:
            return f"asked to {what} it failed"
        if not answers[0]:
            heard = getattr(mllm, "heard", "")
            return f"asked to {what} it gave nothing usable" + (f"; it said: {heard!r:.300}" if heard else "")
    return ""
