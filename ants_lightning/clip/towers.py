"""Patch features of image towers, in the space of the texts."""

from typing import Any

import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor


def gives_patches(visual: Any) -> bool:
    """Whether `encode_with_patches` knows this tower: OpenAI's ViTs and ResNets, and those built like them."""
    if isinstance(visual, VisionTransformer):
        return visual.pool_type == "tok" and visual.proj is not None and visual.attn_pool is None
    return isinstance(visual, ModifiedResNet)


def encode_with_patches(visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Image features `(n, d)` and patch features `(n, p, d)` of a batch, in one pass; neither is normalised.

    As in GL-MCM (Miyai et al., IJCV 2025) a patch takes its own value vector where the tower attends for the last time: so it
    speaks of its place, and goes through the same projection to the text space as the image feature.
    """
    last = visual.transformer.resblocks[-1] if isinstance(visual, VisionTransformer) else visual.attnpool
    inputs: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        pooled = visual(images)
    finally:
        handle.remove()
    x = inputs[0]
    if isinstance(visual, ModifiedResNet):
        return pooled, last.c_proj(last.v_proj(x.flatten(2).transpose(1, 2)))
    if not visual.transformer.batch_first:
        x = x.transpose(0, 1)
    width = x.shape[-1]
    value = F.linear(last.ln_1(x), last.attn.in_proj_weight[-width:], last.attn.in_proj_bias[-width:])
    x = x + last.ls_1(last.attn.out_proj(value))
    x = x + last.ls_2(last.mlp(last.ln_2(x)))
    return (pooled[0] if visual.output_tokens else pooled), visual.ln_post(x)[:, 1:] @ visual.proj
