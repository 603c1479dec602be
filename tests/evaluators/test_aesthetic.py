"""The aesthetic predictor: the real head's constants, which were taken of the released file by its affine collapse.

The head is found through $LPOBENCH_AESTHETIC_HEAD or as the asset `aesthetic`; those tests skip without it. Its CLIP is
the one of golden/make_clipscore.py.
"""

import os
from pathlib import Path

import made_scorers
import pytest
import torch
from safetensors.torch import save_file

from evaluators._clip.tower import tower
from evaluators._pixels import Preparation
from evaluators.aesthetic import read_head
from lpobench.data import assets
from lpobench.plugin import UserError
from lpobench.types import Prompt
from lpobench.weights import read_tensors

CPU, FLOAT = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def real_head():
    given = os.environ.get("LPOBENCH_AESTHETIC_HEAD")
    path = Path(given) if given else assets.look(assets.find("aesthetic"))[0]
    if path is None:
        pytest.skip("the released head is not here")
    return read_head(path, 768)


@torch.no_grad()
def test_the_released_heads_constants(real_head):
    """score(0) is the bias, score(e0) bias + w0; |w| from 768 unit vectors."""
    vectors = torch.zeros(4, 768)
    vectors[1, 0] = 1
    vectors[2] = 768**-0.5
    vectors[3] = torch.nn.functional.normalize(torch.arange(1, 769).double().sin(), dim=0)
    wanted = torch.tensor([5.236646, 4.545053, 4.883285, 5.483880])
    torch.testing.assert_close(real_head(vectors).squeeze(1), wanted, rtol=0, atol=2e-6)
    slopes = real_head(torch.eye(768)).squeeze(1) - real_head(vectors[:1]).squeeze(1)
    assert slopes.norm().item() == pytest.approx(17.995625, abs=1e-5)


@pytest.fixture
def small(tmp_path):
    return made_scorers.aesthetic(tmp_path)


@torch.no_grad()
def test_the_score_is_the_affine_map_of_the_unit_embedding(small):
    """W7 W6 W4 W2 W0 x + b, collapsed by hand."""
    images = made_scorers.images((303, 224), 0, 1)
    layers = read_tensors(Path(small.head))
    weight, bias = torch.eye(24, dtype=torch.float64), torch.zeros(24, dtype=torch.float64)
    for number in "02467":
        matrix = layers[f"layers.{number}.weight"].double()
        weight, bias = matrix @ weight, matrix @ bias + layers[f"layers.{number}.bias"].double()
    seen = tower(Path(small.clip), FLOAT, CPU).embed_images(images, Preparation(224, "floor"), 8)
    torch.testing.assert_close(seen.norm(dim=-1), torch.ones(2))
    wanted = (seen.double() @ weight.T + bias).squeeze(1).tolist()
    live = small.load(CPU, FLOAT)
    assert live.score(images, [Prompt("", "")] * 2)["aesthetic"].tolist() == pytest.approx(wanted, abs=1e-5)


def test_the_prompt_is_not_read(small):
    live, images = small.load(CPU, FLOAT), made_scorers.images((64, 64), 0)
    first, other = (live.score(images, [Prompt(text, "")])["aesthetic"][0] for text in ("a", "b"))
    assert first == other


def test_safetensors_will_do(small, tmp_path):
    file = tmp_path / "head.safetensors"
    save_file(read_tensors(Path(small.head)), file)
    assert made_scorers.table(small.model_copy(update={"head": str(file)})) == made_scorers.table(small)


def test_a_head_of_another_clip_is_refused(small):
    with pytest.raises(
        UserError, match=r"head\.pth does not fit: 0\.weight is 1024 x 24, should be 1024 x 768"
    ):
        read_head(Path(small.head), 768)
