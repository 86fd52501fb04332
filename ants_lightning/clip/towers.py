"""The two towers of CLIP, loaded by open_clip; features of images and of their patches."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ants_lightning.common.settings import plain_path


def load_clip(
    model: str, pretrained: str | None
) -> tuple[Any, Callable[[Any], Tensor], Callable[[list[str]], Tensor]]:
    """Load an open_clip model.

    Args:
        model: a name of open_clip, `local-dir:<folder>` or `hf-hub:<repo>`; `~` is the home folder.
        pretrained: open_clip's tag of the weights, or a file; None: random weights (not used with a schema).

    Returns:
        The model, frozen and in evaluation mode; its preprocessing; its tokenizer.
    """
    import open_clip

    model = plain_path(model)
    clip, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=plain_path(pretrained))
    return clip.requires_grad_(False).eval(), preprocess, open_clip.get_tokenizer(model)


def image_size(visual: Any) -> tuple[int, int]:
    """Height and width of the images that an image tower takes."""
    size = visual.image_size
    return (size, size) if isinstance(size, int) else tuple(size)


@torch.no_grad()
def encode_images(clip: Any, images: Tensor, with_patches: bool = False) -> tuple[Tensor, Tensor | None]:
    """Features of images, and those of their patches where they are asked for.

    Args:
        clip: an open_clip model.
        images: preprocessed, `(n, 3, h, w)`.
        with_patches: also encode patches; only for towers that `gives_patches` knows.

    Returns:
        Image features `(n, d)`, and patch features `(n, p, d)` or None; L2-normalised, float32.
    """
    if images.is_floating_point():  # Lightning may keep the weights in another precision
        images = images.to(next(clip.visual.parameters()).dtype)
    if not with_patches:
        return F.normalize(clip.encode_image(images).float(), dim=1), None
    features, patches = encode_with_patches(clip.visual, images)  # (n, d), (n, p, d)
    return F.normalize(features.float(), dim=1), F.normalize(patches.float(), dim=2)


def gives_patches(visual: Any) -> bool:
    """Whether `encode_with_patches` knows this tower: OpenAI's ViTs and ResNets, and towers like them."""
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    if isinstance(visual, VisionTransformer):
        return visual.pool_type == "tok" and visual.proj is not None and visual.attn_pool is None
    return isinstance(visual, ModifiedResNet)


def encode_with_patches(visual: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Image features `(n, d)` and patch features `(n, p, d)` of a batch, in one pass; neither is normalised.

    As in GL-MCM (Miyai et al., IJCV 2025), in the last attention of the tower each patch keeps its own value
    vector, so that it describes its place in the image. It goes through the same projection to the text space
    as the image feature.
    """
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer

    last = visual.transformer.resblocks[-1] if isinstance(visual, VisionTransformer) else visual.attnpool
    inputs: list[Tensor] = []
    handle = last.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        pooled = visual(images)
    finally:
        handle.remove()
    x = inputs[0]
    if isinstance(visual, ModifiedResNet):
        x = x.flatten(2).transpose(1, 2)  # (n, w, rows, columns) to (n, p, w)
        return pooled, last.c_proj(last.v_proj(x))
    if not visual.transformer.batch_first:
        x = x.transpose(0, 1)  # (n, 1 + p, w), the class token first
    width = x.shape[-1]
    value = F.linear(last.ln_1(x), last.attn.in_proj_weight[-width:], last.attn.in_proj_bias[-width:])
    x = x + last.ls_1(last.attn.out_proj(value))
    x = x + last.ls_2(last.mlp(last.ln_2(x)))
    patches = visual.ln_post(x)[:, 1:] @ visual.proj  # (n, p, d)
    return (pooled[0] if visual.output_tokens else pooled), patches
