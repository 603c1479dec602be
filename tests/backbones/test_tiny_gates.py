"""Every shipped embedded backbone passes the gates of its recipe, seen by a stock pipeline."""

import math
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline

from backbones.tiny import SHIPPED, gates
from lpobench import registry

NAMES = [name for name in registry.names("backbones") if name.startswith("tiny-")]
NUM = 90


@pytest.fixture(scope="module", params=NAMES)
def stock(request) -> DiffusionPipeline:
    without = {"text_encoder_3": None, "tokenizer_3": None} if request.param == "tiny-sd3" else {}
    return DiffusionPipeline.from_pretrained(SHIPPED / request.param, use_safetensors=True, **without)


def test_everything_embedded_is_under_80_megabytes():
    """Models, reward models and pairs; what is shared is a link and counts once."""
    folders = SHIPPED, SHIPPED.parent.parent / "rewards" / "weights"
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix not in (".py", ".pyc")]
    assert 60e6 < sum(file.stat().st_size for file in files if file.is_file() and not _linked(file)) < 80e6


def _linked(file: Path) -> bool:
    return any(part.is_symlink() for part in (file, *file.parents))


def test_vae_passes_its_gate(stock):
    assert gates.vae(stock.vae, num=150)["agreement"] >= gates.VAE_AGREEMENT


def test_base_passes_its_gate(stock):
    """20 steps, guidance 5, 90 held-out prompts. The recipe looks at 600: of the 30 prompts of one thing, chance may
    take two standard errors, 16 points. Of noise, the judge finds nothing correct.
    """
    seen = gates.base(stock, num=NUM, batch=NUM)
    error = math.sqrt(gates.SINGLE_CORRECT * (1 - gates.SINGLE_CORRECT) / (NUM / 3))
    assert gates.BASE_CORRECT[0] <= seen["correct"] <= gates.BASE_CORRECT[1]
    assert seen["single"] >= gates.SINGLE_CORRECT - 2 * error
