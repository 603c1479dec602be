"""The architectures of the embedded models, in stock diffusers and transformers classes."""

from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.trainers import BpeTrainer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from lpobench.data.shapes.scene import COLORS, COUNTS, RELATIONS, SHAPES, SIZES

LATENT_SPACE = "tiny-vae-f8c8"
TEXT_LENGTH, TEXT_WIDTH = 16, 128


def vae() -> AutoencoderKL:
    """64 x 64 pixels to 8 x 8 x 8 latents, 0.95 M parameters."""
    channels = (16, 32, 64, 64)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        latent_channels=8,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=1.0,
        mid_block_add_attention=False,
    )


def unet() -> UNet2DConditionModel:
    """6.1 M parameters on 8 x 8 x 8 latents; attention at both of the finer resolutions, as in SD1.5."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A three-layer CLIP text model, 0.6 M parameters."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def scheduler() -> DDIMScheduler:
    """The schedule of SD1.5, sampled as the LPO release samples it: 951, 901, ..., 1."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def words() -> list[str]:
    """Every word a shapes-world prompt can hold."""
    relations = {word for relation in RELATIONS for word in relation.split()}
    return [
        "a",
        "and",
        *sorted(relations),
        *SIZES,
        *COUNTS.values(),
        *SHAPES,
        *(f"{s}s" for s in SHAPES),
        *COLORS,
    ]


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A real byte-pair CLIP vocabulary in which every word of the grammar is one token; written to `folder`."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    learner = Tokenizer(BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(
        vocab_size=1000,
        initial_alphabet=list(letters),
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator([" ".join([*letters, *words()])], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    learner.model.save(str(folder))
    made = CLIPTokenizer.from_pretrained(folder, model_max_length=TEXT_LENGTH)
    made.save_pretrained(folder)
    return made
