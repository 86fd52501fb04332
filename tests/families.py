"""Miniatures of the multimodal families: the real model, image processor and processor classes, with
random weights.
"""

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
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
    PreTrainedTokenizerFast,
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
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from ants_lightning.mllm import DESCRIBE_PROMPT, SIMILAR_PROMPT

SIDE, PATCH = 56, 14  # an image, or one tile of it, is 4 × 4 patches
STD = 0.5  # of the weights: answers that depend on the question
GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
NAMES = ["lamp", "green striped lamp", "foggy meadow in the main window"]
WORDS = (
    "anchor lamp meadow violin cloud engine carpet bridge ladder window striped dotted shiny wooden foggy "
    "green user assistant model system"
)


def tokenizer(special, named=(), **roles):
    """Whole words after the special tokens; a token `named` is an attribute, such as `image_token`."""
    special = list(dict.fromkeys(["<unk>", *special, ":", "."]))
    words = f"{WORDS} {' '.join(NAMES)} {DESCRIBE_PROMPT} {SIMILAR_PROMPT}".lower().replace(".", " ").split()
    words = [word for word in dict.fromkeys(words) if word.isalpha()]
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*special, *words])}, unk_token="<unk>")
    )
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(special[:-2])
    if start := roles.get("bos_token"):
        start = (start, special.index(start))
        core.post_processor = processors.TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        extra_special_tokens=dict(named),
        model_max_length=2048,
        **roles,
    )


def template(turn, image, end, answer, start=""):
    """A chat template: each user turn is `turn`, its parts in order, `end`; then `answer`."""
    return (
        f"{start}{{% for message in messages %}}{turn}{{% for part in message['content'] %}}{{% if "
        f"part['type'] == 'image' %}}{image}{{% elif part['type'] == 'text' %}}{{{{ part['text'] }}}}{{% "
        f"endif %}}{{% endfor %}}{end}{{% endfor %}}{{% if add_generation_prompt %}}{answer}{{% endif %}}"
    )


def chatml(image, system="", start="<|im_start|>user\n"):
    """That of the Qwen language models."""
    return template(start, image, "<|im_end|>\n", "<|im_start|>assistant\n", system)


def text(words, **more):
    """Settings that the narrow language models share."""
    return {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "initializer_range": STD,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        **more,
    }


def vision(**more):
    """Settings that the narrow vision towers share."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        "initializer_range": STD,
        **more,
    }


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
    with (
        torch.no_grad()
    ):  # a new model's projector is zero; and its head, tied to large embeddings, repeats the last word
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


LLAMA = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
QWEN = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
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
