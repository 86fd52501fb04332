"""Text spaces: labels with their features, in groups; and the encoder that makes features of texts."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.text_cache import pack_features, read_features
from ants_lightning.clip.word_files import as_lines, read_lines
from ants_lightning.common.exact import ExactBuffers
from ants_lightning.common.files import write_atomically
from ants_lightning.common.settings import plain_path
from ants_lightning.method.checks import check_features
from ants_lightning.method.scores import group_order

log = logging.getLogger(__name__)

_MANY = 10  # batches that are worth a progress bar


def read_labels(folder: Path | str, name: str) -> list[str]:
    """The texts of a label bank, the lines of `<name>.txt` in their order; blank lines and repeated ones are dropped.

    Control characters are taken out, with a warning. ValueError for no such file, one that is no text, or holds none.
    """
    path = Path(plain_path(folder)) / f"{name}.txt"
    if not path.is_file():
        raise ValueError(f"no such label bank: {str(path)!r}")
    labels = list(dict.fromkeys(filter(None, read_lines(path, "label bank", clean=True))))
    if not labels:
        raise ValueError(f"{path} holds no text")
    return labels


class TextSpace(ExactBuffers):
    """A negative space: texts, oldest first, with features `(n, d)`.

    Args:
        dim, num_groups: d of the features, G of the score.
        capacity: how many texts it holds; of more the **newest** stay.
    """

    features: Tensor

    def __init__(self, dim: int, num_groups: int = 1, capacity: int | None = None) -> None:
        super().__init__()
        if capacity is not None and capacity < 1:
            raise ValueError(f"the capacity of a text space must be at least 1, got {capacity}")
        self.num_groups, self.capacity = num_groups, capacity
        self.labels: list[str] = []
        self.register_buffer("features", torch.empty(0, dim), persistent=False)

    def __len__(self) -> int:
        return len(self.labels)

    def push(self, labels: Sequence[str], features: Tensor) -> int:
        """Append n texts with features `(n, d)`, FIFO; one already there becomes the newest. Returns how many were new."""
        if len(labels) != len(features):
            raise ValueError(f"{len(labels)} texts with {len(features)} features")
        known, texts = set(self.labels), [*self.labels, *labels]
        newest = {text: place for place, text in enumerate(texts)}
        keep = sorted(newest.values())[-(self.capacity or len(texts)) :]
        # Replaced, never edited in place: under `trainer.test` these are inference tensors.
        self.features = torch.cat([self.features, features.to(self.features)])[keep]
        self.labels = [texts[place] for place in keep]
        return len(set(labels) - known)

    def replace(self, labels: Sequence[str], features: Tensor) -> None:
        """Put these texts in place of all others."""
        self.clear()
        self.push(labels, features)

    def clear(self) -> None:
        """Drop all texts."""
        self.labels, self.features = [], self.features[:0]

    def grouped(self) -> Tensor:
        """Features `(n, d)` in the order of the groups (`scoring.group_order`)."""
        return self.features[group_order(len(self), self.num_groups).to(self.features.device)]

    def bank(self, name: str, encoder: TextEncoder) -> dict[str, bytes]:
        """The two files of a label bank by name (see `save`), none where there are no lines."""
        lines = as_lines(self.labels)
        if other := [text for place, text in enumerate(self.labels) if lines.get(text.strip()) != place]:
            log.warning("%s: %s of %s texts are no lines and saved cleaned, or not: %r", name, len(other), len(self), other[0])
        if not lines:
            return {}
        rows = self.features.float().cpu().numpy()[list(lines.values())]
        return {
            f"{name}.safetensors": pack_features(list(lines), rows, fingerprint=encoder.fingerprint),
            f"{name}.txt": "".join(f"{line}\n" for line in lines).encode(),
        }

    def save(self, folder: Path | str, name: str, encoder: TextEncoder) -> None:
        """Write a label bank: `<name>.txt`, a text a line, to be read, edited and shared, and `<name>.safetensors`, their features.

        A text that is no line (with a line break or another control character in it) is cleaned to one and keeps its features; one
        of which nothing is left, or that is then there twice, is left out; a warning tells. ValueError, and nothing written, for no
        texts.

        Args:
            folder: made where it isn't there.
            name: of both files.
            encoder: the one that made the features.
        """
        files = self.bank(name, encoder)
        if not files:
            raise ValueError(f"no texts to save as {name!r} in {str(folder)!r}")
        for file, content in files.items():
            write_atomically(Path(folder) / file, content)

    def load(self, folder: Path | str, name: str, encoder: TextEncoder) -> None:
        """Put the texts of a label bank in place of all others, those of `read_labels`.

        Features come from `<name>.safetensors` where a line is in it and the same text tower made it, and from `encoder` otherwise.
        ValueError for what `read_labels` refuses, or features that are NaN or have another d.
        """
        path = Path(plain_path(folder)) / f"{name}.txt"
        labels = read_labels(folder, name)
        known = self._features_of_bank(path.with_suffix(".safetensors"), encoder)
        if new := [text for text in labels if text not in known]:
            log.info("%s: %s of %s texts have no features and are encoded", path, len(new), len(labels))
            encoded = encoder(new).cpu()
            check_features("text features of the encoder", encoded, self.features.shape[1])
            known.update(zip(new, encoded, strict=True))
        self.replace(labels, torch.stack([known[text] for text in labels]))

    def _features_of_bank(self, path: Path, encoder: TextEncoder) -> dict[str, Tensor]:
        if not path.is_file():
            return {}
        try:
            texts, rows, metadata = read_features(path)
        except ValueError as error:
            log.warning("label bank: %s", error)
            return {}
        if metadata.get("fingerprint") != encoder.fingerprint:
            log.warning("label bank: the features of %s are of another model; the texts are encoded anew", path)
            return {}
        features = torch.from_numpy(rows)
        check_features(f"features of {path}", features, self.features.shape[1])
        return {text.strip(): row for text, row in zip(texts, features, strict=True)}
