"""Weights of each family in NF4: `python tests/benchmarks/mllm_memory.py`.

Computed, not measured: the real classes on the meta device, in the dimensions that the releases are known to
have. The decoder's linear layers take 4 bits and 0.127 for the double-quantised constants, everything else 2
bytes.
"""

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

SIGLIP = dict(
    hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, patch_size=14
)
LLAMA_7B = dict(
    model_type="llama",
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
)
QWEN_7B = dict(
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
)
QWEN2_7B = dict(model_type="qwen2", vocab_size=152128, **QWEN_7B)
SMOL = dict(
    model_type="llama",
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=24,
    num_attention_heads=32,
    vocab_size=49280,
)
LLAMA_8B = dict(LLAMA_7B, intermediate_size=14336, num_key_value_heads=8, vocab_size=128259)
QWEN3_4B = dict(
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=128,
    vocab_size=151936,
)
GEMMA_4B = dict(
    hidden_size=2560,
    intermediate_size=10240,
    num_hidden_layers=34,
    num_attention_heads=8,
    num_key_value_heads=4,
    head_dim=256,
    vocab_size=262208,
)
FAMILIES = {
    "LLaVA-1.5-7B": ("llava", {}),
    "LLaVA-NeXT (Vicuna 7B)": ("llava_next", {}),
    "LLaVA-OneVision-7B": (
        "llava_onevision",
        dict(
            text_config=QWEN2_7B, vision_config=dict(SIGLIP, model_type="siglip_vision_model", image_size=384)
        ),
    ),
    "Qwen2.5-VL-7B": (
        "qwen2_5_vl",
        dict(
            text_config=dict(QWEN_7B, vocab_size=152064),
            vision_config=dict(
                hidden_size=1280, depth=32, intermediate_size=3420, num_heads=16, out_hidden_size=3584
            ),
        ),
    ),
    "Qwen3-VL-4B": (
        "qwen3_vl",
        dict(
            tie_word_embeddings=True,
            text_config=QWEN3_4B,
            vision_config=dict(
                hidden_size=1024, depth=24, intermediate_size=4096, num_heads=16, out_hidden_size=2560
            ),
        ),
    ),
    "SmolVLM2-2.2B": ("smolvlm", dict(text_config=SMOL, vision_config=dict(SIGLIP, image_size=384))),
    "InternVL3-8B": (
        "internvl",
        dict(tie_word_embeddings=False, text_config=dict(QWEN2_7B, vocab_size=151674)),
    ),
    "Gemma-3-4B": ("gemma3", dict(text_config=GEMMA_4B, vision_config=dict(SIGLIP, image_size=896))),
    "Idefics3-8B": ("idefics3", dict(text_config=LLAMA_8B, vision_config=dict(SIGLIP, image_size=364))),
}

print("| family | parameters | of these in 4 bits | weights in NF4 |\n|---|---|---|---|")
for name, (kind, settings) in FAMILIES.items():
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(kind, **settings))
    inner = sum(m.weight.numel() for m in model.get_decoder().modules() if isinstance(m, nn.Linear))
    whole = sum(p.numel() for p in model.parameters())
    print(
        f"| {name} | {whole / 1e9:.2f} B | {inner / 1e9:.2f} B | "
        f"{(inner * 4.127 / 8 + (whole - inner) * 2) / 1e9:.1f} GB |"
    )
