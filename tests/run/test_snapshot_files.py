"""Snapshots on disk: state to the last bit, damage, and what is listed or removed."""

import json
import math
import random

import pytest
import torch
from snapshot_parts import CPU

from ants_lightning.run import snapshot_files as files
from ants_lightning.run.configuration import differences
from ants_lightning.run.snapshot_files import (
    list_snapshots,
    pack,
    partial,
    publish,
    read_share,
    sweep,
    unpack,
    write_share,
)

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


STATE = {
    "floats": [torch.tensor([0.1, math.pi, -0.0], dtype=dtype) for dtype in FLOATS],
    "counts": torch.tensor([2**62, -1]),
    "flags": torch.tensor([[True], [False]]),
    "image": torch.arange(12, dtype=torch.uint8).view(3, 2, 2),
    "nothing": [torch.empty(0), torch.empty(0, 5, dtype=torch.long), torch.tensor(7)],
    "empty": {},
    "none": None,
    "odd": torch.tensor([torch.nan, torch.inf, -torch.inf, 1e-45]),
    "strided": torch.arange(12.0).view(3, 4).T[1:],
    "numbers": [0.1 + 0.2, 1e308 * 10, -1e308 * 10, -0.0, 2**70, True, False, 0, 5e-324],
    "names": {"a.b": ["naïve 犬 🐕 \x00 \u2028 \ud800 \"'\\"], "$tensor": 1, "$$": {"$float": "nan"}, "": []},
}


def same(one, two):
    """Equal to the last bit, types included."""
    if isinstance(one, torch.Tensor):
        raw = [x.contiguous().flatten().view(torch.uint8) for x in (one, two)] if one.numel() else []
        return one.dtype == two.dtype and one.shape == two.shape and (not raw or torch.equal(*raw))
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return isinstance(two, list) and len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and repr(one) == repr(two)


def test_state_comes_back_to_the_last_bit(tmp_path):
    base = torch.arange(6.0)
    state = {**STATE, "shared": [base, base[2:], base], "nan": math.nan}
    write_share(tmp_path, 3, {"serial": 1}, state)
    about, tensors = read_share(tmp_path, 3)
    assert same(unpack(about["state"], tensors, CPU), state) and about["serial"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank3.json", "rank3.safetensors"]
    json.loads((tmp_path / "rank3.json").read_bytes(), parse_constant=pytest.fail)  # JSON knows no NaN


def test_tensors_of_the_device_go_back_to_it():
    tensors = {}
    tree = pack([torch.zeros(2), torch.zeros(2, device="meta")], tensors)
    here, there = unpack(tree, tensors, torch.device("meta"))
    assert (here.device.type, there.device.type) == ("cpu", "meta")


@pytest.mark.parametrize(
    "bad", [(1, 2), {1: 2}, {"a": {"b": [{1}]}}, {"a": object()}], ids=["tuple", "key", "set", "object"]
)
def test_what_would_not_come_back_is_no_state(bad):
    with pytest.raises(TypeError, match=r"^state"):
        pack(bad, {})


def test_every_damaged_byte_and_every_torn_file_is_noticed(tmp_path):
    write_share(
        tmp_path, 0, {"serial": 1}, {"features": torch.arange(24.0).view(6, 4), "names": ["dog", "cat"]}
    )
    random.seed(0)
    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        damaged = [whole[:n] for n in (0, 1, len(whole) // 2, len(whole) - 1)] + [whole + b"x", None]
        for place in random.sample(range(len(whole)), 60):
            damaged.append(
                whole[:place] + bytes([whole[place] ^ 1 << random.randrange(8)]) + whole[place + 1 :]
            )
        for content in damaged:
            path.unlink() if content is None else path.write_bytes(content)
            with pytest.raises(ValueError, match=path.name):
                read_share(tmp_path, 0)
        path.write_bytes(whole)
        read_share(tmp_path, 0)


def test_snapshots_appear_whole_and_the_newest_stay(tmp_path):
    for serial in range(8, 13):
        write_share(partial(tmp_path, serial), 0, {}, {"n": serial})
        before = list_snapshots(tmp_path)
        publish(tmp_path, serial, world=1, keep=3)
        assert [int(path.name) for path in list_snapshots(tmp_path)] == [
            serial,
            *(int(path.name) for path in before),
        ][:3]
    write_share(partial(tmp_path, 13), 0, {}, {})
    with pytest.raises(FileNotFoundError, match="no file of rank 1"):
        publish(tmp_path, 13, world=2, keep=3)
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000010", "000011", "000012"]


def test_nothing_but_snapshots_is_listed_or_removed(tmp_path):
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "snapshots"
    write_share(elsewhere, 0, {}, {})
    write_share(root / "000004", 0, {}, {})
    write_share(root / "000007", 0, {}, {})
    theirs = [
        "000007/note.txt",
        "2024/monday.jpg",
        ".partial-000003/mine",
        ".partial-old/rank0.json",
        "000002",
        "rank0.json",
    ]
    for name in theirs:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("precious")
    (root / "000001").mkdir()
    (root / "000008").symlink_to(elsewhere)
    (root / "000003" / "rank0.json").mkdir(parents=True)
    write_share(partial(root, 9), 0, {}, {})
    assert [path.name for path in list_snapshots(root)] == ["000004"] and files.next_serial(root) == 2025
    sweep(root)
    for path in [*root.iterdir(), elsewhere / "rank0.json"]:
        if path.name not in ("000001", ".partial-old"):  # both could be ours, by what is in them
            files.remove(path)
    left = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if not path.is_dir() or path.is_symlink()
    )
    assert left == sorted([*theirs, "000007/rank0.json", "000007/rank0.safetensors", "000008"])
    assert sorted(path.name for path in elsewhere.iterdir()) == ["rank0.json", "rank0.safetensors"]
    assert (
        (root / "000003" / "rank0.json").is_dir()
        and not partial(root, 9).exists()
        and not (root / "000004").exists()
    )


def test_differences_are_named():
    then = {
        "memory": {"gamma": 0.9, "eta": 0.5, "mllm": None},
        "class_names": ["dog", "cat"],
        "streams": {"a": {"n": 1}},
    }
    now = {
        "memory": {"gamma": 0.8, "eta": 0.5, "delta": 1},
        "class_names": ["dog", "cow"],
        "streams": {"b": {"n": 1}},
    }
    assert differences(then, then) == []
    assert differences(then, now) == [
        "memory.gamma was 0.9, now 0.8",
        "memory.mllm was None, now absent",
        "memory.delta was absent, now 1",
        "class_names[1] was 'cat', now 'cow'",
        "streams.a was {'n': 1}, now absent",
        "streams.b was absent, now {'n': 1}",
    ]
    assert differences({"a": [1]}, {"a": [1, 2]}) == ["a was a list of 1, now a list of 2"]
    assert differences({"a": 1, "b": math.nan}, {"a": True, "b": math.nan}) == ["a was 1, now True"]
