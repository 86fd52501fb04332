"""Text features on disk and in memory: what is encoded, what is read, and what happens to broken files."""

import hashlib
import io
import json
import logging
import multiprocessing
import os

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.live import Live
from safetensors import safe_open

from ants_lightning import demo
from ants_lightning.clip import encoder as module
from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.text_cache import CachedTexts, CacheFolder, read_features, write_features

TEXTS = [f"The nice thing {i}." for i in range(100)]
TOKENIZER = open_clip.get_tokenizer(demo.CLIP)


@pytest.fixture
def clip():
    return open_clip.create_model(demo.CLIP).requires_grad_(False).eval()


@pytest.fixture
def encoded(clip):
    """The number of texts in each forward of the text tower."""
    counts, encode_text = [], clip.encode_text

    def counting(tokens):
        counts.append(len(tokens))
        return encode_text(tokens)

    clip.encode_text = counting
    return counts


def encoder_of(clip, folder, **settings):
    return TextEncoder(clip, TOKENIZER, cache_dir=folder, **settings)


def shards(folder):
    return sorted(folder.glob("*/*.safetensors"))


def test_the_second_run_encodes_nothing(clip, encoded, tmp_path):
    first = encoder_of(clip, tmp_path)(TEXTS)
    assert encoded == [100]
    assert torch.equal(encoder_of(clip, str(tmp_path))(TEXTS[::-1]), first.flip(0))
    assert torch.equal(encoder_of(clip, tmp_path)([TEXTS[3], TEXTS[7], TEXTS[3]]), first[[3, 7, 3]])
    assert encoded == [100]
    torch.testing.assert_close(
        first, F.normalize(clip.encode_text(TOKENIZER(TEXTS)), dim=1), atol=1e-6, rtol=0
    )


def test_a_shard_is_named_by_its_texts_and_holds_them(clip, tmp_path):
    found = encoder_of(clip, tmp_path)(TEXTS)
    (path,) = shards(tmp_path)
    assert path.stem == hashlib.sha256(json.dumps(TEXTS).encode()).hexdigest()
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["texts"]) == TEXTS
        assert torch.equal(file.get_tensor("features"), found)


def test_only_texts_that_are_not_there_are_encoded(clip, encoded, tmp_path):
    encoder_of(clip, tmp_path)(TEXTS)
    mixed = ["before", *TEXTS[:3], "after"]
    found = encoder_of(clip, tmp_path)(mixed)
    assert encoded == [100, 2]
    torch.testing.assert_close(
        found, F.normalize(clip.encode_text(TOKENIZER(mixed)), dim=1), atol=1e-6, rtol=0
    )


def test_few_texts_wait_for_flush_and_share_a_file(clip, encoded, tmp_path):
    encoder = encoder_of(clip, tmp_path, cache_size=1)  # so that what waits is not only found in memory
    for text in TEXTS[:10]:
        encoder([text])
    assert not shards(tmp_path) and encoded == [1] * 10
    encoder(TEXTS[:10])
    assert encoded == [1] * 10
    encoder.flush()
    encoder.flush()
    assert len(shards(tmp_path)) == 1
    encoder_of(clip, tmp_path)(TEXTS[:10])
    assert encoded == [1] * 10


