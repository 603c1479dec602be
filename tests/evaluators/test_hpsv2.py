"""HPSv2 against hpsv2x 1.2.0 (golden/make_hpsv2.py), with and without smoothing."""

import made_scorers
import numpy as np
import pytest
import seeded
import torch
from safetensors.torch import save_file

from evaluators._clip.hps import letterboxed
from evaluators._pixels import OPENAI_MEAN, OPENAI_STD, standardised
from evaluators.hpsv2 import HPSv2, HPSv21
from lpobench.plugin import UserError

CPU, FLOAT = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return made_scorers.hpsv2(tmp_path_factory.mktemp("hpsv2"))


@pytest.mark.parametrize("antialias", [True, False])
def test_equals_the_official_code(small, antialias):
    golden = seeded.golden("hpsv2")["antialias"]
    found = made_scorers.table(small.model_copy(update={"antialias": antialias}))
    np.testing.assert_allclose(found, golden[str(antialias).lower()], rtol=0, atol=1e-6)
    assert np.abs(np.subtract(golden["true"], golden["false"])).max() > 1e-2  # so the option is worth having


def test_the_two_versions_differ_in_weights_and_name():
    assert (HPSv2().weights, HPSv21().weights) == ("hpsv2", "hpsv2.1")
    assert list(HPSv2.metrics) == ["hpsv2"]
    assert list(HPSv21.metrics) == ["hpsv21"]


def black() -> torch.Tensor:
    return standardised(torch.zeros(1, 3, 1, 1), OPENAI_MEAN, OPENAI_STD)


def test_a_picture_that_fits_is_only_normalised():
    images = made_scorers.images((16, 16), 0)
    torch.testing.assert_close(
        letterboxed(images, 16, True), standardised(images, OPENAI_MEAN, OPENAI_STD), rtol=0, atol=0
    )


@pytest.mark.parametrize(
    ("size", "rows", "columns"), [((32, 14), (4, 11), (0, 16)), ((10, 64), (0, 16), (7, 9))]
)
def test_others_are_scaled_to_fit_between_black(size, rows, columns):
    """32 x 14 to 16 x 7, and 9 rows of black: 4 above. 10 x 64 to 2.5 x 16: round(2.5) = 2 columns, 7 on each side."""
    found = letterboxed(made_scorers.images(size, 0), 16, True)
    border = (found == black()).all(1)[0]
    assert found.shape == (1, 3, 16, 16)
    assert not border[slice(*rows), slice(*columns)].any()
    border[slice(*rows), slice(*columns)] = True
    assert border.all()


def test_a_wide_picture_of_the_right_length_gets_its_borders_too():
    """The released code leaves it as it is, and its model then refuses it."""
    found = letterboxed(made_scorers.images((16, 8), 0), 16, True)
    assert (found[:, :, :4] == black()).all()
    assert (found[:, :, 12:] == black()).all()


def test_resizing_overshoots_as_floats_do():
    """Bicubic weights are negative beside an edge; 8-bit pictures would be cut at white."""
    edge = torch.zeros(1, 3, 4, 4)
    edge[..., 2:] = 1
    white = standardised(torch.ones(1, 3, 1, 1), OPENAI_MEAN, OPENAI_STD)
    found = letterboxed(edge, 16, True)
    assert (found > white + 0.01).any()
    assert (found < black() - 0.01).any()


def test_text_attention_only_looks_back(small):
    from evaluators._clip.hps import read_model

    model = read_model(made_scorers.Path(small.weights), small.architecture)
    tokens = torch.randint(0, 1000, (1, 77), generator=torch.Generator().manual_seed(0))
    tokens[0, 5] = 49407  # the end, where it is read
    other = tokens.clone()
    other[0, 6:] = 7
    assert torch.equal(model.encode_text(tokens), model.encode_text(other))
    other[0, 4] = 7
    assert not torch.equal(model.encode_text(tokens), model.encode_text(other))


def test_bfloat16_is_near(small):
    half = made_scorers.table(small.model_copy(update={"dtype": "bfloat16"}))
    difference = np.abs(np.subtract(half, made_scorers.table(small)))
    assert 1e-5 < difference.max() < 0.05


def test_safetensors_of_other_places_will_do(small, tmp_path):
    golden = seeded.golden("hpsv2")
    state = {f"module.{name}": value for name, value in made_scorers.weights(golden).items()}
    torch.save(state, tmp_path / "bare.pt")
    save_file(made_scorers.weights(golden), tmp_path / "bare.safetensors")
    for name in ("bare.pt", "bare.safetensors"):
        found = made_scorers.table(small.model_copy(update={"weights": str(tmp_path / name)}))
        assert found == made_scorers.table(small)


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("spoil", ["evil", "cut", "lost", "size", "none", "architecture", "other"])
def test_files_that_do_not_fit_are_told_in_one_line(small, tmp_path, spoil, capfd):
    state = made_scorers.weights(seeded.golden("hpsv2"))
    file = tmp_path / "HPS.pt"
    told = {"evil": "cannot be read", "cut": "cannot be read", "none": "holds no weights by name"}
    told |= {"lost": r"logit_scale is missing \(1 in all\)", "size": "ln_final.bias is 1, should be 32"}
    told |= {"architecture": '"ViT-H-15" is neither a file nor', "other": "is no plain CLIP of open_clip"}
    if spoil == "lost":
        del state["logit_scale"]
    if spoil == "size":
        state["ln_final.bias"] = torch.ones(1)
    torch.save({"state_dict": Evil() if spoil == "evil" else {} if spoil == "none" else state}, file)
    if spoil == "cut":
        file.write_bytes(file.read_bytes()[:2000])
    made_scorers.write_json(
        tmp_path / "coca.json", {**seeded.golden("hpsv2")["config"], "multimodal_cfg": {}}
    )
    names = {"architecture": "ViT-H-15", "other": str(tmp_path / "coca.json")}
    settings = HPSv2(weights=str(file), architecture=names.get(spoil, small.architecture))
    with pytest.raises(UserError, match=told[spoil]) as caught:
        settings.load(CPU, FLOAT)
    assert "\n" not in str(caught.value)
    assert "run" not in capfd.readouterr().out
