"""Miniatures of LLaVA and Qwen-VL: the real classes, with random weights."""

from family_parts import LLAMA, PATCH, QWEN, SIDE, STD, chatml, template, text, tokenizer, vision
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    MistralConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipVisionConfig,
)

GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def llava():
    words = tokenizer(["<pad>", "<s>", "</s>", "<image>"], {"image_token": "<image>"}, **LLAMA)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(**vision(num_hidden_layers=3)),
            text_config=LlamaConfig(**text(words)),
            image_token_index=words.image_token_id,
            image_seq_length=16,
        )
    )
    images = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return model, LlavaProcessor(
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("USER: ", "<image>\n", " ", "ASSISTANT:"),
    )


def llava_next():
    words = tokenizer(
        ["<pad>", "<s>", "</s>", "[INST]", "[/INST]", "<image>"], {"image_token": "<image>"}, **LLAMA
    )
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=CLIPVisionConfig(**vision(num_hidden_layers=3)),
            text_config=MistralConfig(**text(words)),
            image_token_index=words.image_token_id,
            image_grid_pinpoints=GRID,
            image_seq_length=16,
        )
    )
    images = LlavaNextImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=GRID,
    )
    return model, LlavaNextProcessor(
        images,
        words,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("[INST] ", "<image>\n", " [/INST]", ""),
    )


def llava_onevision():
    named = {"image_token": "<image>", "video_token": "<video>"}
    words = tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()], named, **QWEN)
    model = LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**vision(vision_use_head=False)),
            text_config=Qwen2Config(**text(words)),
            image_token_index=words.image_token_id,
            video_token_index=words.video_token_id,
            image_grid_pinpoints=GRID,
        )
    )
    images = LlavaOnevisionImageProcessor(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=GRID)
    return model, LlavaOnevisionProcessor(
        images,
        words,
        LlavaOnevisionVideoProcessor(size={"height": SIDE, "width": SIDE}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chatml("<image>\n"),
    )


def qwen(config, model, processor, video_processor, vision_config, sections, patch=14, **more):
    """Qwen2.5-VL and Qwen3-VL: tokens as many as the image's own size asks for."""
    named = {
        "vision_start": "<|vision_start|>",
        "vision_end": "<|vision_end|>",
        "image": "<|image_pad|>",
        "video": "<|video_pad|>",
    }
    words = tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()], **QWEN)
    ids = {f"{name}_token_id": words.convert_tokens_to_ids(token) for name, token in named.items()}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections, **more.pop("rope", {})}
    built = model(
        config(
            vision_config={
                "depth": 2,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_heads": 2,
                "out_hidden_size": 64,
                "patch_size": patch,
                "initializer_range": STD,
                **vision_config,
            },
            text_config={**text(words), "rope_parameters": rope, **more},
            **ids,
        )
    )
    size = {"shortest_edge": (2 * patch) ** 2, "longest_edge": 16 * (2 * patch) ** 2}
    sizes = {"size": size, "patch_size": patch}
    system = "<|im_start|>system\nName the object.<|im_end|>\n"
    return built, processor(
        Qwen2VLImageProcessor(**sizes),
        words,
        video_processor(**sizes),
        chat_template=chatml("<|vision_start|><|image_pad|><|vision_end|>", system),
    )


def qwen2_5_vl():
    return qwen(
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLVideoProcessor,
        {"fullatt_block_indexes": [1], "window_size": 56},
        [4, 6, 6],
    )


def qwen3_vl():
    return qwen(
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
        {"deepstack_visual_indexes": [0], "num_position_embeddings": 64},
        [6, 5, 5],
        patch=16,
        head_dim=32,
        rope={"mrope_interleaved": True},
    )
