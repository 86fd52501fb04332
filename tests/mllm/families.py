"""Miniatures of the multimodal families: the real model and processor classes, with random weights."""

from families_llava_qwen import llava, llava_next, llava_onevision, qwen2_5_vl, qwen3_vl
from families_others import gemma3, idefics3, internvl, smolvlm

# Each with where its language model is.
FAMILIES = {
    "LLaVA-1.5": (llava, "model.language_model"),
    "LLaVA-NeXT": (llava_next, "model.language_model"),
    "LLaVA-OneVision": (llava_onevision, "model.language_model"),
    "Qwen2.5-VL": (qwen2_5_vl, "model.language_model"),
    "Qwen3-VL": (qwen3_vl, "model.language_model"),
    "SmolVLM2": (smolvlm, "model.text_model"),
    "InternVL": (internvl, "model.language_model"),
    "Gemma 3": (gemma3, "model.language_model"),
    "Idefics3": (idefics3, "model.text_model"),
}
