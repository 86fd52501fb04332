"""The real architectures (CLIP ViT-B/16, LLaVA-1.5 in NF4) with random weights on photographs."""

import json
import math

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from real_parts import PACK
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.utils.data import Dataset
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from ants_lightning import ANTS, NegativeMemory, Report
from ants_lightning.data import OODDataModule
from ants_lightning.mllm import DESCRIBE_PROMPT, SIMILAR_PROMPT, TransformersMLLM

SIZE, PATCH = 336, 14


NOUNS = ["anchor", "lamp", "meadow", "violin", "cloud", "engine", "carpet", "bridge", "ladder", "window"]


ADJECTIVES = ["striped", "dotted", "shiny", "wooden", "foggy", "green"]


# That of LLaVA-1.5: "USER: <image>\n… ASSISTANT:".
CHAT = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% "
    "endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}{% "
    "endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


class Photographs(Dataset):
    """`(PIL image, label)` of image files."""

    def __init__(self, paths, labels=None):
        self.paths, self.labels = paths, labels or [0] * len(paths)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return Image.open(PACK / self.paths[index]).convert("RGB"), self.labels[index]


class Watch(L.Callback):
    """Keeps what each batch gave."""

    def __init__(self):
        self.outputs = []

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self.outputs.append(outputs)


def make_tokenizer():
    """Whole words, a start token as Llama's, and `<image>`."""
    words = " ".join([*NOUNS, *ADJECTIVES, DESCRIBE_PROMPT, SIMILAR_PROMPT, "user assistant"]).lower()
    words = [word for word in dict.fromkeys(words.replace(".", " ").split()) if word.isalpha()]
    special = ["<pad>", "<unk>", "<s>", "</s>", "<image>", ":", "."]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *words])}, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=1024,
    ), len(special)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """Folder of a narrow LLaVA-1.5 with random weights, and its true image size, patches, tokens and chat
    template.
    """
    tokenizer, special = make_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=64,
        initializer_range=0.5,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        initializer_range=0.5,
    )
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=4,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            image_seq_length=(SIZE // PATCH) ** 2,
        )
    )
    first, end = special, special + len(NOUNS) + len(ADJECTIVES)
    others = [*range(first), *range(end, len(tokenizer))]
    model.generation_config.suppress_tokens = (
        others  # random weights that always answer in words, none of them a prompt's
    )
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    )
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=PATCH,
        chat_template=CHAT,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    folder = str(tmp_path_factory.mktemp("llava"))
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def names_and_sets():
    """Class names, and six photographs each of ID, of a near and of a far set."""
    lists = PACK / "benchmark_imglist" / "imagenet"
    read = {
        name: (lists / f"test_{name}.txt").read_text("utf-8").split("\n")
        for name in ("imagenet", "near_animals", "textures")
    }
    rows = {name: [line.rsplit(" ", 1) for line in lines if line][::61][:6] for name, lines in read.items()}
    synsets = (lists / "synset_words.txt").read_text("utf-8").splitlines()
    names = [synsets[int(label)].split(" ", 1)[1].split(",")[0] for _, label in rows["imagenet"]]
    paths = {name: [path for path, _ in some] for name, some in rows.items()}
    return (
        names,
        Photographs(paths.pop("imagenet"), list(range(6))),
        {k: Photographs(v) for k, v in paths.items()},
    )


on_cuda = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
)


