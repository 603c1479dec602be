"""Colours against the official tool's classifier, open_clip's network, and its preparation of images."""

import made_geneval as made
import made_geneval_scorer
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from seeded import golden

from evaluators._pixels import Preparation
from evaluators.geneval import weights
from evaluators.geneval.colour import ColourClassifier, cut_out
from evaluators.geneval.rules import Found
from lpobench.data.geneval import COLOURS
from lpobench.plugin import UserError

GOLDEN = golden("geneval_rules")
WEIGHTS = made.clip_weights()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = made_geneval_scorer.clip(tmp_path_factory.mktemp("clip"))
    return ColourClassifier(weights.read_clip(folder, torch.device("cpu")))


def objects():
    for number, (name, box) in enumerate(made.COLOURED):
        yield made.picture(number), name, Found(np.float32(box), made.mask(box))


def test_the_logits_of_the_official_tool(classifier):
    """100 times the cosines, of GenEval's own cutting out, clip_benchmark's classifier and open_clip 2.20."""
    found = [classifier.cosines([cut_out(image, one)], name)[0] for image, name, one in objects()]
    np.testing.assert_allclose(100 * torch.stack(found).numpy(), GOLDEN["logits"], rtol=0, atol=1e-4)
    names = [classifier.name(image, [one], name) for image, name, one in objects()]
    assert names == [[colour] for colour in GOLDEN["colours"]]


def test_open_clip_with_quick_gelu_here_agrees_step_by_step(classifier):
    """Each step of the classifier on this version of open_clip; plain GELU gives other numbers."""
    vision = {"image_size": 224, "patch_size": 56, "width": 64, "layers": 2, "head_width": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    image, name, one = next(objects())
    crop = Image.fromarray(cut_out(image, one))
    pixels = open_clip.image_transform(224, is_train=False, mean=made.MEAN, std=made.STD)(crop)
    logits = {}
    for quick in (True, False):
        theirs = open_clip.CLIP(32, vision, text, quick_gelu=quick).eval()
        lost, left = theirs.load_state_dict(made.as_open_clip(WEIGHTS), strict=False)
        assert not lost, left
        with torch.no_grad():
            seen = torch.nn.functional.normalize(theirs.encode_image(pixels[None]), dim=-1)
            logits[quick] = torch.cat([seen @ colour_of(theirs, colour, name) for colour in COLOURS])
    own = classifier.cosines([np.array(crop)], name)[0]
    torch.testing.assert_close(own, logits[True], rtol=0, atol=1e-6)
    assert (own - logits[False]).abs().max() > 1e-4


def colour_of(model, colour, name):
    tokens = open_clip.get_tokenizer("ViT-L-14-quickgelu")
    texts = [
        f"a photo of a {colour} {name}",
        f"a photo of a {colour}-colored {name}",
        f"a photo of a {colour} object",
    ]
    each = model.encode_text(tokens(texts))
    mean = (each / each.norm(dim=-1, keepdim=True)).mean(0)
    return mean / mean.norm()


@pytest.mark.parametrize("size", [(224, 224), (40, 39), (1, 10), (301, 97), (225, 224)])
def test_pixels_are_open_clips_own(size):
    image = np.random.RandomState(0).randint(0, 256, (*size, 3), dtype=np.uint8)
    theirs = open_clip.image_transform(224, is_train=False, mean=made.MEAN, std=made.STD)(
        Image.fromarray(image)
    )
    own = Preparation(224, "round")(torch.from_numpy(image).movedim(-1, 0)[None] / 255)[0]
    torch.testing.assert_close(own, theirs, rtol=0, atol=1e-6)


def test_the_object_is_shown_on_grey_and_cut_out():
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    mask = np.zeros((4, 5), bool)
    mask[1, 1:4] = mask[2, 2] = True
    cut = cut_out(image, Found(np.float32([1, 1, 4, 3]), mask))
    assert cut.shape == (2, 3, 3)
    assert (cut[0] == image[1, 1:4]).all()
    assert (cut[1, 1] == image[2, 2]).all()
    assert (cut[1, [0, 2]] == 0x99).all()


def test_a_clip_that_is_not_openais_is_refused(tmp_path):
    with pytest.raises(UserError, match="is a CLIP with gelu; colours are named by OpenAI's ViT-L/14"):
        weights.read_clip(made_geneval_scorer.clip(tmp_path / "other", "gelu"), torch.device("cpu"))
