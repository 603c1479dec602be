"""The LRM on an SD1.5-like UNet against LPO sec. 4.1 and the released LRM-1.5; and its folder."""

from types import SimpleNamespace

import pytest
import tiny_unet
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from lpobench.plugin import UserError
from rewards.lrm import LRMConfig
from rewards.lrm.blocks import UNetBlocks, empty_unet
from rewards.lrm.folder import load, save
from rewards.lrm.live import LatentReward
from rewards.lrm.model import LatentRewardModel, TextFeatures
from rewards.lrm.noise import NoiseMap
from rewards.lrm.text import ClipText

SAME = NoiseMap(tiny_unet.backbone().schedule, is_flow=False)
SD15 = {
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "sample_size": 64,
}


ROWS = torch.arange(3)


@pytest.fixture(scope="module")
def backbone() -> SimpleNamespace:
    return tiny_unet.backbone((16, 32, 48))


@pytest.fixture
def model(backbone) -> LatentRewardModel:
    torch.manual_seed(0)
    return LatentRewardModel.from_backbone(backbone, vfe_scale=7.5).eval()


@pytest.fixture
def rows(model):
    """Three noisy latents, their timesteps, prompts' encodings, the null encoding."""
    noisy = tiny_unet.noisy(["red", "blue", "red"])
    with torch.no_grad():
        text = model.encode_prompts([*noisy.prompts, ""])
    return noisy.latents, torch.tensor([1.0, 401.0, 951.0]), text.rows(ROWS), text.rows(3)


def config(**values) -> LRMConfig:
    space = {"backbone": "tiny-test", "latent_space": tiny_unet.LATENT_SPACE, "vfe_scale": 7.5}
    return LRMConfig(**space, feature_dim=144, projection_dim=16, **values)


def test_sd15_dimensions():
    """320 + 640 + 1280 + 1280 from the down blocks, 1280 from the mid block: 4800, projected to 768."""
    with torch.device("meta"):
        text_encoder = CLIPTextModel(
            CLIPTextConfig(hidden_size=768, num_hidden_layers=1, intermediate_size=8)
        )
        blocks, text = UNetBlocks(empty_unet(SD15)), ClipText(text_encoder, None)
        model = LatentRewardModel(blocks, text, vfe_scale=7.5)
        latents = torch.empty(2, 4, 64, 64)
        text = TextFeatures(torch.empty(2, 77, 768), torch.empty(2, 768), torch.empty(2, 768))
        features = model.visual_features(latents, torch.empty(2), text, text.rows(0))
    assert features.shape == (2, 4800)
    assert model.visual_projection.weight.shape == (768, 4800)
    assert model.text_projection.weight.shape == (768, 768)


def test_initial_values(model):
    """exp(2.6592) = 14.285, CLIP's 1 / 0.07; the visual projection is N(0, 0.02^2) without bias."""
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07, abs=1e-3)
    assert model.visual_projection.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.visual_projection.bias is None
    assert model.text_projection.bias is None


def hooked_features(unet, latents, t, context) -> list[torch.Tensor]:
    """A full pass: pooled outputs of each down block's last layer before its downsampler, and of mid."""
    layers = [(getattr(block, "attentions", None) or block.resnets)[-1] for block in unet.down_blocks]
    seen = []

    def take(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(take) for layer in [*layers, unet.mid_block]]
    with torch.no_grad():
        unet(latents, t, context)
    for hook in hooks:
        hook.remove()
    return [feature.mean((2, 3)) for feature in seen]


@torch.no_grad()
def test_features_are_those_of_the_full_unet_before_the_downsamplers(model, backbone, rows):
    """g = 1 is the text branch alone: what hooks see in the backbone's own forward pass."""
    model.vfe_scale = 1.0
    latents, t, text, null = rows
    expected = torch.cat(hooked_features(backbone.unet, latents, t, text.context), 1)
    assert expected.shape == (3, 16 + 32 + 48 + 48)
    torch.testing.assert_close(model.visual_features(latents, t, text, null), expected)


@torch.no_grad()
def test_vfe_guides_the_mid_feature_only(model, backbone, rows):
    """v_mid = null + 7.5 (text - null), down features from the text branch (eq. 8)."""
    latents, t, text, null = rows
    *down, text_mid = hooked_features(backbone.unet, latents, t, text.context)
    null_mid = hooked_features(backbone.unet, latents, t, null.context.expand(3, -1, -1))[-1]
    expected = torch.cat([*down, null_mid + 7.5 * (text_mid - null_mid)], 1)
    torch.testing.assert_close(model.visual_features(latents, t, text, null), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("vfe_scale", "expected"), [(7.5, 6), (1.0, 3)])
def test_text_and_null_rows_share_one_pass(model, rows, vfe_scale, expected):
    """One call of each block; text rows first, then null rows; without guidance half the rows."""
    model.vfe_scale, contexts = vfe_scale, []

    def note(module, args, kwargs):
        contexts.append(kwargs["encoder_hidden_states"])

    model.blocks.unet.mid_block.register_forward_pre_hook(note, with_kwargs=True)
    latents, t, text, null = rows
    model.visual_features(latents, t, text, null)
    assert [len(seen) for seen in contexts] == [expected]
    assert torch.equal(contexts[0][:3], text.context)
    assert all(torch.equal(row, null.context) for row in contexts[0][3:])


