"""Text features in memory: what is remembered, and the bar."""

import io
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.live import Live
from text_cache_parts import TEXTS, encoder_of, shards

from ants_lightning.clip import encoder as module
from ants_lightning.clip.text_cache import CachedTexts, CacheFolder, read_features, write_features


def test_what_a_killed_process_left_is_not_read(tmp_path):
    (tmp_path / "a.safetensors.123.part").write_bytes(b"half")
    assert not list(CacheFolder(tmp_path).find(["a"]))


def test_of_two_files_with_a_text_the_newer_counts(tmp_path):
    write_features(tmp_path / "b.safetensors", ["x"], np.ones((1, 2), np.float32))
    write_features(tmp_path / "a.safetensors", ["x", "y"], np.zeros((2, 2), np.float32))
    for name, time in (("b", 1), ("a", 2)):
        os.utime(tmp_path / f"{name}.safetensors", (time, time))
    assert [(part, rows.tolist()) for part, rows in CacheFolder(tmp_path).find(["x"])] == [(["x"], [[0, 0]])]


def rows_of(*numbers):
    return np.array([[i, -i] for i in numbers], np.float32)


def test_the_oldest_leave_a_full_table():
    cached = CachedTexts(4)
    for first in range(0, 50, 3):
        cached.put([str(i) for i in range(first, first + 3)], rows_of(*range(first, first + 3)))
        newest = range(max(0, first - 1), first + 3)
        assert cached.texts == [str(i) for i in newest]
        assert np.array_equal(cached.get([str(i) for i in newest[::-1]]), rows_of(*newest[::-1]))
    cached.put([str(i) for i in range(100, 110)], rows_of(*range(100, 110)))
    assert cached.texts == ["106", "107", "108", "109"] and np.array_equal(cached.get(["108"]), rows_of(108))


def test_a_known_text_takes_new_features_and_keeps_its_age():
    cached = CachedTexts(3)
    cached.put(["a", "b"], rows_of(1, 2))
    cached.put(["b", "a", "c"], rows_of(3, 4, 5))
    assert cached.texts == ["a", "b", "c"] and np.array_equal(cached.get(["a", "b", "c"]), rows_of(4, 3, 5))


def test_what_was_remembered_is_never_encoded_nor_forgotten_nor_written(clip, encoded, tmp_path):
    encoder = encoder_of(clip, tmp_path, cache_size=1)
    features = torch.randn(100, 128, generator=torch.Generator().manual_seed(0)).double()
    plain = encoder.fingerprint
    encoder.remember(TEXTS, features)
    torch.testing.assert_close(encoder(TEXTS[::-1]), F.normalize(features.float(), dim=1).flip(0))
    encoder(["x", "y"])
    assert torch.equal(encoder(["x", *TEXTS])[1:], encoder(TEXTS)) and 100 not in encoded
    encoder.remember(TEXTS[:1], features[1:2])
    assert torch.equal(encoder(TEXTS[:1]), encoder(TEXTS[1:2])) and torch.equal(
        encoder(TEXTS[2:])[0], encoder([TEXTS[2]])[0]
    )
    encoder.flush()
    assert [read_features(path)[0] for path in shards(tmp_path)] == [["x", "y"]]
    assert (
        encoder.fingerprint != plain == encoder_of(clip, None).fingerprint
    )  # its features are not those of the model alone


@pytest.mark.parametrize(
    ("features", "match"),
    [
        (torch.ones(2), "shape"),
        (torch.ones(3, 128), "2 texts with 3 features"),
        (torch.tensor([[1.0], [torch.nan]]).expand(2, 128), "row 1"),
        (torch.tensor([[1.0], [0.0]]).expand(2, 128), "'b' are 0"),
        (torch.ones(2, 64), "64 dimensions"),
    ],
)
def test_bad_features_to_remember(clip, features, match):
    encoder = encoder_of(clip, None)
    encoder.remember(["first"], torch.ones(1, 128))
    with pytest.raises(ValueError, match=match):
        encoder.remember(["a", "b"], features)
    assert encoder._given.texts == ["first"]


def test_remembered_features_of_another_model_do_not_go_with_encoded_ones(clip):
    encoder = encoder_of(clip, None)
    encoder.remember(["given"], torch.ones(1, 64))
    with pytest.raises(ValueError, match="'new' has 128 dimensions, other texts 64"):
        encoder(["given", "new"])


@pytest.mark.parametrize(
    ("progress", "rank", "texts", "shown"),
    [
        (True, 0, 100, True),
        (False, 0, 100, False),
        (True, 1, 100, False),
        (True, 0, 90, False),
    ],
)
def test_a_bar_shows_for_many_batches_on_the_terminal_of_rank_zero(
    clip, monkeypatch, progress, rank, texts, shown
):
    terminal = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(module, "get_console", lambda: terminal)
    monkeypatch.setattr(module.rank_zero_only, "rank", rank)
    with Live("the trainer's own bar", console=terminal):
        encoder_of(clip, None, batch_size=10, progress=progress)(TEXTS[:texts])
    assert ("Encoding texts" in terminal.file.getvalue()) == shown and "own bar" in terminal.file.getvalue()


def test_no_bar_without_a_terminal(clip, capfd):
    encoder_of(clip, None, batch_size=10)(TEXTS)
    assert "Encoding" not in "".join(capfd.readouterr())


def test_features_made_under_inference_mode_and_autocast_are_the_same(clip, encoded, tmp_path):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = encoder_of(clip, tmp_path)(TEXTS)
    assert torch.equal(encoder_of(clip, None)(TEXTS), found) and torch.equal(
        encoder_of(clip, tmp_path)(TEXTS), found
    )
    assert encoded == [100, 100]
