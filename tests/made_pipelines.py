"""Random pipelines of every family, small enough for tests, written in the stock folder layout.

64 x 64 pixels, 8 x 8 latents, prompts of letters; everything a family's real folder has that code could trip over:
a second tokenizer with its own padding, zeros for the empty prompt, a shifted latent space, text that needs padding.
"""

from pathlib import Path

import tiny_unet
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from backbones._diffusers.base import LatentDiffusion
from backbones._diffusers.random_weights import stand_in_chat_tokenizer
from backbones.family import PipelineSettings
from backbones.flux import Flux
from backbones.sd import SD15, SD21V
from backbones.sd3 import SD3Medium, SD35Medium
from backbones.sdxl import SDXL
from backbones.z_image import ZImage

CPU, FLOAT = torch.device("cpu"), torch.float32
PROMPTS = ["a red", "two blue", "a tree", "none"]


def sd15(folder: Path) -> Path:
    """SD1.5: one text encoder, epsilon prediction."""
    return _stable_diffusion(folder, "epsilon")


def sd21_v(folder: Path) -> Path:
    """SD2.1 at 768: the same with linear projections and v-prediction."""
    return _stable_diffusion(folder, "v_prediction", use_linear_projection=True)


def sdxl(folder: Path) -> Path:
    """SDXL: two text encoders, pooled text and picture size beside the timestep."""
    torch.manual_seed(0)
    first = tiny_unet.tokenizer()
    second = CLIPTokenizer(
        vocab={**first.get_vocab(), "!": len(first)}, merges=[], model_max_length=12, pad_token="!"
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_vae(4, scaling_factor=0.13025, force_upcast=True),
        text_encoder=CLIPTextModel(_clip(first)),
        text_encoder_2=CLIPTextModelWithProjection(_clip(second, hidden_act="gelu", projection_dim=24)),
        tokenizer=first,
        tokenizer_2=second,
        unet=_unet(
            cross_attention_dim=32,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
        ),
        scheduler=_ddim("epsilon"),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    return _write(pipeline, folder)


def sd3(folder: Path) -> Path:
    """SD3-medium with all three text encoders."""
    return _sd3(folder, t5=True)


def sd35(folder: Path) -> Path:
    """SD3.5-medium's transformer (normalised queries and keys, a second attention), no T5."""
    return _sd3(folder, t5=False, qk_norm="rms_norm", dual_attention_layers=(0,))


def flux(folder: Path) -> Path:
    """FLUX.1-dev: packed latents, blocks with two streams and with one, distilled guidance, a dynamic shift."""
    torch.manual_seed(0)
    tokenizer, t5_tokenizer = tiny_unet.tokenizer(), _t5_tokenizer()
    pipeline = FluxPipeline(
        vae=_vae(
            16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
        ),
        text_encoder=CLIPTextModel(_clip(tokenizer)),
        text_encoder_2=T5EncoderModel(_t5(t5_tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=t5_tokenizer,
        transformer=FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=40,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )
    return _write(pipeline, folder)


def z_image(folder: Path) -> Path:
    """Z-Image: a chat model's states of prompts of several lengths, one stream of tokens."""
    torch.manual_seed(0)
    tokenizer = stand_in_chat_tokenizer(512)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    pipeline = ZImagePipeline(
        vae=_vae(
            16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
        ),
        text_encoder=Qwen3Model(Qwen3Config(vocab_size=len(tokenizer), **sizes, **heads)),
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=16,
            axes_dims=[4, 6, 6],
            axes_lens=[256, 8, 8],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    )
    return _write(pipeline, folder)


FAMILIES = {
    "sd15": sd15,
    "sd21-v": sd21_v,
    "sdxl": sdxl,
    "sd3": sd3,
    "sd35": sd35,
    "flux": flux,
    "z-image": z_image,
}
SETTINGS: dict[str, PipelineSettings] = {
    "sd15": SD15(),
    "sd21-v": SD21V(),
    "sdxl": SDXL(vae=None),
    "sd3": SD3Medium(t5_tokens=8),
    "sd35": SD35Medium(t5="off", t5_tokens=8),
    "flux": Flux(t5_tokens=8, resolution=64),
    "z-image": ZImage(text_tokens=40, resolution=64),
}


def settings(family: str, folder: Path) -> PipelineSettings:
    """The family's settings, for its random pipeline."""
    return SETTINGS[family].model_copy(update={"weights": str(folder)})


def load(family: str, folder: Path) -> LatentDiffusion:
    """The family's backbone as a run loads it."""
    return settings(family, folder).load(CPU, FLOAT)


def call_options(family: str) -> dict[str, int]:
    """What the stock pipeline's call needs besides prompts and the usual."""
    size = {"height": 64, "width": 64} if family in ("flux", "z-image") else {}
    lengths = {"sd3": 8, "sd35": 8, "flux": 8, "z-image": 40}
    return size | ({"max_sequence_length": lengths[family]} if family in lengths else {})


def stock_output(
    pipeline: DiffusionPipeline, family: str, latents: Tensor, output: str, steps: int, guidance: float
) -> Tensor:
    """What the stock pipeline makes of latents under PROMPTS and classifier-free guidance: "latent" or "pt"."""
    options = {"num_inference_steps": steps, "output_type": output, **call_options(family)}
    if family != "flux":
        scale = guidance - 1 if family == "z-image" else guidance
        return pipeline(list(PROMPTS), latents=latents, guidance_scale=scale, **options).images
    made = pipeline(  # what it calls guidance_scale is the distilled one
        PROMPTS,
        latents=pipeline._pack_latents(latents, *latents.shape),
        guidance_scale=3.5,
        true_cfg_scale=guidance,
        negative_prompt=[""] * len(PROMPTS),
        **options,
    ).images
    return pipeline._unpack_latents(made, 64, 64, 8) if output == "latent" else made


def stock(family: str, folder: Path) -> DiffusionPipeline:
    """The pipeline as diffusers loads it, in float32."""
    classes = {
        "sdxl": StableDiffusionXLPipeline,
        "sd3": StableDiffusion3Pipeline,
        "sd35": StableDiffusion3Pipeline,
        "flux": FluxPipeline,
        "z-image": ZImagePipeline,
    }
    no_t5 = {"text_encoder_3": None, "tokenizer_3": None} if family == "sd35" else {}
    pipeline = classes.get(family, StableDiffusionPipeline).from_pretrained(
        folder, use_safetensors=True, **no_t5
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _stable_diffusion(folder: Path, prediction: str, **unet) -> Path:
    torch.manual_seed(0)
    tokenizer = tiny_unet.tokenizer()
    pipeline = StableDiffusionPipeline(
        vae=_vae(4, scaling_factor=0.18215),
        text_encoder=CLIPTextModel(_clip(tokenizer)),
        tokenizer=tokenizer,
        unet=_unet(cross_attention_dim=16, **unet),
        scheduler=_ddim(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _write(pipeline, folder)


def _sd3(folder: Path, *, t5: bool, **transformer) -> Path:
    torch.manual_seed(0)
    tokenizer, t5_tokenizer = tiny_unet.tokenizer(), _t5_tokenizer() if t5 else None
    pipeline = StableDiffusion3Pipeline(
        vae=_vae(
            16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
        ),
        text_encoder=CLIPTextModelWithProjection(_clip(tokenizer, projection_dim=16)),
        text_encoder_2=CLIPTextModelWithProjection(_clip(tokenizer, projection_dim=24)),
        text_encoder_3=T5EncoderModel(_t5(t5_tokenizer)) if t5 else None,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=t5_tokenizer,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=40,
            caption_projection_dim=32,
            pooled_projection_dim=16 + 24,
            pos_embed_max_size=8,
            **transformer,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return _write(pipeline, folder)


def _write(pipeline: DiffusionPipeline, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder


def _vae(channels: int, **changes) -> AutoencoderKL:
    widths = (4, 4, 8, 8)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=widths,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=64,
        **changes,
    )


def _unet(**changes) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **changes,
    )


def _clip(tokenizer: CLIPTokenizer, **changes) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )


def _t5_tokenizer() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz"]
    return T5Tokenizer(vocab=[(piece, -float(place)) for place, piece in enumerate(pieces)], extra_ids=0)


def _t5(tokenizer: T5Tokenizer) -> T5Config:
    sizes = {"d_model": 40, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    return T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", **sizes)


def _ddim(prediction: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )
