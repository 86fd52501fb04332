"""Text features on disk: what is read, written and refused."""

import hashlib
import json
import logging
import multiprocessing

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from text_cache_parts import TEXTS, TOKENIZER, encoder_of, shards

from ants_lightning.clip.encoder import TextEncoder
from ants_lightning.clip.text_cache import CacheFolder, read_features


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
    # As of a module that loads its checkpoint, or is cast, after it was made
    encoder = encoder_of(clip, tmp_path)
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
