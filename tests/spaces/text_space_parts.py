"""A tokenizer of letters."""

import torch
import torch.nn.functional as F

LETTERS = " abcdefghijklmnopqrstuvwxyz0123456789"


END = len(LETTERS) + 1  # the highest token: CLIP pools there


def tokenizer(texts):
    """A token a letter (other characters are spaces), 0 as padding."""
    rows = [[*(max(LETTERS.find(letter), 0) + 1 for letter in text[:11]), END] for text in texts]
    return torch.tensor([row + [0] * (12 - len(row)) for row in rows])


def counting(batches):
    """The tokenizer; it notes the texts of each call, so of each forward."""

    def tokenize(texts):
        batches.append(list(texts))
        return tokenizer(texts)

    return tokenize


def alone(clip, texts):
    with torch.no_grad():
        return torch.cat([F.normalize(clip.encode_text(tokenizer([text])), dim=1) for text in texts])
