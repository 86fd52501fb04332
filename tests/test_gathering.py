"""What three ranks hold comes together on each of them, whatever its type and length."""

import math
import multiprocessing

import pytest
import torch
import torch.distributed as dist

from ants_lightning.distributed import gather_json, gather_rows, gather_tensor, several_ranks

LENGTHS = (2, 0, 3)


def value(rank):
    return {"é\n": [rank, None, 0.1, "x" * 10**rank], "none": [] if rank == 1 else [[rank, "ü"]]}


def rows(rank):
    n, generator = LENGTHS[rank], torch.Generator().manual_seed(rank)
    return {
        "a": torch.rand(n, 4, generator=generator),
        "b": torch.arange(n) + 10 * rank,
        "c": torch.rand(n, generator=generator) > 0.5,
        "d": torch.full((n,), torch.nan, dtype=torch.float64),
    }


def work(rank, store, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
    gathered = gather_rows(rows(rank))
    empty = [list(part.shape) for part in gather_tensor(torch.empty(0, 7))]
    plain = [{k: v.tolist() for k, v in part.items()} for part in gathered]
    results.put((rank, several_ranks(), plain, gather_json(value(rank)), empty))
    dist.barrier()


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_every_rank_gets_what_all_hold(tmp_path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    ranks = [context.Process(target=work, args=(rank, tmp_path / "store", results)) for rank in range(3)]
    for process in ranks:
        process.start()
    found = [results.get(timeout=60) for _ in ranks]
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    expected = [{k: v.tolist() for k, v in rows(rank).items()} for rank in range(3)]
    assert {rank for rank, *_ in found} == {0, 1, 2}
    for _, several, parts, values, empty in found:
        assert several and values == [value(rank) for rank in range(3)] and empty == [[0, 7]] * 3
        for part, wanted in zip(parts, expected, strict=True):
            assert len(part["d"]) == len(part["b"]) and all(math.isnan(x) for x in part["d"])
            assert {k: v for k, v in part.items() if k != "d"} == {
                k: v for k, v in wanted.items() if k != "d"
            }


def test_alone_it_gives_back_what_it_got():
    assert not several_ranks() and gather_json({"a": 1}) == [{"a": 1}]
    x = torch.rand(3, 2)
    assert torch.equal(gather_tensor(x)[0], x) and [list(part) for part in gather_rows({"x": x})] == [["x"]]