@pytest.mark.skipif(not PACK.is_dir(), reason=f"no photographs at {PACK}")
@pytest.mark.parametrize("device", ["cpu", on_cuda])
def test_vit_b16_and_llava_on_photographs(llava, tmp_path, caplog, device):
    names, known, unknown = names_and_sets()
    torch.manual_seed(0)
    model = ANTS(
        "ViT-B-16-quickgelu",
        pretrained=None,
        class_names=names,
        negatives={"nouns": NOUNS, "adjectives": ADJECTIVES, "keep": 0.9},
        num_groups=3,
        text_batch_size=64,
    )
    mllm, watch = TransformersMLLM(llava, batch_size=4, max_new_tokens=4), Watch()
    memory = NegativeMemory(
        mllm, ens={"init": "empty"}, vsnl={"delta": 0.3}, schedule={"every": 1, "min_images": 4}
    )
    data = OODDataModule(
        known,
        near={"animals": unknown["near_animals"]},
        far={"textures": unknown["textures"]},
        batch_size=4,
        num_workers=0,
        class_names=names,
    )
    trainer = L.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[memory, watch, Report()],
    )
    trainer.test(model, data, verbose=False)

    assert mllm.model.device.type == device
    assert not [
        r.getMessage() for r in caplog.records if r.name.startswith("ants") and " failed (" in r.getMessage()
    ]
    assert sum(len(out["label"]) for out in watch.outputs) == 24
    for out in watch.outputs:
        for name, score in out["scores"].items():
            assert score.isfinite().all() and score.min() >= 0 and score.max() <= 1, name
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert {"ants_lightning", "torch"} <= set(results["versions"])
    assert results["seed"] == 0
    assert {name: stream["group"] for name, stream in results["streams"].items()} == {
        "animals": "near",
        "textures": "far",
    }
    for stream in results["streams"].values():
        check_stream(stream)
    for group, stream in (("near", "animals"), ("far", "textures")):
        assert results["groups"][group] == results["streams"][stream]["scores"]


def check_stream(stream):
    """The contract of results.json, and that both questions were asked and answered."""
    counts = {"n_id", "n_ood", "n_negative_images", "n_ens", "n_vsnl", "mllm_calls", "mllm_failures"}
    floats = {"id_accuracy", "lambda", "lambda_paper", "lambda_prequential", "gamma", "mllm_seconds"}
    assert counts | floats | {"group", "scores"} <= set(stream)
    assert all(isinstance(stream[key], int) for key in counts)
    assert all(math.isfinite(stream[key]) for key in floats)
    assert (stream["n_id"], stream["n_ood"]) == (6, 6)
    # Each of these images, and ⌈0.3 · 6⌉ classes.
    assert stream["mllm_calls"] + stream["mllm_recalled"] >= stream["n_negative_images"] + 2 > 2
    assert stream["mllm_failures"] == 0
    assert stream["n_ens"] > 0
    assert stream["n_vsnl"] > 0
    assert 0 < stream["lambda"] < 1
    assert set(stream["scores"]) == {"mcm", "neglabel", "ens", "vsnl", "ants"}
    for metrics in stream["scores"].values():
        assert set(metrics) == {"auroc", "fpr95", "fpr95_openood", "aupr_in", "aupr_out"}
        assert all(0 <= value <= 1 for value in metrics.values())


def test_batched_answers_equal_single_ones_in_four_bits(llava):
    noise = np.random.default_rng(0)
    sizes = [(336, 336), (500, 375), (120, 300), (64, 64), (337, 900), (227, 227)]
    images = [Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in sizes]
    avoid = [
        "anchor",
        "shiny green lamp",
        "cloud",
        "wooden bridge",
        "violin",
        "foggy meadow in the main window",
    ]
    answers = {}
    for batch_size in (1, 4):
        mllm = TransformersMLLM(llava, batch_size=batch_size, max_new_tokens=8)
        mllm.setup(torch.device("cpu"))
        answers[batch_size] = mllm.describe(images, avoid), mllm.similar_classes(avoid)
    assert answers[1] == answers[4]
    assert all(answers[1][0])
    assert len(set(answers[1][0])) > 1  # the answers do depend on the question


def test_language_model_alone_is_in_four_bits(llava):
    mllm = TransformersMLLM(llava)
    mllm.setup(torch.device("cpu"))
    mllm.load()
    kinds = {
        name: type(m).__name__ for name, m in mllm.model.named_modules() if isinstance(m, torch.nn.Linear)
    }
    inner = {name for name in kinds if name.startswith("model.language_model.")}
    assert len(inner) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert {kinds[name] for name in inner} == {"Linear4bit"}
    outer = set(kinds) - inner
    assert {kinds[name] for name in outer} == {"Linear"}
    assert "lm_head" in outer
    assert any(name.startswith("model.vision_tower.") for name in outer)
    assert any(name.startswith("model.multi_modal_projector.") for name in outer)
    assert {p.quant_type for p in mllm.model.parameters() if hasattr(p, "quant_type")} == {"nf4"}