def test_what_no_text_has_a_part_in_is_computed_once_per_latent(model, rows):
    """Three rows, and the same three under "": the first block meets a text only after its self-attention."""
    first, seen = model.blocks.unet.down_blocks[0].resnets[0].conv1, []
    first.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    with_gradients = model(*rows)
    with torch.no_grad():
        scores = model(*rows)
    assert seen == [6, 3]
    torch.testing.assert_close(scores, with_gradients.detach(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_score_is_the_scaled_cosine(model, rows):
    latents, t, text, null = rows
    features = model.visual_projection(model.visual_features(latents, t, text, null))
    cosine = torch.nn.functional.cosine_similarity(features, text.direction)
    torch.testing.assert_close(model(latents, t, text, null), model.logit_scale.exp() * cosine)


def test_nothing_is_carried_that_no_score_depends_on(model, rows):
    """Every parameter gets a gradient: up blocks and output layers are gone, everything else is trainable."""
    latents, t, _, _ = rows
    text = model.encode_prompts(["red", "blue", "red", ""])
    model(latents, t, text.rows(ROWS), text.rows(3)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not [name for name, _ in model.named_parameters() if "up_blocks" in name or "conv_out" in name]


def test_starting_from_a_backbone_leaves_it_alone(backbone):
    before = {key: value.clone() for key, value in backbone.unet.state_dict().items()}
    model = LatentRewardModel.from_backbone(backbone, 7.5)
    with torch.no_grad():
        [parameter.add_(1) for parameter in model.parameters()]
    assert all(torch.equal(value, before[key]) for key, value in backbone.unet.state_dict().items())


def test_only_unets_and_mmdits_have_an_lrm():
    with pytest.raises(UserError, match="backbone gaussian has neither"):
        LatentRewardModel.from_backbone(SimpleNamespace(name="gaussian"), 7.5)


def test_a_unet_has_no_layer_to_choose_and_released_text_encoders_are_missed(backbone):
    with pytest.raises(UserError, match=r"training\.layer 2: only an MMDiT"):
        LatentRewardModel.from_backbone(backbone, 7.5, layer=2)
    released = SimpleNamespace(**(vars(backbone) | {"text_encoder": None}))
    with pytest.raises(UserError, match="has released its text encoders"):
        LatentRewardModel.from_backbone(released, 7.5)


def test_folder_round_trip_is_bit_exact(model, tmp_path):
    save(model, tmp_path, config(), torch.float32)
    state = torch.random.get_rng_state()
    back = load(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert back.vfe_scale == 7.5
    weights = back.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    noisy = tiny_unet.noisy(["red", "a star"])
    before, after = (LatentReward(lrm.eval(), "any", SAME).score(noisy) for lrm in (model, back))
    assert torch.equal(before, after)


def test_folder_holds_the_trunk_only_and_no_pickle(model, tmp_path):
    save(model, tmp_path, config(), torch.float16)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [file for file in files if file.endswith((".bin", ".pt"))]
    unet = load_file(tmp_path / "unet/diffusion_pytorch_model.safetensors")
    assert {key.split(".")[0] for key in unet} == {"conv_in", "time_embedding", "down_blocks", "mid_block"}
    assert {value.dtype for value in unet.values()} == {torch.float16}
    head = load_file(tmp_path / "head.safetensors")
    assert head.keys() == {"visual_projection.weight", "text_projection.weight", "logit_scale"}
    assert {value.dtype for value in head.values()} == {torch.float32}


@pytest.mark.parametrize(
    "file", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "head.safetensors"]
)
def test_a_broken_file_is_named_in_one_line(model, tmp_path, file):
    save(model, tmp_path, config(), torch.float32)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:100])
    with pytest.raises(UserError, match=file) as raised:
        load(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["unet/diffusion_pytorch_model.safetensors", "head.safetensors"])
def test_weights_of_another_shape_are_refused(model, tmp_path, file):
    other = LatentRewardModel.from_backbone(tiny_unet.backbone((16, 32)), 7.5)
    save(model, tmp_path / "a", config(), torch.float32)
    save(other, tmp_path / "b", config(), torch.float32)
    (tmp_path / "b" / file).replace(tmp_path / "a" / file)
    with pytest.raises(UserError, match=rf"{file} does not fit") as raised:
        load(tmp_path / "a")
    assert "\n" not in str(raised.value)


class TestPromptCache:
    @pytest.fixture
    def reward(self, model):
        self.encoded = []
        encode = model.encode_prompts
        model.encode_prompts = lambda prompts: (self.encoded.extend(prompts), encode(prompts))[1]
        return LatentReward(model, tiny_unet.LATENT_SPACE, SAME)

    def test_each_prompt_is_encoded_once_across_calls(self, reward):
        reward.score(tiny_unet.noisy(["red", "blue", "red"]))
        reward.score(tiny_unet.noisy(["blue", "a star"]))
        assert self.encoded == ["", "red", "blue", "a star"]

    def test_it_does_not_grow_without_bound(self, reward):
        reward.cache_size = 3
        for prompts in (["a", "b"], ["c"], ["d", "a"]):
            reward.score(tiny_unet.noisy(prompts))
            assert len(reward.cache) <= 3
