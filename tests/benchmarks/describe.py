"""Describing images in batches against one at a time: seconds, their ratio, and memory.

python tests/benchmarks/describe.py [--model <folder or hub name>] [--images 256] [--batch 32] [--device cuda]
    [--dtype bfloat16] [--quantization nf4]
"""

import argparse
import time

import torch

from ants_lightning.demo import LLAVA, DemoDataModule
from ants_lightning.mllm import TransformersMLLM

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default=LLAVA)
parser.add_argument("--images", type=int, default=256)
parser.add_argument("--batch", type=int, default=32)
parser.add_argument("--device", default="cpu")
parser.add_argument(
    "--dtype", default="auto", help="bfloat16 on a CPU with AVX512-BF16 takes the fast path of NF4"
)
parser.add_argument("--quantization", default="nf4")
args = parser.parse_args()

known = DemoDataModule(n_id=args.images, n_ood=1).id_set
images, avoid = [known[i][0] for i in range(args.images)], ["star"] * args.images
mllm = TransformersMLLM(
    args.model, max_new_tokens=16, compute_dtype=args.dtype, quantization=args.quantization
)
mllm.setup(torch.device(args.device))
mllm.describe(images[:2], avoid[:2])
said, seconds = {}, {}
for size in (args.batch, 1):
    mllm.batch_size = size
    begun = time.monotonic()
    said[size] = mllm.describe(images, avoid)
    seconds[size] = time.monotonic() - begun
print(
    f"{args.images} images, {args.device}, {args.quantization}, {mllm.dtype}: {seconds[args.batch]:.1f} s "
    f"in batches of {args.batch}, {seconds[1]:.1f} s one at a time, ratio "
    f"{seconds[1] / seconds[args.batch]:.1f}; same answers: {said[1] == said[args.batch]}"
)
if args.device == "cuda":
    print(f"largest GPU memory: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")
