"""Miniatures of SmolVLM, Idefics, InternVL and Gemma: the real classes, with random weights."""

import torch
from family_parts import (
    QWEN,
    SIDE,
    STD,
    chatml,
    template,
    text,
    tokenizer,
    vision,
)
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    Qwen2Config,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)


def idefics_tokens(start):
    """Special tokens of Idefics3 and SmolVLM: a tag for each tile of a split image."""
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    return [start, "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>", *tiles]


IDEFICS_IMAGES = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}


def smolvlm():
    named = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    words = tokenizer(
        ["<|im_end|>", "<|endoftext|>", *idefics_tokens("<|im_start|>")],
        named,
        pad_token="<|im_end|>",
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
    )
    model = SmolVLMForConditionalGeneration(
        SmolVLMConfig(
            vision_config=vision(),
            text_config=LlamaConfig(**text(words)),
            image_token_id=words.image_token_id,
            scale_factor=2,
        )
    )
    videos = SmolVLMVideoProcessor(
        size={"longest_edge": SIDE},
        max_image_size={"longest_edge": SIDE},
        num_frames=4,
        fps=1,
        video_sampling={"max_frames": 4, "fps": 1, "video_size": {"longest_edge": SIDE}},
    )
    return model, SmolVLMProcessor(
        SmolVLMImageProcessor(**IDEFICS_IMAGES),
        words,
        videos,
        image_seq_len=4,
        chat_template=template("User: ", "<image>", "<end_of_utterance>\n", "Assistant:", "<|im_start|>"),
    )


def idefics3():
    words = tokenizer(
        ["<pad>", *idefics_tokens("<|begin_of_text|>")],
        pad_token="<pad>",
        bos_token="<|begin_of_text|>",
        eos_token="<end_of_utterance>",
    )
    model = Idefics3ForConditionalGeneration(
        Idefics3Config(
            vision_config=vision(),
            text_config=LlamaConfig(**text(words)),
            image_token_id=words.convert_tokens_to_ids("<image>"),
            scale_factor=2,
        )
    )
    return model, Idefics3Processor(
        Idefics3ImageProcessor(**IDEFICS_IMAGES),
        words,
        image_seq_len=4,
        chat_template=template(
            "User: ", "<image>", "<end_of_utterance>\n", "Assistant:", "<|begin_of_text|>"
        ),
    )


def internvl():
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(["<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values()], named, **QWEN)
    model = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=InternVLVisionConfig(**vision()),
            text_config=Qwen2Config(**text(words)),
            image_token_id=words.context_image_token_id,
            image_seq_length=4,
            tie_word_embeddings=False,
        )
    )
    size = {"height": SIDE, "width": SIDE}
    return model, InternVLProcessor(
        GotOcr2ImageProcessor(size=size, min_patches=1, max_patches=4),
        words,
        InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=chatml("<IMG_CONTEXT>\n"),
    )


def gemma3():
    named = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    words = tokenizer(
        ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *named.values()],
        named,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
    )
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            vision_config=SiglipVisionConfig(**vision(vision_use_head=False)),
            text_config=Gemma3TextConfig(
                **text(
                    words,
                    head_dim=32,
                    query_pre_attn_scalar=1,
                    sliding_window=16,
                    layer_types=["sliding_attention", "full_attention"],
                )
            ),
            mm_tokens_per_image=4,
            image_token_index=words.image_token_id,
            boi_token_index=words.boi_token_id,
            eoi_token_index=words.eoi_token_id,
            initializer_range=STD,
        )
    )
    # A new model's projector is zero; and its head, tied to large embeddings, repeats the last word.
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.normal_()
        model.model.language_model.embed_tokens.weight.mul_(0.05)
    return model, Gemma3Processor(
        Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE}),
        words,
        image_seq_length=4,
        chat_template=template(
            "<start_of_turn>user\n", "<start_of_image>", "<end_of_turn>\n", "<start_of_turn>model\n", "<bos>"
        ),
    )
