"""Hashes are SHA-256 of the very bytes that their docstrings name."""

import hashlib
import json

import torch
from PIL import Image

from ants_lightning.common.hashes import bytes_of, canonical, digest, digest_of, file_hash, pixel_hash


def test_parts_are_one_text():
    wanted = hashlib.sha256(b"ants lightning").hexdigest()
    assert digest(b"ants ", b"", b"lightning") == digest_of(iter([b"ants lightning"])) == wanted
    assert digest() == hashlib.sha256().hexdigest()


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    value = {"b": [1, 2.5, None, True], "a": {"y": "é", "x": {}}}
    assert canonical(value) == canonical({"a": {"x": {}, "y": "é"}, "b": [1, 2.5, None, True]})
    assert canonical(value) == b'{"a":{"x":{},"y":"\\u00e9"},"b":[1,2.5,null,true]}'
    assert json.loads(canonical(value)) == value


def test_bytes_of_a_tensor_are_those_of_its_values_in_order():
    x = torch.arange(6, dtype=torch.int16).reshape(2, 3)
    assert bytes(bytes_of(x)) == bytes([0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0])
    assert bytes(bytes_of(x.T)) == bytes([0, 0, 3, 0, 1, 0, 4, 0, 2, 0, 5, 0])
    assert bytes(bytes_of(torch.tensor(1.0, requires_grad=True))) == bytes([0, 0, 0x80, 0x3F])
    assert bytes(bytes_of(torch.tensor([1.0], dtype=torch.bfloat16))) == bytes([0x80, 0x3F])


def test_a_file_is_hashed_whole(tmp_path):
    content = bytes(range(256)) * 8193  # more than two of the pieces that are read
    (tmp_path / "a").write_bytes(content)
    assert file_hash(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_pixels_are_hashed_with_their_size():
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    assert pixel_hash(image) == hashlib.sha256(b"(2, 1)" + bytes([1, 2, 3, 1, 2, 3])).hexdigest()
    assert pixel_hash(image) != pixel_hash(Image.new("RGB", (1, 2), (1, 2, 3)))
