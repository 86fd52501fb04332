"""Fixtures of this folder."""

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from text_space_parts import END


@pytest.fixture
def clip():
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=16)
    text = CLIPTextCfg(context_length=12, vocab_size=END + 1, width=32, heads=2, layers=2)
    return CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text).eval()