def test_many_texts_go_to_several_files_as_they_come(clip, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr("ants_lightning.clip.text_cache._PER_FILE", 40)
    found = encoder_of(clip, tmp_path, batch_size=20)(TEXTS)
    assert [len(read_features(path)[0]) for path in shards(tmp_path)] == [40, 40]  # 20 wait
    assert torch.equal(encoder_of(clip, tmp_path)(TEXTS[:80]), found[:80]) and encoded == [20] * 5


def change_weight(clip):
    with torch.no_grad():
        clip.token_embedding.weight[5] += 1


def change_setting(clip):
    clip.ln_final.eps = 0.1


def change_dtype(clip):
    clip.bfloat16()


@pytest.mark.parametrize("change", [change_weight, change_setting, change_dtype])
def test_another_text_tower_has_a_folder_of_its_own(clip, encoded, tmp_path, change):
    encoder_of(clip, tmp_path)(TEXTS)
    change(clip)
    found = encoder_of(clip, tmp_path)(TEXTS)
    assert encoded == [100, 100] and len(list(tmp_path.iterdir())) == 2
    assert torch.equal(encoder_of(clip, tmp_path)(TEXTS), found) and len(encoded) == 2


def test_weights_that_change_under_the_encoder_do_not_mix(clip, encoded, tmp_path):
    encoder = encoder_of(
        clip, tmp_path
    )  # as of a module that loads its checkpoint, or is cast, after it was made
    before = encoder(["a"])
    change_weight(clip)
    clip.text_projection *= -1
    assert not torch.equal(encoder(["a"]), before) and encoded == [1, 1]
    encoder.flush()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_image_tower_does_not_matter(clip, encoded, tmp_path):
    encoder_of(clip, tmp_path)(TEXTS)
    with torch.no_grad():
        next(clip.visual.parameters()).zero_()
    encoder_of(clip, tmp_path)(TEXTS)
    assert encoded == [100]


def test_another_tokenizer_has_a_folder_of_its_own(clip, encoded, tmp_path):
    encoder_of(clip, tmp_path)(TEXTS)
    TextEncoder(clip, lambda texts: TOKENIZER([text.upper()[:4] for text in texts]), cache_dir=tmp_path)(
        TEXTS
    )
    assert encoded == [100, 100] and len(list(tmp_path.iterdir())) == 2


def torn(content):
    return content[: len(content) // 2]


def altered(content):
    return content[:-5] + bytes([content[-5] ^ 64]) + content[-4:]


@pytest.mark.parametrize("broken", [torn, altered, lambda _: b"", lambda _: b"\x80\x04K\x01." * 9])
def test_a_broken_file_is_named_once_and_its_texts_are_encoded_anew(clip, encoded, tmp_path, caplog, broken):
    first = encoder_of(clip, tmp_path)(TEXTS)
    encoder_of(clip, tmp_path)([f"other {text}" for text in TEXTS])
    path = next(
        path
        for path in shards(tmp_path)
        if path.stem == hashlib.sha256(json.dumps(TEXTS).encode()).hexdigest()
    )
    path.write_bytes(broken(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        encoder = encoder_of(clip, tmp_path)
        torch.testing.assert_close(encoder([*TEXTS, "other " + TEXTS[0]])[:100], first, atol=1e-6, rtol=0)
    assert (
        encoded == [100, 100, 100] and sum(path.name in record.getMessage() for record in caplog.records) == 1
    )
    assert (
        torch.equal(encoder_of(clip, tmp_path)(TEXTS), first) and len(encoded) == 3
    )  # and the file is whole again


def test_a_folder_that_cannot_be_written_costs_a_warning(clip, tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    encoder_of(clip, tmp_path / "file")(TEXTS)
    assert "100 texts are not kept" in caplog.text


def write(folder, seed):
    """Twenty files, half of them the same in all processes."""
    for i in range(20):
        texts = [f"{seed if i % 2 else 'all'} {i} {j}" for j in range(50)]
        one = CacheFolder(folder)
        one.put(texts, np.random.default_rng(i).random((50, 512), np.float32))
        one.flush()


def test_processes_that_write_at_once_leave_whole_files(tmp_path):
    processes = [
        multiprocessing.get_context("fork").Process(target=write, args=(tmp_path, seed)) for seed in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(list(tmp_path.iterdir())) == 10 + 3 * 10
    for i in range(20):
        for seed in range(3):
            texts = [f"{seed if i % 2 else 'all'} {i} {j}" for j in range(50)]
            ((part, rows),) = CacheFolder(tmp_path).find(texts)
            assert part == texts and np.array_equal(
                rows, np.random.default_rng(i).random((50, 512), np.float32)
            )


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
