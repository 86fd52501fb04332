"""`TextSpace`: texts with their features, in groups; and label banks, the files that keep them."""

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
from ants_lightning.common.settings import check_counts, plain_path
from ants_lightning.method.checks import check_features
from ants_lightning.method.scores import group_order

log = logging.getLogger(__name__)


def read_labels(folder: Path | str, name: str) -> list[str]:
    """The texts of a label bank: the lines of `<name>.txt` in order, without blank and repeated ones.

    Control characters are removed, with a warning. ValueError for a file that is missing, is no text or has
    no line.
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
        dim: d of the features.
        num_groups: G of the score.
        capacity: how many texts it holds at most, the **newest**; None: any number.
    """

    features: Tensor

    def __init__(self, dim: int, num_groups: int = 1, capacity: int | None = None) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.limit(capacity)
        self.labels: list[str] = []
        self.version = 0  # number of changes of the texts
        self.register_buffer("features", torch.empty(0, dim), persistent=False)

    def __len__(self) -> int:
        return len(self.labels)

    def push(self, labels: Sequence[str], features: Tensor) -> int:
        """Append texts; the oldest leave a full space, and a text that is already there becomes the newest.

        Args:
            labels: n texts.
            features: `(n, d)`, L2-normalised.

        Returns:
            How many of the texts were not there before.
        """
        if len(labels) != len(features):
            raise ValueError(f"{len(labels)} texts with {len(features)} features")
        known, texts = set(self.labels), [*self.labels, *labels]
        last_place = {text: place for place, text in enumerate(texts)}
        keep = sorted(last_place.values())[-(self.capacity or len(texts)) :]
        # Replaced, never edited in place: under `trainer.test` these are inference tensors.
        self.features = torch.cat([self.features, features.to(self.features)])[keep]
        self.labels = [texts[place] for place in keep]
        self.version += 1
        return len(set(labels) - known)

    def replace(self, labels: Sequence[str], features: Tensor) -> None:
        """Replace all texts by these, with features `(n, d)`."""
        self.clear()
        self.push(labels, features)

    def clear(self) -> None:
        """Drop all texts."""
        self.labels, self.features = [], self.features[:0]
        self.version += 1

    def limit(self, capacity: int | None) -> None:
        """Hold at most so many texts from the next `push` on; None: any number."""
        if capacity is not None:
            check_counts(**{"the capacity of a text space": capacity})
        self.capacity = capacity

    def grouped(self) -> Tensor:
        """Features `(n, d)` in the order of the groups (`method.scores.group_order`)."""
        return self.features[group_order(len(self), self.num_groups).to(self.features.device)]

    def bank(self, name: str, encoder: TextEncoder) -> dict[str, bytes]:
        """The two files of a label bank (see `save`), content by file name; {} where no text gives a line."""
        lines = as_lines(self.labels)
        if other := [text for place, text in enumerate(self.labels) if lines.get(text.strip()) != place]:
            found = f"{len(other)} of {len(self)} texts"
            log.warning("%s: %s are no lines and saved cleaned, or not: %r", name, found, other[0])
        if not lines:
            return {}
        features = self.features.float().cpu().numpy()[list(lines.values())]  # (lines, d)
        return {
            f"{name}.safetensors": pack_features(list(lines), features, fingerprint=encoder.fingerprint),
            f"{name}.txt": "".join(f"{line}\n" for line in lines).encode(),
        }

    def save(self, folder: Path | str, name: str, encoder: TextEncoder) -> None:
        """Write a label bank: `<name>.txt`, one text a line, and `<name>.safetensors`, their features.

        A text with line breaks or other control characters is cleaned and keeps its features; if nothing is
        left of it, or the same line is already there, it is left out; either is a warning. ValueError for no
        texts, before anything is written.

        Args:
            folder: made where missing.
            name: of both files.
            encoder: the one that made the features.
        """
        files = self.bank(name, encoder)
        if not files:
            raise ValueError(f"no texts to save as {name!r} in {str(folder)!r}")
        for file, content in files.items():
            write_atomically(Path(folder) / file, content)

    def load(self, folder: Path | str, name: str, encoder: TextEncoder) -> None:
        """Replace all texts by those of a label bank (`read_labels`).

        Features of a line come from `<name>.safetensors` if it has them and the same text tower made it, and
        from `encoder` otherwise. ValueError as of `read_labels`, and for features that are NaN or have
        another d.
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
        """Features `(d,)` by text in a file; {} where there is none that this text tower made."""
        if not path.is_file():
            return {}
        try:
            texts, found, metadata = read_features(path)
        except ValueError as error:
            log.warning("label bank: %s", error)
            return {}
        if metadata.get("fingerprint") != encoder.fingerprint:
            why = "are of another model; the texts are encoded anew"
            log.warning("label bank: the features of %s %s", path, why)
            return {}
        features = torch.from_numpy(found)  # (n, d)
        check_features(f"features of {path}", features, self.features.shape[1])
        return {text.strip(): row for text, row in zip(texts, features, strict=True)}
