"""`TransformersMLLM` on the demo's LLaVA: loading, batches that fail, images that are too large."""

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ants_lightning import demo
from ants_lightning.mllm import TransformersMLLM
from ants_lightning.mllm.loading import fingerprint, outside


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


@pytest.mark.parametrize(
    "settings", [{}, {"quantization": "int8"}, {"quantization": "none"}, {"offload": True}]
)
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
    assert said == [*expected[:3], None, *expected[4:]] and "1 of 7 questions: ValueError: " in caplog.text
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
        demo.LLAVA,
        describe_prompt="Not {name}!",
        similar_prompt="{count} like {name}",
        similar_image_prompt="{name}? {count}",
    )
    asked = []
    mllm.answer = lambda questions: [asked.append(q) or "x" for q in questions]
    image = Image.new("RGB", (8, 8))
    mllm.describe([image], ["{fox}"])
    mllm.similar_classes(["fox", "cat"], 4, [None, image])
    assert [(q.text, q.image) for q in asked] == [
        ("Not {fox}!", image),
        ("4 like fox", None),
        ("cat? 4", image),
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "int4"}, "int4"),
        ({"compute_dtype": "float8"}, "float8"),
        ({"batch_size": 0}, "0"),
        ({"batch_size": 2.5}, "2.5"),
        ({"offload": "no"}, "no"),
        ({"max_new_tokens": 0}, "0"),
        ({"max_image_side": -1}, "-1"),
        ({"describe_prompt": "What is {this}?"}, "this"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TransformersMLLM(demo.LLAVA, **settings)


def test_a_missing_folder_is_an_error_at_setup(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        TransformersMLLM(str(tmp_path / "nowhere")).setup(torch.device("cpu"))


@pytest.mark.parametrize("model", ["./nowhere", Path("nowhere"), Path("some/model"), "~/nowhere"])
def test_what_is_no_folder_is_an_error_at_setup(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"nowhere|some/model"):
        TransformersMLLM(model).setup(torch.device("cpu"))


@pytest.mark.parametrize("model", ["", None, 3])
def test_a_model_without_a_name_is_an_error(model):
    with pytest.raises(ValueError, match="hub name or a folder"):
        TransformersMLLM(model)


def test_folders_of_any_form_are_one_model(tmp_path, monkeypatch):
    """A string, a `Path`, relative, with `~`: the same folder, the same identity, the same answers."""
    folder = shutil.copytree(demo.LLAVA, tmp_path / "models" / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = []
    for model in (
        str(folder),
        folder,
        "models/mine",
        Path("models/mine"),
        "./models/mine",
        "~/models/mine",
        Path("~/models/mine"),
    ):
        mllm = TransformersMLLM(model, max_new_tokens=8)
        mllm.setup(torch.device("cpu"))
        found.append((mllm.identity(), mllm.similar_classes(["cup"])))
    assert all(one == found[0] for one in found) and found[0][0]["model"] == "mine" and found[0][1][0]


def test_numpy_sizes_are_sizes():
    mllm = TransformersMLLM(demo.LLAVA, batch_size=np.int64(4))
    assert type(mllm.batch_size) is int and mllm.at_once == 8


def changed(tmp_path, change):
    """A copy of the demo's LLaVA, changed."""
    folder = shutil.copytree(demo.LLAVA, tmp_path / "model")
    change(folder)
    return TransformersMLLM(folder)


NO_QUESTION = {
    "no template": lambda folder: (folder / "chat_template.jinja").unlink(),
    "a template that is none": lambda folder: (folder / "chat_template.jinja").write_text(
        "{% for message in"
    ),
    "a template that refuses": lambda folder: (folder / "chat_template.jinja").write_text(
        "{{ raise_exception('one turn') }}"
    ),
    "a template of texts": lambda folder: (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    ),
    "a template without the image": lambda folder: (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
    ),
}


@pytest.mark.parametrize("change", NO_QUESTION)
def test_a_processor_that_can_make_no_question_is_an_error_at_setup(tmp_path, change):
    with pytest.raises(
        ValueError, match=r"model: its (processor|chat template) .*(chat_template.jinja|leaves the image out)"
    ):
        changed(tmp_path, NO_QUESTION[change]).setup(torch.device("cpu"))


def test_a_model_that_does_not_see_is_an_error_at_setup(tmp_path):
    def blind(folder):
        for name in ("processor_config.json", "preprocessor_config.json"):
            (folder / name).unlink(missing_ok=True)

    with pytest.raises((OSError, ValueError), match="processor"):
        changed(tmp_path, blind).setup(torch.device("cpu"))


class Terminated(SystemExit):
    """As the handler of a signal may raise."""


@pytest.mark.parametrize("settings", [{}, {"offload": True}, {"compute_dtype": "bfloat16"}])
@pytest.mark.parametrize("at", ["vision_tower", "lm_head", "load"])
def test_a_signal_while_it_answers_goes_through_and_leaves_it_usable(images, settings, at, monkeypatch):
    """SIGTERM in the middle of a batch or of loading: no question takes it for a failure of its own."""
    avoid = ["star"] * 7
    expected = ready(**settings).describe(images, avoid)

    raised = []

    def terminate(*_):
        raised.append(at)
        raise Terminated(143)

    before = signal.signal(signal.SIGTERM, terminate)
    mllm = ready(batch_size=4, **settings)
    try:
        if at == "load":
            monkeypatch.setattr(
                "ants_lightning.mllm.loading.check_layers",
                lambda *_: os.kill(os.getpid(), signal.SIGTERM),
            )
        else:
            mllm.load()
            module = next(module for name, module in mllm.model.named_modules() if name.endswith(at))
            module.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Terminated):
            mllm.describe(images, avoid)
        assert raised == [at]  # and nothing was tried again
    finally:
        signal.signal(signal.SIGTERM, before)
    if at == "load":
        monkeypatch.undo()
    else:
        module._forward_pre_hooks.clear()
    assert mllm.describe(images, avoid) == expected


def test_identity_tells_models_and_settings_apart_but_no_paths(tmp_path):
    one, other = ready(), ready(quantization="none")
    assert one.identity() == ready().identity() != other.identity()
    assert one.identity()["model"] == "llava" and "/" not in str(one.identity()["model"])
    for name, content in (("a", b"x" * 3000), ("b", b"x" * 2999 + b"y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
    assert fingerprint(tmp_path / "a", 1000) != fingerprint(tmp_path / "b", 1000)


def test_outside_is_the_siblings_on_the_way_down():
    model = nn.ModuleDict(
        {"head": nn.Linear(1, 1), "model": nn.ModuleDict({"eyes": nn.Linear(1, 1), "text": nn.Linear(1, 1)})}
    )
    assert outside(model, model["model"]["text"]) == ["head", "model.eyes"]
