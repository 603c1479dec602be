"""What a live DiNa-LRM scores: latents at which noise, under which encoding, told on which scale."""

import made_dina
import made_pipelines
import pytest
import tiny_unet
import torch
from made_dina import CPU, PROMPTS, latents

from lpobench.plugin import UserError
from lpobench.sampling import Noisy
from lpobench.types import RewardModel
from rewards.dina import DiNa
from rewards.dina.noise import draw, nearest, raise_to, shifted_grid
from rewards.dina.text import Prompts

FLOAT = torch.float32


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return made_dina.around(made_pipelines.sd35(tmp_path_factory.mktemp("sd35")))


@pytest.fixture(scope="module")
def model(backbone):
    return made_dina.model(backbone)


@pytest.fixture(scope="module")
def folder(backbone, model, tmp_path_factory):
    return made_dina.folder_of(model, backbone, tmp_path_factory.mktemp("dina"))


@pytest.fixture
def load(backbone, folder):
    return lambda dtype=FLOAT, **settings: DiNa(weights=folder, **settings).load(backbone, CPU, dtype)


@pytest.fixture(scope="module")
def policy(backbone):
    return made_dina.policy(backbone, adapter=False)


@pytest.fixture
def noisy(backbone, policy):
    """Rows of different prompts and levels."""
    x, t = latents(backbone, 4), torch.tensor([100.0, 400.0, 700.0, 1000.0])
    return lambda rows=slice(None): Noisy(x[rows], t[rows], PROMPTS[:4][rows], policy)


@pytest.fixture
def finished(backbone, policy):
    x = latents(backbone, 4)
    return lambda rows=slice(None): Noisy.finished(x[rows], PROMPTS[:4][rows], policy)


def by_hand(model, backbone, x, sigma, prompts) -> torch.Tensor:
    """One pass of the network at given latents and levels."""
    text = backbone.encode_prompt(prompts)
    with torch.no_grad():
        tapped = model.trunk(x, 1000 * sigma, text.prompt_embeds, text.pooled)
        return model.head.decode(*model.head.tokens(tapped))


def test_keeps_the_contract(load, noisy, finished):
    reward = load()
    assert isinstance(reward, RewardModel)
    assert reward.differentiable
    for rows in (noisy(), finished()):
        with torch.no_grad():
            scores = reward.score(rows)
        assert (scores.shape, scores.dtype) == ((4,), torch.float32)
        assert scores.isfinite().all()
        assert scores.unique().numel() == 4


def test_noisy_latents_are_scored_as_they_are_at_their_own_level(load, noisy, model, backbone):
    rows = noisy()
    expected = by_hand(model, backbone, rows.latents, rows.t / 1000, rows.prompts)
    torch.testing.assert_close(load().score(rows), expected)


def test_finished_latents_get_seeded_noise_of_the_level(load, finished, model, backbone):
    """0.4 as published for generated ones: 0.6 x + 0.4 eps at t = 400. At level 0 they are seen as they are."""
    rows, level = finished(), torch.full((4,), 0.4)
    noise = draw(rows.prompts, rows.latents.shape[1:], 1, seed=0)[0]
    expected = by_hand(model, backbone, 0.6 * rows.latents + 0.4 * noise, level, rows.prompts)
    torch.testing.assert_close(load().score(rows), expected)
    bare = by_hand(model, backbone, rows.latents, torch.zeros(4), rows.prompts)
    torch.testing.assert_close(load(level=0.0).score(rows), bare)


def test_scores_are_numbers_not_draws(load, finished):
    """The same in every process, whatever the global generator does; another seed or level is another score."""
    scores = []
    for state in (0, 1):
        torch.manual_seed(state)
        scores.append(load().score(finished()))
    assert torch.equal(*scores)
    for other in (load(seed=1), load(level=0.1)):
        assert not torch.allclose(other.score(finished()), scores[0])


@pytest.mark.parametrize("ensemble", ["off", "all"])
def test_rows_do_not_depend_on_their_neighbours(load, noisy, finished, ensemble):
    reward = load(ensemble=ensemble)
    for rows in (noisy, finished):
        together = reward.score(rows())
        apart = torch.cat([reward.score(rows(slice(i, i + 1))) for i in range(4)])
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)


def test_candidates_of_a_prompt_share_their_noise():
    noise = draw(["a", "b", "a"], torch.Size([2, 3, 3]), 2, seed=0)
    assert noise.shape == (2, 3, 2, 3, 3)
    assert torch.equal(noise[:, 0], noise[:, 2])
    assert not torch.equal(noise[:, 0], noise[:, 1])
    assert not torch.equal(noise[0], noise[1])


