"""Mining 10,000 negative labels from 70,000 candidates × 1,000 classes × 512 dimensions.

OMP_NUM_THREADS=2 python tests/benchmarks/mine_labels.py

Random features of that size, the shortest of three runs. The reference, in the same process and after it, is
the plain way: one matmul of all candidates with all classes, then NumPy's percentile of all at once, and of
each candidate in a loop (2,000 are timed, the whole is extrapolated).
"""

import resource
import time

import numpy as np
import torch
import torch.nn.functional as F

from ants_lightning.method.negatives import mine_negative_labels


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


generator = torch.Generator().manual_seed(0)
candidates = F.normalize(torch.randn(70_000, 512, generator=generator), dim=1)
classes = F.normalize(torch.randn(1000, 512, generator=generator), dim=1)
mine_negative_labels(candidates[:100], classes, 10)
before, runs = peak(), []
for _ in range(3):
    start = time.perf_counter()
    chosen = mine_negative_labels(candidates, classes, 10_000)
    runs.append(time.perf_counter() - start)
grown = peak() - before

before, wholes = peak(), []
for _ in range(3):
    start = time.perf_counter()
    cosines = (candidates @ classes.T).numpy()
    matmul = time.perf_counter() - start
    nearness = np.percentile(cosines, 95, axis=1)
    wholes.append(time.perf_counter() - start)
reference_grown = peak() - before
start = time.perf_counter()
for row in cosines[:2000]:
    np.percentile(row, 95)
loop = (time.perf_counter() - start) * len(cosines) / 2000
same = len(set(np.argsort(nearness, kind="stable")[:10_000].tolist()) & set(chosen.tolist()))

print(f"{torch.get_num_threads()} threads; {same} of 10,000 labels are those of the reference\n")
print("| | seconds | peak memory, MiB more |\n|---|---|---|")
print(f"| mine_negative_labels | {min(runs):.1f} | {grown:.0f} |")
print(f"| one matmul, np.percentile of all at once | {min(wholes):.1f} | {reference_grown:.0f} |")
print(f"| one matmul, np.percentile of one after the other, extrapolated | {matmul + loop:.1f} | |")
