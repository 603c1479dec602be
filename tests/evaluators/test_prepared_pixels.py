"""Pictures as the scorers' released code prepares them: against transformers' PIL backend and torchvision."""

import made_scorers
import numpy as np
import pytest
import seeded
import torch
from PIL import Image
from torchvision import transforms
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from evaluators._flant5.network import squared
from evaluators._pixels import OPENAI_MEAN, OPENAI_STD, Preparation, to_bytes
from lpobench.plugin import UserError

ODD = [(303, 224), (224, 227), (500, 231), (97, 150), (224, 224), (30, 224)]
SEEDS = range(2)


@pytest.mark.parametrize("size", ODD)
def test_floor_is_transformers_way(size):
    found = Preparation(224, "floor")(made_scorers.images(size, *SEEDS))
    pictures = [Image.fromarray(seeded.picture(*size, seed=seed)) for seed in SEEDS]
    wanted = CLIPImageProcessorPil()(pictures, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-7)


@pytest.mark.parametrize("size", ODD)
def test_round_is_torchvisions_way(size):
    released = transforms.Compose(
        [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(OPENAI_MEAN, OPENAI_STD),
        ]
    )
    found = Preparation(224, "round")(made_scorers.images(size, *SEEDS))
    wanted = [released(Image.fromarray(seeded.picture(*size, seed=seed))) for seed in SEEDS]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=0, atol=0)


def test_the_two_ways_part_at_a_remainder_of_three():
    """227 - 224 = 3: floor 1, and 1.5 to the even side, 2. 225: 0 and round(0.5) = 0."""
    floor, even = Preparation(224, "floor"), Preparation(224, "round")
    assert floor.geometry(227, 224) == ((224, 227), (0, 1, 224, 225))
    assert even.geometry(227, 224) == ((224, 227), (0, 2, 224, 226))
    assert floor.geometry(224, 225) == even.geometry(224, 225) == ((225, 224), (0, 0, 224, 224))


def test_a_resized_long_side_is_cut_down_to_a_whole_number():
    """224 * 333 / 200 = 372.96: 372."""
    assert Preparation(224, "floor").geometry(333, 200)[0] == (224, 372)


def test_pixels_go_back_to_the_bytes_they_came_from():
    every = torch.arange(256, dtype=torch.float32).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    assert (to_bytes(every)[0, ..., 0].ravel() == np.arange(256)).all()


@pytest.mark.parametrize(
    ("size", "box"), [((6, 3), (0, 1, 6, 4)), ((2, 5), (1, 0, 3, 5)), ((4, 4), (0, 0, 4, 4))]
)
def test_vqascore_pads_to_a_square_of_the_mean_colour(size, box):
    """int(255 * mean) = 122, 116, 104; the odd pixel goes right and below."""
    picture = made_scorers.images(size, 0)
    square = to_bytes(squared(picture, OPENAI_MEAN))[0]
    wanted = np.full((max(size), max(size), 3), (122, 116, 104), np.uint8)
    left, top, right, bottom = box
    wanted[top:bottom, left:right] = seeded.picture(*size)
    assert (square == wanted).all()


def test_mean_and_std_are_the_folders(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    assert Preparation.read(file, 224, "floor") == Preparation(224, "floor")
    made_scorers.write_json(file, {"image_mean": [0.5] * 3, "image_std": [0.25] * 3})
    prepare = Preparation.read(file, 4, "floor")
    assert prepare(torch.ones(1, 3, 4, 4)).unique().tolist() == [2.0]  # (1 - 0.5) / 0.25
    made_scorers.write_json(file, {"image_mean": 0.5})
    with pytest.raises(UserError, match="gives no image_mean and image_std"):
        Preparation.read(file, 4, "floor")