def test_raising_the_noise_keeps_the_path():
    """From sigma 0.2 to 0.6: the image's share halves, 0.8 -> 0.4, its noise too, 0.2 -> 0.1, and what is missing to
    0.6 is added: sqrt(0.36 - 0.01). At or above the level nothing happens."""
    ones = torch.ones(4, 1, 1, 1)
    sigma = torch.tensor([0.2, 0.0, 0.6, 1.0])
    image, reached = raise_to(ones, sigma, 0.6, 0 * ones)
    added, _ = raise_to(0 * ones, sigma, 0.6, ones)
    assert reached.tolist() == pytest.approx([0.6, 0.6, 0.6, 1.0])
    assert image.flatten().tolist() == pytest.approx([0.5, 0.4, 1.0, 1.0])
    assert added.flatten().tolist() == pytest.approx([0.35**0.5, 0.6, 0.0, 0.0])


def test_the_shifted_grid_is_the_backbones():
    """3 s / (1 + 2 s) of s = 0.001, 0.5 and 1; a level's nearest neighbours."""
    grid = shifted_grid(3.0)
    assert (len(grid), grid[0].item(), grid[499].item(), grid[-1].item()) == pytest.approx(
        (1000, 0.003 / 1.002, 0.75, 1)
    )
    assert nearest(torch.tensor([0.0, 0.7502, 0.9999]), grid).tolist() == pytest.approx(
        [0.003 / 1.002, 0.75, 1.0]
    )


def test_an_ensemble_is_its_passes_tokens_end_to_end(load, finished, model, backbone):
    """Three levels of noise, three forwards of the trunk, one of the head; not a mean of three scores."""
    rows, levels = finished(), (0.2, 0.5, 0.7)
    noise = draw(rows.prompts, rows.latents.shape[1:], 3, seed=0)
    text, tokens, apart = backbone.encode_prompt(rows.prompts), [], []
    with torch.no_grad():
        for level, eps in zip(levels, noise, strict=True):
            shown = (1 - level) * rows.latents + level * eps
            tapped = model.trunk(shown, torch.full((4,), 1000 * level), text.prompt_embeds, text.pooled)
            tokens.append(model.head.tokens(tapped))
            apart.append(model.head.decode(*tokens[-1]))
        visual, words = (torch.cat(parts, 1) for parts in zip(*tokens, strict=True))
        expected = model.head.decode(visual, words)
    found = load(ensemble="clean").score(rows)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, sum(apart) / 3, atol=1e-4)


def test_an_ensemble_of_one_level_is_that_level(load, finished):
    one = load(ensemble="clean", ensemble_levels=(0.4,)).score(finished())
    torch.testing.assert_close(one, load().score(finished()))


def test_steps_are_seen_once_unless_asked(load, noisy):
    """`clean` leaves them alone; `all` raises them to what is above their own level."""
    plain = load().score(noisy())
    assert torch.equal(load(ensemble="clean").score(noisy()), plain)
    raised = load(ensemble="all").score(noisy())
    assert not torch.allclose(raised[:3], plain[:3], atol=1e-4)
    torch.testing.assert_close(raised[3], plain[3])  # pure noise: three times the same pass


def test_scales(load, finished):
    """(raw + 10) / 10; a logistic of centre 0 and slope 1 / 0.15 between -2 and 2."""
    raw = load().score(finished())
    torch.testing.assert_close(load(reported=True).score(finished()), (raw + 10) / 10)
    bounded = 4 / (1 + torch.exp(-raw / (0.15 + 1e-6))) - 2
    torch.testing.assert_close(load(logistic=True).score(finished()), bounded, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_latents_at_every_level(load, backbone, policy):
    for reward in (load(), load(ensemble="all")):
        for clean in (True, False):
            x = latents(backbone, 2).requires_grad_(True)
            t = torch.zeros(2) if clean else torch.tensor([300.0, 800.0])
            reward.score(Noisy(x, t, PROMPTS[:2], policy, clean=clean)).sum().backward()
            assert (x.grad.flatten(1).abs().sum(1) > 0).all()


def test_a_gradient_is_the_scores_slope(load, backbone, policy):
    """Central difference along one direction."""
    reward, x, step = load(), latents(backbone, 1), 1e-2 * latents(backbone, 1, seed=9)
    moved = x.clone().requires_grad_(True)
    reward.score(Noisy.finished(moved, ["a"], policy)).backward()
    with torch.no_grad():
        up, down = (reward.score(Noisy.finished(x + s * step, ["a"], policy)) for s in (1, -1))
    assert (moved.grad * step).sum().item() == pytest.approx(((up - down) / 2).item(), rel=0.02, abs=1e-5)


def test_the_adapter_merged_into_a_copy_scores_the_same(load, noisy, finished):
    for rows in (noisy(), finished()):
        torch.testing.assert_close(load(shared=False).score(rows), load().score(rows), atol=1e-5, rtol=1e-4)


def test_bfloat16_scores_are_close_and_the_head_stays_exact(load, noisy, model):
    reward = load(torch.bfloat16, shared=False)
    assert reward.model.trunk.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in reward.model.head.parameters()} == {torch.float32}
    scores, exact = reward.score(noisy()), load().score(noisy())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, exact, atol=0.1, rtol=0.05)


