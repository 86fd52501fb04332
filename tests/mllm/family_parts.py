"""What the miniatures of the multimodal families share: tokenizer, templates, narrow settings."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    PreTrainedTokenizerFast,
)

from ants_lightning.mllm import DESCRIBE_PROMPT, SIMILAR_PROMPT

SIDE, PATCH = 56, 14  # an image, or one tile of it, is 4 × 4 patches


STD = 0.5  # of the weights: answers that depend on the question


NAMES = ["lamp", "green striped lamp", "foggy meadow in the main window"]


WORDS = (
    "anchor lamp meadow violin cloud engine carpet bridge ladder window striped dotted shiny wooden foggy "
    "green user assistant model system"
)


LLAMA = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}


QWEN = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}


def tokenizer(special, named=(), **roles):
    """Whole words after the special tokens; a token `named` is an attribute, such as `image_token`."""
    special = list(dict.fromkeys(["<unk>", *special, ":", "."]))
    words = f"{WORDS} {' '.join(NAMES)} {DESCRIBE_PROMPT} {SIMILAR_PROMPT}".lower().replace(".", " ").split()
    words = [word for word in dict.fromkeys(words) if word.isalpha()]
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*special, *words])}, unk_token="<unk>")
    )
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(special[:-2])
    if start := roles.get("bos_token"):
        start = (start, special.index(start))
        core.post_processor = processors.TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        extra_special_tokens=dict(named),
        model_max_length=2048,
        **roles,
    )


def template(turn, image, end, answer, start=""):
    """A chat template: each user turn is `turn`, its parts in order, `end`; then `answer`."""
    return (
        f"{start}{{% for message in messages %}}{turn}{{% for part in message['content'] %}}{{% if "
        f"part['type'] == 'image' %}}{image}{{% elif part['type'] == 'text' %}}{{{{ part['text'] }}}}{{% "
        f"endif %}}{{% endfor %}}{end}{{% endfor %}}{{% if add_generation_prompt %}}{answer}{{% endif %}}"
    )


def chatml(image, system="", start="<|im_start|>user\n"):
    """That of the Qwen language models."""
    return template(start, image, "<|im_end|>\n", "<|im_start|>assistant\n", system)


def text(words, **more):
    """Settings that the narrow language models share."""
    return {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "initializer_range": STD,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        **more,
    }


def vision(**more):
    """Settings that the narrow vision towers share."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": STD,
        **more,
    }
