"""Quantised layers: the choice of path by shape, both paths against the dequantised product, and faults
that loading finds.
"""

import bitsandbytes
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, has_avx512bf16
from torch import nn

from ants_lightning import demo
from ants_lightning.mllm import TransformersMLLM
from ants_lightning.mllm.quantised import check_layers, choose_paths, fits_fast_path, processor_name

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
SHAPES = [(32, 64), (128, 352), (352, 128), (48, 64), (96, 96), (160, 448), (576, 64)]  # (out, in)
needs_instructions = pytest.mark.skipif(not has_avx512bf16(), reason="this CPU has no AVX512-BF16")


def four_bit(out, inner, dtype, bias=False):
    """A layer with random weights in NF4, double quantised as those of a model."""
    layer = bitsandbytes.nn.Linear4bit(inner, out, bias=bias, compute_dtype=dtype, quant_type="nf4")
    plain = nn.Linear(inner, out, bias=bias)
    with torch.no_grad():
        plain.weight.normal_(generator=torch.Generator().manual_seed(out * inner))
    layer.load_state_dict(plain.to(dtype).state_dict())
    return layer.to("cpu").to(dtype).eval()


def dequantised(layer):
    return dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()


def difference(layer, weight, dtype, rows):
    """Relative, between a layer and the product with the given weight."""
    x = torch.randn(2, rows, layer.in_features, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted = x.float() @ weight.T + (layer.bias.float() if layer.bias is not None else 0)
    with torch.no_grad():
        return ((layer(x).float() - wanted).norm() / wanted.norm()).item()


def loaded(dtype="float32", **settings):
    mllm = TransformersMLLM(demo.LLAVA, max_new_tokens=8, compute_dtype=dtype, **settings)
    mllm.setup(torch.device("cpu"))
    mllm.load()
    return mllm


@pytest.mark.parametrize(
    ("out", "inner", "block", "dtype", "fits"),
    [
        (4096, 4096, 64, BF16, True),
        (11008, 4096, 64, BF16, True),
        (2560, 9728, 64, BF16, True),
        (960, 576, 64, BF16, True),
        (32, 64, 64, BF16, True),
        (352, 128, 64, BF16, True),
        (128, 352, 64, BF16, False),
        (48, 64, 64, BF16, False),
        (4096, 4096, 64, FP32, False),
        (4096, 4096, 64, FP16, False),
        (64, 64, 128, BF16, False),
    ],
)
def test_the_choice_by_shape_and_dtype(out, inner, block, dtype, fits):
    assert fits_fast_path(out, inner, block, dtype) is fits


@pytest.mark.parametrize("dtype", [FP32, FP16, BF16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_layer_computes_its_dequantised_product(shape, bias, dtype):
    """On a CPU with the instructions those that fit do it in the packed form."""
    layer = four_bit(*shape, dtype, bias)
    weight = dequantised(layer)
    fast, plain = choose_paths(layer)
    assert (fast, plain) == ((1, 0) if has_avx512bf16() and fits_fast_path(*shape, 64, dtype) else (0, 1))
    for rows in (1, 5, 50):
        assert difference(layer, weight, dtype, rows) < {FP32: 1e-5, FP16: 3e-3, BF16: 8e-3}[dtype]
    assert getattr(layer.weight.quant_state, "packing_format_for_cpu", False) is bool(fast)


@needs_instructions
def test_bitsandbytes_alone_fails_or_rounds_at_what_takes_the_plain_path_here():
    """Why there is a choice; once this fails, bitsandbytes has changed, and the choice may be looked at
    again.
    """
    for shape in SHAPES:
        layer = four_bit(*shape, FP32)
        weight = dequantised(layer)
        if fits_fast_path(*shape, 64, BF16):
            assert difference(layer, weight, FP32, 5) > 1e-3
        else:
            with pytest.raises((RuntimeError, AssertionError)):
                difference(layer, weight, FP32, 5)


def test_a_bitsandbytes_without_a_fast_path_has_the_plain_one():
    layer = four_bit(64, 64, BF16)
    del layer.support_avx512bf16_for_cpu
    assert choose_paths(layer) == (0, 1) and not hasattr(layer, "support_avx512bf16_for_cpu")


def test_float32_answers_are_the_same_whatever_the_cpu_has(small_demo, monkeypatch, caplog):
    images = [small_demo.id_set[i][0] for i in range(6)]
    said = []
    for instructions in (True, False):
        monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda answer=instructions: answer)
        with caplog.at_level("INFO", "ants_lightning"):
            mllm = loaded()
        said.append((mllm.describe(images, ["star"] * 6), mllm.similar_classes(["star", "cup"])))
        assert "0 take the AVX512-BF16 path, 21 the plain one" in caplog.text
        caplog.clear()
    assert said[0] == said[1] and len(set(said[0][0])) > 1


@needs_instructions
def test_bfloat16_packs_the_layers_that_fit_before_the_first_question(small_demo, caplog):
    with caplog.at_level("INFO", "ants_lightning"):
        model = loaded("bfloat16").model
    assert "18 take the AVX512-BF16 path, 3 the plain one" in caplog.text
    for name, layer in model.named_modules():
        if type(layer).__name__ == "Linear4bit":
            packed = getattr(layer.weight.quant_state, "packing_format_for_cpu", False)
            assert packed is not name.endswith("down_proj"), name  # 352 inputs


@pytest.mark.parametrize("settings", [{}, {"offload": True}])
def test_bfloat16_answers(small_demo, settings):
    images = [small_demo.id_set[i][0] for i in range(6)]
    mllm = loaded("bfloat16", **settings)
    first = mllm.describe(images, ["star"] * 6)
    assert mllm.describe(images, ["star"] * 6) == first and all(first) and len(set(first)) > 1


@pytest.mark.parametrize(("quantization", "kinds"), [("nf4", 3), ("int8", 3), ("none", 0)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_one_layer_of_each_kind_is_tried(quantization, kinds, dtype, monkeypatch):
    tried = []
    monkeypatch.setattr(
        "ants_lightning.mllm.quantised._check", lambda path, layer, dtype: tried.append((path, dtype))
    )
    mllm = loaded(dtype, quantization=quantization)
    assert len(tried) == kinds and {d for _, d in tried} <= {getattr(torch, dtype)}
    monkeypatch.undo()
    assert check_layers(mllm.model, mllm.dtype) == kinds


def test_trying_leaves_the_weights_as_they_are(small_demo, monkeypatch):
    images = [small_demo.id_set[i][0] for i in range(4)]
    for settings in (
        {"dtype": "float32"},
        {"dtype": "bfloat16"},
        {"dtype": "float32", "quantization": "int8"},
    ):
        tried = loaded(**settings).describe(images, ["star"] * 4)
        with monkeypatch.context() as patch:
            patch.setattr("ants_lightning.mllm.loading.check_layers", lambda model, dtype: 0)
            assert loaded(**settings).describe(images, ["star"] * 4) == tried


def test_trying_leaves_random_numbers_alone():
    layer = four_bit(48, 64, FP32)
    choose_paths(layer)
    state = torch.get_rng_state()
    assert check_layers(layer, FP32) == 1
    assert torch.equal(torch.get_rng_state(), state)


FAULTS = {
    "another sign": lambda forward, x: -forward(x),
    "a row too far": lambda forward, x: forward(x).roll(1, -1),
    "not a number": lambda forward, x: forward(x) * torch.nan,
    "in bfloat16": lambda forward, x: forward(x.bfloat16().float()).bfloat16().float(),
    "only for a prompt": lambda forward, x: forward(x) * (1 if x.shape[1] == 1 else 1.1),
    "only for a token": lambda forward, x: forward(x) * (1.1 if x.shape[1] == 1 else 1),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_layer_that_computes_something_else_is_an_error(fault):
    model = nn.ModuleDict({"good": four_bit(64, 64, FP32), "layers": nn.ModuleList([four_bit(96, 64, FP32)])})
    choose_paths(model)
    assert check_layers(model, FP32) == 2
    forward = model["layers"][0].forward
    model["layers"][0].forward = lambda x: FAULTS[fault](forward, x)
    with pytest.raises(RuntimeError, match="does not compute what its weights say") as caught:
        check_layers(model, FP32)
    for part in (
        "layers.0",
        "Linear4bit",
        "64 to 96",
        "float32",
        bitsandbytes.__version__,
        torch.__version__,
        processor_name(),
    ):
        assert part in str(caught.value)


def test_a_layer_that_fails_is_an_error_with_its_cause():
    layer = four_bit(128, 352, FP32)

    def fail(x):
        raise RuntimeError("shape '[128, 5]' is invalid for input of size 704")

    layer.forward = fail
    with pytest.raises(
        RuntimeError, match=r"layer mlp.down .*352 to 128.* fails: shape '\[128, 5\]' is invalid"
    ):
        check_layers(nn.ModuleDict({"mlp": nn.ModuleDict({"down": layer})}), FP32)


def test_loading_tells_of_such_a_layer_and_tries_again_the_next_time(monkeypatch):
    forward = bitsandbytes.nn.Linear8bitLt.forward
    monkeypatch.setattr(bitsandbytes.nn.Linear8bitLt, "forward", lambda self, x: 2 * forward(self, x))
    mllm = TransformersMLLM(demo.LLAVA, quantization="int8")
    mllm.setup(torch.device("cpu"))
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"q_proj .*Linear8bitLt"):
            mllm.similar_classes(["star"])
    monkeypatch.undo()
    assert mllm.similar_classes(["star"])[0]


def test_int8_says_once_that_it_casts(caplog, monkeypatch):
    monkeypatch.setattr("ants_lightning.mllm.quantised.first_only.seen", set())
    assert loaded(quantization="int8").similar_classes(["star", "cup"])[0]
    assert caplog.text.count("inputs will be cast from torch.float32") == 1


def test_weights_of_zeros_are_fine():
    layer = four_bit(64, 64, FP32)
    with torch.no_grad():
        layer.weight.quant_state.absmax.zero_()
        layer.weight.quant_state.state2.absmax.zero_()
        layer.weight.quant_state.offset.zero_()
    choose_paths(layer)
    assert check_layers(layer, FP32) == 1 and not dequantised(layer).any()
