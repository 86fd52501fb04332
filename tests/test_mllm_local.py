"""`TransformersMLLM` on the demo's LLaVA: loading, batches that fail, images that are too large."""

import pytest
import torch
from PIL import Image
from torch import nn

from ants_lightning import demo
from ants_lightning.mllm import Question, TransformersMLLM
from ants_lightning.mllm.local import fingerprint, outside


@pytest.fixture(scope="module")
def images(small_demo):
    return [small_demo.id_set[i][0] for i in range(7)]


def ready(**settings):
    mllm = TransformersMLLM(demo.LLAVA, max_new_tokens=8, **settings)
    mllm.setup(torch.device("cpu"))
    return mllm


def test_weights_are_loaded_at_the_first_question(images):
    mllm = ready()
    assert mllm.model is None
    assert all(mllm.describe(images[:2], ["star", "ring"]))
    assert mllm.model is not None


def test_a_question_before_setup_is_an_error(images):
    with pytest.raises(RuntimeError, match="setup"):
        TransformersMLLM(demo.LLAVA).describe(images[:1], ["star"])


@pytest.mark.parametrize("settings", [{}, {"quantization": "int8"}, {"quantization": "none"}, {"offload": True}])
def test_answers_do_not_depend_on_the_batch(images, settings):
    avoid = ["star", "ring", "sailboat", "cup", "pine", "flag", "house"]
    single, batched = ready(batch_size=1, **settings), ready(batch_size=7, **settings)
    assert single.describe(images, avoid) == batched.describe(images, avoid)
    assert single.similar_classes(avoid, 3) == batched.similar_classes(avoid, 3)
    assert len(set(batched.describe(images, avoid))) > 1


def out_of_memory_above(mllm, most):
    """As a GPU does, which has no place for more than so many questions."""
    generate, sizes = mllm.model.generate, []

    def limited(**inputs):
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    mllm.model.generate = limited
    return sizes


def test_out_of_memory_halves_the_batch_and_keeps_it_so(images):
    mllm = ready(batch_size=7)
    expected = mllm.describe(images, ["star"] * 7)
    sizes = out_of_memory_above(mllm, 2)
    assert mllm.describe(images, ["star"] * 7) == expected
    assert max(sizes) == 7 and mllm.batch_size <= 2
    sizes.clear()
    assert mllm.describe(images, ["star"] * 7) == expected and max(sizes) <= 2


def test_no_memory_for_a_single_question_is_an_error(images):
    mllm = ready(batch_size=4)
    mllm.load()
    out_of_memory_above(mllm, 0)
    with pytest.raises(torch.OutOfMemoryError):
        mllm.describe(images, ["star"] * 7)


def test_one_question_that_the_processor_refuses_does_not_take_others_with_it(images, caplog):
    mllm = ready(batch_size=7)
    expected = mllm.describe(images, ["star"] * 7)
    said = mllm.describe(images, ["star"] * 3 + ["<image>"] + ["star"] * 3)
    assert said == [*expected[:3], None, *expected[4:]] and "1 of 7" in caplog.text
    with pytest.raises(ValueError, match="image"):
        mllm.describe(images[:2], ["<image>"] * 2)


def test_images_are_made_smaller_never_larger():
    mllm = TransformersMLLM(demo.LLAVA, max_image_side=100)
    sides = []
    mllm.answer = lambda questions: [sides.append(q.image.size) or "x" for q in questions]
    wide, small = Image.new("RGB", (400, 200)), Image.new("RGB", (30, 90))
    mllm.describe([wide, small], ["a", "b"])
    assert sides == [(100, 50), (30, 90)] and wide.size == (400, 200)


def test_prompts_are_filled_in():
    mllm = TransformersMLLM(
        demo.LLAVA, describe_prompt="Not {name}!", similar_prompt="{count} like {name}", similar_image_prompt="{name}? {count}"
    )
    asked = []
    mllm.answer = lambda questions: [asked.append(q) or "x" for q in questions]
    image = Image.new("RGB", (8, 8))
    mllm.describe([image], ["{fox}"])
    mllm.similar_classes(["fox", "cat"], 4, [None, image])
    assert asked == [Question("Not {fox}!", image), Question("4 like fox"), Question("cat? 4", image)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "int4"}, "int4"), ({"compute_dtype": "float8"}, "float8"), ({"batch_size": 0}, "0"),
        ({"max_new_tokens": 0}, "0"), ({"max_image_side": -1}, "-1"), ({"describe_prompt": "What is {this}?"}, "this"),
    ],
)  # fmt: skip
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TransformersMLLM(demo.LLAVA, **settings)


def test_a_missing_folder_is_an_error_at_setup(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        TransformersMLLM(str(tmp_path / "nowhere")).setup(torch.device("cpu"))


def test_identity_tells_models_and_settings_apart_but_no_paths(tmp_path):
    one, other = ready(), ready(quantization="none")
    assert one.identity() == ready().identity() != other.identity()
    assert one.identity()["model"] == "llava" and "/" not in str(one.identity()["model"])
    for name, content in (("a", b"x" * 3000), ("b", b"x" * 2999 + b"y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    assert fingerprint(tmp_path / "a", 1000) != fingerprint(tmp_path / "b", 1000)


def test_outside_is_the_siblings_on_the_way_down():
    model = nn.ModuleDict({"head": nn.Linear(1, 1), "model": nn.ModuleDict({"eyes": nn.Linear(1, 1), "text": nn.Linear(1, 1)})})
    assert outside(model, model["model"]["text"]) == ["head", "model.eyes"]
