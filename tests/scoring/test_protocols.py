"""Protocols are what their sources say, fix what they fix, and draw the noise that they name."""

import pytest
import torch
from painted import generate

from lpobench.plugin import UserError
from lpobench.scoring import protocols
from lpobench.scoring.generate import STARTS
from lpobench.spec import EvalSettings
from lpobench.types import Prompt

PROMPTS = [Prompt("0.5", "a"), Prompt("-1", "b")]
MINE = EvalSettings(prompts="mine.txt", images_per_prompt=2, num_steps=7, guidance_scale=3.0, seed=9)


def rules(protocol, backbone="sd15", weights="none", **chosen):
    given = MINE.model_copy(update=chosen)
    made = protocols.find(protocol).settings(given, backbone, weights, chosen)
    return made.prompts, made.images_per_prompt, made.num_steps, made.guidance_scale, made.seed


def test_the_standard_is_the_users():
    assert rules("standard@1") == ("mine.txt", 2, 7, 3.0, 9)
    assert protocols.find("standard@1").fixed() == set()


@pytest.mark.parametrize(
    ("backbone", "weights", "guidance"),
    [
        ("sd15", "none", 7.5),
        ("sd15", "dpo-sd15", 7.5),
        ("sd15", "spo-sd15", 5.0),
        ("sd15", "lpo-sd15", 5.0),
        ("sd15", "my-lora", 5.0),
        ("sdxl", "none", 5.0),
        ("sdxl", "dpo-sdxl", 5.0),
    ],
)
def test_the_papers_guidance_is_mixed_as_released(backbone, weights, guidance):
    assert rules("lpo-paper@1", backbone, weights) == ("pickapic-v1-prompts", 4, 20, guidance, 42)


def test_the_paper_scores_the_first_of_four():
    paper = protocols.find("lpo-paper@1")
    assert list(paper.indices(4)) == [0]
    assert (paper.noise, paper.schedule) == ("torch", "sdxl")
    assert list(protocols.find("standard@1").indices(4)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("protocol", "backbone", "expected"),
    [
        ("geneval@1", "sdxl", ("geneval", 4, 50, 9.0, 42)),
        ("t2i-compbench@1", "sd15", ("t2i_compbench", 10, 30, 7.5, 42)),
        ("t2i-compbench@1", "sdxl", ("t2i_compbench", 10, 30, 5.0, 42)),
        ("t2i-compbench@1", "sd3", ("t2i_compbench", 10, 30, 7.0, 42)),
        ("t2i-compbench@1", "z-image", ("t2i_compbench", 10, 30, 6.0, 42)),
        ("geneval@1", "flux", ("geneval", 4, 50, 1.0, 42)),
        ("hpsv2@1", "sd15", ("hpdv2-prompts", 1, 50, 7.5, 0)),
    ],
)
def test_benchmarks(protocol, backbone, expected):
    assert rules(protocol, backbone) == expected


def test_what_is_fixed_cannot_be_chosen():
    with pytest.raises(
        UserError, match=r"protocol geneval@1 fixes num_steps, seed; use --protocol standard@1"
    ):
        rules("geneval@1", seed=1, num_steps=20)
    with pytest.raises(UserError, match="protocol hpsv2@1 fixes prompts"):
        rules("hpsv2@1", prompts="shapes")
    assert rules("hpsv2@1", prompts="hpdv2-prompts/anime")[0] == "hpdv2-prompts/anime"
    assert rules("t2i-compbench@1", prompts="t2i_compbench.color")[0] == "t2i_compbench.color"


def test_an_unknown_one_is_answered_with_the_versions():
    with pytest.raises(
        UserError, match=r'unknown protocol "geneval"; did you mean "geneval@1"\? known: standard@1'
    ):
        protocols.find("geneval")


def test_suites_have_their_protocols():
    assert protocols.of_suite(None).id == "standard@1"
    assert protocols.of_suite("geneval").id == "geneval@1"
    assert protocols.of_suite("t2i_compbench").id == "t2i-compbench@1"
    with pytest.raises(UserError, match='no protocol for the suite "x"'):
        protocols.of_suite("x")


@pytest.mark.parametrize("name", protocols.protocols())
def test_every_row_says_what_it_is(name):
    row = protocols.find(name)
    assert row.means.endswith(".")
    assert name == protocols.STANDARD or row.limits, "what cannot be reproduced exactly is said"


def starts(policy, noise, prompts, indices, **changes):
    settings = EvalSettings(**{"images_per_prompt": 4, "seed": 42, "num_steps": 6, **changes})
    return STARTS[noise](policy, prompts, indices, settings).latents


def test_torch_noise_is_that_of_a_pipeline_seeded_for_each_prompt(make_policy):
    """num_images_per_prompt=4 draws one tensor of four; every prompt starts from the same."""
    policy = make_policy()
    four = torch.randn((4, *policy.backbone.latent_shape), generator=torch.Generator().manual_seed(42))
    drawn = starts(policy, "torch", [PROMPTS[0], PROMPTS[1], PROMPTS[1]], [0, 0, 3])
    assert torch.equal(drawn, four[[0, 0, 3]])


def test_torch_noise_per_image(make_policy):
    policy = make_policy()
    drawn = starts(policy, "torch-per-image", PROMPTS, [0, 3])
    for index, found in zip((0, 3), drawn, strict=True):
        generator = torch.Generator().manual_seed(42 + index)
        assert torch.equal(found[None], torch.randn((1, *policy.backbone.latent_shape), generator=generator))


def test_noise_by_prompt_differs_by_prompt_and_torchs_does_not(make_policy):
    policy = make_policy()
    same = [torch.equal(*starts(policy, noise, PROMPTS, [0, 0])) for noise in STARTS]
    assert dict(zip(STARTS, same, strict=True)) == {"prompt": False, "torch": True, "torch-per-image": True}


def test_images_are_made_of_that_noise(make_policy):
    """The Gaussian backbone moves noise by the prompt alone: one noise gives one image per prompt text."""
    settings = EvalSettings(num_steps=6, guidance_scale=1.0, images_per_prompt=1, seed=42)
    twice = [Prompt("0.5", "a"), Prompt("0.5", "b")]
    (batch,) = generate(make_policy(), twice, settings, reference=False, noise="torch")
    assert torch.equal(batch.images[0], batch.images[1])
    (batch,) = generate(make_policy(), twice, settings, reference=False)
    assert not torch.equal(batch.images[0], batch.images[1])