def test_prompts_are_encoded_once_alone_and_forgotten_when_there_is_no_room(backbone, monkeypatch):
    asked, encode = [], backbone.encode_prompt
    monkeypatch.setattr(backbone, "encode_prompt", lambda prompts: asked.append(prompts) or encode(prompts))
    size = sum(value.nbytes for value in vars(encode(["a"])).values())
    prompts = Prompts(backbone, room=2 * size)
    rows = prompts(["a", "b", "a"])
    assert asked == [["a"], ["b"]]
    torch.testing.assert_close(rows.prompt_embeds, encode(["a", "b", "a"]).prompt_embeds)
    prompts(["c", "a"])  # b is the oldest, then a
    assert asked[2:] == [["c"]]
    assert list(prompts.known) == ["c", "a"]


def test_a_policy_of_the_backbone_is_asked_for_its_encodings(load, backbone, monkeypatch, finished, policy):
    """It remembers them after the text encoders are gone."""
    policy.remember(PROMPTS)
    expected = load().score(finished())
    monkeypatch.setattr(backbone, "encode_prompt", None)
    assert torch.equal(load().score(finished()), expected)


def test_wrong_backbones_are_refused_in_one_line(folder, backbone, tmp_path):
    """Another latent space; a UNet in the same one; an SD3 transformer of other weights."""
    unet = tiny_unet.backbone()
    with pytest.raises(
        UserError, match=r"^reward dina reads latents of sd3-vae-f8c16, backbone tiny-test makes test-f8c4$"
    ):
        DiNa(weights=folder).load(unet, CPU, FLOAT)
    unet.latent_space = "sd3-vae-f8c16"
    message = r"^reward dina looks through an SD3 transformer, backbone tiny-test is a UNet2DConditionModel$"
    with pytest.raises(UserError, match=message):
        DiNa(weights=folder).load(unet, CPU, FLOAT)
    with pytest.raises(UserError, match=message):
        DiNa().train(unet, tmp_path, seed=0, device=CPU, dtype=FLOAT)
    other = made_pipelines.load("sd3", made_pipelines.sd3(tmp_path / "sd3"))
    with pytest.raises(UserError, match=r"^this DiNa-LRM adapts the weights of sd35, the backbone is sd3$"):
        DiNa(weights=folder).load(other, CPU, FLOAT)


def test_text_it_was_not_trained_on(backbone, model, tmp_path, caplog, monkeypatch):
    """With T5 and without are different texts; another length of T5's is only said."""
    settings = DiNa(weights=made_dina.folder_of(model, backbone, tmp_path))
    config = settings.config
    assert config.t5_tokens == 0
    (tmp_path / "config.json").write_text(config.model_copy(update={"t5_tokens": 8}).model_dump_json())
    with pytest.raises(UserError, match=r"^this DiNa-LRM was trained with T5; set backbone\.t5 to device$"):
        settings.load(backbone, CPU, FLOAT)
    monkeypatch.setattr(backbone, "text_encoder_3", "one")
    settings.load(backbone, CPU, FLOAT)
    assert not caplog.messages
    monkeypatch.setattr(backbone, "t5_tokens", 16)
    settings.load(backbone, CPU, FLOAT)
    assert caplog.messages == ["reward dina was trained on 8 tokens of T5, backbone.t5_tokens is 16"]
    (tmp_path / "config.json").write_text(config.model_dump_json())
    with pytest.raises(UserError, match=r"^this DiNa-LRM was trained without T5; set backbone\.t5 to off$"):
        settings.load(backbone, CPU, FLOAT)
