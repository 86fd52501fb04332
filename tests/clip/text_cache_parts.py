"""Encoders with a cache."""

import open_clip

from ants_lightning import demo
from ants_lightning.clip.encoder import TextEncoder

TEXTS = [f"The nice thing {i}." for i in range(100)]


TOKENIZER = open_clip.get_tokenizer(demo.CLIP)


def encoder_of(clip, folder, **settings):
    return TextEncoder(clip, TOKENIZER, cache_dir=folder, **settings)


def shards(folder):
    return sorted(folder.glob("*/*.safetensors"))
