"""lpo-paper@1 makes the image that the released evaluation makes, as far as a CPU can tell: by the stock pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from painted import generate

import backbones.tiny
from backbones.tiny import TinySD15
from lpobench.sampling import Policy
from lpobench.scoring import protocols
from lpobench.scoring.evaluate import to_bytes
from lpobench.spec import EvalSettings, SamplingSettings
from lpobench.types import Prompt

TEXT = "a red circle left of a blue square"
FOLDER = Path(backbones.tiny.__file__).parent / "tiny-sd15"


@pytest.fixture(scope="module")
def stock():
    """The first of four images of a pipeline whose generator is seeded with 42 for this prompt; 4 steps."""
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(42)
    images = pipeline(
        TEXT,
        num_images_per_prompt=4,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=generator,
        output_type="np",
    ).images
    return (images[0] * 255).round().astype(int)


def test_the_first_image_is_the_stock_pipelines(stock):
    """Up to two of 255 levels: our step is the same formula in another order of operations."""
    paper = protocols.find("lpo-paper@1")
    settings = paper.settings(EvalSettings(), "tiny-sd15", "none").model_copy(update={"num_steps": 4})
    assert (settings.seed, settings.images_per_prompt, settings.guidance_scale) == (42, 4, 5.0)
    backbone = TinySD15().load(torch.device("cpu"), torch.float32)
    policy = Policy(backbone, SamplingSettings())
    (batch,) = generate(policy, [Prompt(TEXT, "any")], settings, reference=True, noise=paper.noise)
    ours = to_bytes(batch.images).astype(int)
    assert np.abs(ours[0] - stock).max() <= 2
    assert np.abs(ours[1] - stock).max() > 20, "the second has noise of its own"
