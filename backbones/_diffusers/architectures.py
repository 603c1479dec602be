"""The published models' architectures as plain data: what their repositories' config files say, where they matter.

Component -> keyword arguments of its class's config. Tokenizers hold the padding token and the length. VAEs are
those a run uses: for SDXL the repaired one, which needs no float32.
"""

from __future__ import annotations

CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}
OPEN_CLIP_H = CLIP_L | {  # its last layer is left out, as SD2 uses it
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
OPEN_CLIP_BIG_G = CLIP_L | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "use_cache": False,
}
QWEN3_4B = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
}
TOKENIZER = {"pad_token": "<|endoftext|>", "model_max_length": 77}
TOKENIZER_PADDED_WITH_0 = {"pad_token": "!", "model_max_length": 77}

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
VAE_XL = VAE | {"sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": False}
VAE_3 = VAE | {
    "latent_channels": 16,
    "sample_size": 1024,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
VAE_FLUX = VAE_3 | {"scaling_factor": 0.3611, "shift_factor": 0.1159}

UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
UNET_2 = UNET | {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
UNET_XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
MMDIT = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
MMDIT_35_MEDIUM = MMDIT | {
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "dual_attention_layers": tuple(range(13)),
}
MMDIT_35_LARGE = MMDIT | {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}
FLUX_TRANSFORMER = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
}
Z_IMAGE_TRANSFORMER = {
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "cap_feat_dim": 2560,
}

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
FLOW_SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
DYNAMIC_FLOW_SCHEDULER = FLOW_SCHEDULER | {
    "use_dynamic_shifting": True,
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
}

SD15 = {
    "unet": UNET,
    "vae": VAE,
    "text_encoder": CLIP_L,
    "tokenizer": TOKENIZER,
    "scheduler": SCHEDULER,
}
SD21 = SD15 | {"unet": UNET_2, "text_encoder": OPEN_CLIP_H, "tokenizer": TOKENIZER_PADDED_WITH_0}
SDXL = {
    "unet": UNET_XL,
    "vae": VAE_XL,
    "text_encoder": CLIP_L,
    "text_encoder_2": OPEN_CLIP_BIG_G,
    "tokenizer": TOKENIZER,
    "tokenizer_2": TOKENIZER_PADDED_WITH_0,
    "scheduler": SCHEDULER,
}
SD3 = {
    "transformer": MMDIT,
    "vae": VAE_3,
    "text_encoder": CLIP_L,
    "text_encoder_2": OPEN_CLIP_BIG_G,
    "text_encoder_3": T5_XXL,
    "tokenizer": TOKENIZER,
    "tokenizer_2": TOKENIZER_PADDED_WITH_0,
    "tokenizer_3": {"model_max_length": 512},
    "scheduler": FLOW_SCHEDULER,
}
FLUX = {
    "transformer": FLUX_TRANSFORMER,
    "vae": VAE_FLUX,
    "text_encoder": CLIP_L,
    "text_encoder_2": T5_XXL,
    "tokenizer": TOKENIZER,
    "tokenizer_2": {"model_max_length": 512},
    "scheduler": DYNAMIC_FLOW_SCHEDULER,
}
Z_IMAGE = {
    "transformer": Z_IMAGE_TRANSFORMER,
    "vae": VAE_FLUX,
    "text_encoder": QWEN3_4B,
    "tokenizer": {"model_max_length": 512},
    "scheduler": FLOW_SCHEDULER | {"shift": 6.0},
}
ARCHITECTURES: dict[str, dict[str, dict]] = {
    "sd15": SD15,
    "sd21": SD21,
    "sd21-v": SD21
    | {
        "unet": UNET_2 | {"sample_size": 96, "upcast_attention": True},
        "scheduler": SCHEDULER | {"prediction_type": "v_prediction"},
    },
    "sdxl": SDXL,
    "sd3": SD3,
    "sd35": SD3 | {"transformer": MMDIT_35_MEDIUM},
    "sd35-large": SD3 | {"transformer": MMDIT_35_LARGE},
    "flux": FLUX,
    "z-image": Z_IMAGE,
}
PIPELINE_OPTIONS: dict[str, dict] = {"sdxl": {"force_zeros_for_empty_prompt": True}}
"""What model_index.json says beside the components."""
