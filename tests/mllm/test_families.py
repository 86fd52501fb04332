"""Nine multimodal families, each as a miniature of its real class, saved to a folder and loaded from there
in NF4.
"""

import numpy as np
import pytest
import torch
from families import FAMILIES
from family_parts import NAMES
from PIL import Image

from ants_lightning.mllm import TransformersMLLM


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """The family's name, the folder of its miniature, and where its language model is."""
    if request.param == "SmolVLM2":
        pytest.importorskip("num2words")  # its processor wants that
    build, path = FAMILIES[request.param]
    torch.manual_seed(0)
    model, processor = build()
    words = processor.tokenizer
    special = [i for token, i in words.get_vocab().items() if not token.isalpha()]
    model.generation_config.suppress_tokens = sorted(special)  # random weights that always answer in words
    folder = str(tmp_path_factory.mktemp("family"))
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return request.param, folder, path


def load(folder, batch_size):
    mllm = TransformersMLLM(folder, batch_size=batch_size, max_new_tokens=4)
    mllm.setup(torch.device("cpu"))
    mllm.similar_classes(["lamp"])  # weights are there after the first question at the latest
    return mllm


def images():
    noise = np.random.default_rng(0)
    return [
        Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8))
        for h, w in ((64, 64), (40, 130), (150, 90))
    ]


def test_decoder_layers_alone_are_in_four_bits(family):
    _, folder, path = family
    model = load(folder, 3).model
    decoder = model.get_decoder()
    assert decoder is model.get_submodule(path)
    kinds = {name: type(m).__name__ for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    inner = {name for name in kinds if name.startswith(f"{path}.layers.")}
    outer = set(kinds) - inner
    assert len(inner) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert {kinds[name] for name in inner} == {"Linear4bit"}
    assert {kinds[name] for name in outer} == {"Linear"}
    assert "lm_head" in outer
    assert any(
        name.startswith(("model.vision_tower.", "model.vision_model.", "model.visual.")) for name in outer
    )


def test_batched_answers_equal_single_ones(family):
    _, folder, _ = family
    answers = {}
    for batch_size in (1, 3):
        mllm = load(folder, batch_size)
        answers[batch_size] = (
            mllm.describe(images(), NAMES),
            mllm.describe(images(), ["lamp"] * 3),
            mllm.similar_classes(NAMES, 3),
        )
    described, of_images, similar = answers[1]
    assert len(described) == len(similar) == 3
    assert any(described)
    assert any(similar)
    assert len(set(of_images)) > 1  # the answers do depend on the image
    assert len({tuple(names) for names in similar}) > 1  # and on the name
    assert answers[3] == answers[1]


def test_one_batch_with_and_without_images(family):
    _, folder, _ = family
    some = [None, *images()[1:]]
    assert load(folder, 3).similar_classes(NAMES, 3, some) == load(folder, 1).similar_classes(NAMES, 3, some)
