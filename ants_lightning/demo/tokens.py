"""The word-level tokenizer that both miniature models share."""

from __future__ import annotations

import re

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ants_lightning.demo.world import ADJECTIVES, NOUNS

_GRAMMAR = (
    "a an the nice this is photo image of on in with and no not user assistant main few words word use do"
)


def build_tokenizer(prompts: list[str], context: int, padding_side: str) -> PreTrainedTokenizerFast:
    """A tokenizer of the world's vocabulary, the grammar and the words of `prompts`; the rest is `<unk>`."""
    text = " ".join([*NOUNS, *ADJECTIVES, _GRAMMAR, *prompts]).lower()
    words = list(dict.fromkeys(re.findall(r"\w+|[^\w\s]", text)))
    special = ["<pad>", "<unk>", "</s>", "<image>"]
    vocabulary = {
        word: i for i, word in enumerate([*special, *words, *(c for c in ".,:;-?!" if c not in words)])
    }
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.decoder = decoders.Fuse()
    core.decoder = decoders.Sequence(
        [decoders.Replace("##", ""), decoders.WordPiece(prefix="##", cleanup=True)]
    )
    if padding_side == "right":  # CLIP pools at the end token; the LLaVA's prompts stay open
        core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side=padding_side,
        model_max_length=context,
    )
