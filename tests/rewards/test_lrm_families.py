"""LRM-XL and the LRM of an MMDiT on random pipelines in the stock layout, loaded as a run loads them."""

from types import SimpleNamespace

import made_pipelines
import pandas as pd
import pytest
import tiny_unet
import torch
from diffusers import SD3Transformer2DModel

from lpobench.data.pairs import LatentPairs
from lpobench.plugin import UserError
from rewards.lrm import LRM, LRMTraining
from rewards.lrm.blocks import MMDiTBlocks, UNetBlocks, empty_unet
from rewards.lrm.folder import load, parts, save
from rewards.lrm.model import LatentRewardModel
from rewards.lrm.pairwise import pair_scores
from rewards.lrm.train import describe
from rewards.pair_scorer import draw_noise, grid

CPU = torch.device("cpu")
FAMILIES = ("sdxl", "sd3", "sd35")
PROMPTS = ["red", "a star", "red"]
QUICK = LRMTraining(steps=2, batch_size=4, warmup=1, validate_every=1, validation_pairs=4, half=False)
SD3 = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
SDXL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """Family -> a random backbone of it: SDXL, SD3 with T5, and SD3.5 without."""
    folder = tmp_path_factory.mktemp("pipelines")
    made = {name: made_pipelines.FAMILIES[name](folder / name) for name in FAMILIES}
    return {name: made_pipelines.load(name, folder) for name, folder in made.items()}


@pytest.fixture(params=FAMILIES)
def backbone(request, backbones):
    return backbones[request.param]


@pytest.fixture
def model(backbone):
    torch.manual_seed(0)
    return LatentRewardModel.from_backbone(backbone, 7.5).eval()


def noisy(backbone, num: int = 3) -> SimpleNamespace:
    latents = torch.randn((num, *backbone.latent_shape), generator=torch.Generator().manual_seed(0))
    return SimpleNamespace(latents=latents, t=torch.linspace(51, 951, num), prompts=PROMPTS[:num])


def pairs_of(backbone, split: str, seed: int) -> LatentPairs:
    """Pairs of constant latents in the backbone's shape and space."""
    pairs = tiny_unet.pairs(4, split, seed)
    latents = pairs.latents[:, :1].expand(-1, *backbone.latent_shape).contiguous()
    meta = pairs.meta.model_copy(update={"latent_space": backbone.latent_space})
    return LatentPairs(pairs.table, latents, pairs.uids, meta)


def full_pass(backbone, latents, t, text) -> torch.Tensor:
    """Features hooks see in the backbone's own forward pass: before each downsampler and mid, or after block 1."""
    seen = []
    if hasattr(backbone, "transformer"):
        layers = [backbone.transformer.transformer_blocks[0]]
        pool = lambda output: output[1].mean(1)
    else:
        blocks = backbone.unet.down_blocks
        layers = [(getattr(block, "attentions", None) or block.resnets)[-1] for block in blocks]
        layers.append(backbone.unet.mid_block)
        pool = lambda output: (output[0] if isinstance(output, tuple) else output).mean((2, 3))
    hooks = [
        layer.register_forward_hook(lambda module, args, output: seen.append(pool(output)))
        for layer in layers
    ]
    backbone.predict(latents, t, text)
    for hook in hooks:
        hook.remove()
    return torch.cat(seen, 1)


def test_true_sizes():
    """SDXL: 320 + 640 + 1280 from the down blocks, 1280 from mid: 3520. SD3: 18 of 24 blocks, 1536 wide."""
    with torch.device("meta"):
        unet = UNetBlocks(empty_unet(SDXL))
        latents, context, pooled = (
            torch.empty(2, 4, 128, 128),
            torch.empty(2, 77, 2048),
            torch.empty(2, 1280),
        )
        shallow, deep = unet(latents, torch.empty(2), context, pooled, 2)
        mmdit = MMDiTBlocks.from_backbone(SimpleNamespace(transformer=SD3Transformer2DModel(**SD3)))
    assert [feature.shape[1] for feature in [*shallow, deep]] == [320, 640, 1280, 1280]
    assert unet.feature_dim == 3520
    assert (len(mmdit.transformer.transformer_blocks), mmdit.feature_dim) == (18, 1536)


@torch.no_grad()
def test_text_is_read_as_the_backbone_reads_it(backbone, model):
    ours, theirs = model.encode_prompts(PROMPTS), backbone.encode_prompt(PROMPTS)
    torch.testing.assert_close(ours.context, theirs.prompt_embeds)
    torch.testing.assert_close(ours.pooled, theirs.pooled)
    torch.testing.assert_close(ours.direction.norm(dim=1), torch.ones(3))


@torch.no_grad()
def test_sdxl_compares_with_the_pooled_text_itself_and_encodes_the_empty_prompt(backbones):
    """Published: no text projection, 1280 wide; null is encoded "", not the zeros the policy's negative is."""
    backbone = backbones["sdxl"]
    model = LatentRewardModel.from_backbone(backbone, 7.5)
    pooled, empty = backbone.encode_prompt(PROMPTS).pooled, model.encode_prompts([""])
    assert model.text_projection is None
    torch.testing.assert_close(
        model.encode_prompts(PROMPTS).direction, torch.nn.functional.normalize(pooled, dim=1)
    )
    assert backbone.encode_prompt([""]).prompt_embeds.abs().max() == 0
    assert empty.context.abs().max() > 0


@torch.no_grad()
def test_features_are_those_of_the_full_denoiser(backbone, model):
    model.vfe_scale = 1.0
    rows, text = noisy(backbone), model.encode_prompts(PROMPTS)
    expected = full_pass(backbone, rows.latents, rows.t, backbone.encode_prompt(PROMPTS))
    found = model.visual_features(rows.latents, rows.t, text, text.rows(0))
    torch.testing.assert_close(found, expected)
    assert found.shape[1] == model.visual_projection.in_features


@torch.no_grad()
def test_vfe_guides_the_deepest_feature(backbone, model):
    """null + 7.5 (text - null) for mid or the block's tokens; a UNet's down features come from the text rows."""
    rows = noisy(backbone)
    text, empty = model.encode_prompts(PROMPTS), model.encode_prompts([""] * 3)
    guided = model.visual_features(rows.latents, rows.t, text, empty.rows(0))
    model.vfe_scale = 1.0
    plain, null = (model.visual_features(rows.latents, rows.t, one, one.rows(0)) for one in (text, empty))
    width = 32
    torch.testing.assert_close(guided[:, :-width], plain[:, :-width])
    expected = null[:, -width:] + 7.5 * (plain[:, -width:] - null[:, -width:])
    torch.testing.assert_close(guided[:, -width:], expected, atol=1e-4, rtol=1e-4)


def test_the_last_block_of_a_transformer_is_one_of_its_layers(backbones):
    """Cut after every block, and not cut: the features are those a hook sees there."""
    backbone = backbones["sd35"]
    assert [len(layer_features(backbone, layer)) for layer in (1, 2)] == [3, 3]
    with pytest.raises(UserError, match=r"training\.layer 3: backbone sd35 has 2 blocks"):
        LatentRewardModel.from_backbone(backbone, 7.5, layer=3)


@torch.no_grad()
def layer_features(backbone, layer: int) -> torch.Tensor:
    """Checked features after a layer."""
    model, rows, seen = LatentRewardModel.from_backbone(backbone, 1.0, layer=layer), noisy(backbone), []
    block = backbone.transformer.transformer_blocks[layer - 1]
    hook = block.register_forward_hook(lambda module, args, output: seen.append(output[1].mean(1)))
    backbone.predict(rows.latents, rows.t, backbone.encode_prompt(PROMPTS))
    hook.remove()
    text = model.encode_prompts(PROMPTS)
    found = model.visual_features(rows.latents, rows.t, text, text.rows(0))
    torch.testing.assert_close(found, seen[0])
    return found


def test_every_trainable_parameter_gets_a_gradient(backbone, model):
    """What no score depends on is not there, or (SDXL's last layer of text, SD3's encoders) not trained."""
    generator, pairs = torch.Generator().manual_seed(0), pairs_of(backbone, "train", 0)
    t = grid(backbone.schedule)[torch.tensor([0, 5, 10, 18])]
    batch = pairs.batch(torch.arange(4))
    sum(pair_scores(model, backbone.schedule, batch, t, draw_noise(pairs, 4, generator))).sum().backward()
    assert not [name for name, parameter in model.trainable().items() if parameter.grad is None]
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert all(name.startswith("text.text_encoder") for name in frozen)
    if model.is_mmdit:
        assert frozen == {name for name, _ in model.named_parameters() if name.startswith("text.")}
        assert not model.train().text.training


@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_training_writes_a_folder_that_scores_the_same(backbones, tmp_path, family):
    backbone = backbones[family]
    splits = ("train", "validation_unique", "test_unique")
    made = [pairs_of(backbone, split, seed) for seed, split in enumerate(splits)]
    table = pd.concat([part.table for part in made], ignore_index=True)
    latents, uids = torch.cat([part.latents for part in made]), [uid for part in made for uid in part.uids]
    LatentPairs(table, latents, uids, made[0].meta).write(tmp_path / "pairs")
    before = {name: value.clone() for name, value in backbone.denoiser.state_dict().items()}

    settings = LRM(pairs=(str(tmp_path / "pairs"),), training=QUICK)
    trained = settings.train(backbone, tmp_path / "lrm", seed=0, device=CPU, dtype=torch.float32)
    assert {len(rows) for rows in trained.measured().values()} == {20}
    config = trained.config
    assert (config.backbone, config.latent_space) == (family, backbone.latent_space)
    assert all(path.is_file() for path in trained.assets().values())
    assert all(torch.equal(value, before[name]) for name, value in backbone.denoiser.state_dict().items())
    reward = trained.load(backbone, CPU, torch.float32)
    again = trained.load(backbone, CPU, torch.float32)
    assert torch.equal(reward.score(noisy(backbone)), again.score(noisy(backbone)))
    assert reward.score(noisy(backbone)).isfinite().all()


@pytest.fixture
def folder(backbone, model, tmp_path):
    save(model, tmp_path, describe(LRM(), backbone, model, seed=0), torch.float32)
    return tmp_path


def test_folder_round_trip_is_bit_exact(backbone, model, folder):
    weights = load(folder, backbone=backbone).state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    stored = {path.parent.name for path in folder.rglob("*.safetensors")}
    assert stored == {*parts(model), folder.name}
    assert "text_encoder_3" not in stored  # T5 stays the backbone's


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_close(backbone, folder, dtype):
    full, half = (
        LRM(weights=folder).load(backbone, CPU, kind).score(noisy(backbone))
        for kind in (torch.float32, dtype)
    )
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, atol=0.5, rtol=0)


def test_an_lrm_of_another_backbone_with_the_same_latents_scores(backbones, tmp_path):
    """SD3.5's on SD3, not on SDXL; SD3's, which reads T5, not on a backbone without one."""
    for family in ("sd35", "sd3"):
        model = LatentRewardModel.from_backbone(backbones[family], 7.5)
        config = describe(LRM(), backbones[family], model, seed=0)
        save(model, tmp_path / family, config, torch.float32)
    reward = LRM(weights=tmp_path / "sd35").load(backbones["sd3"], CPU, torch.float32)
    assert reward.score(noisy(backbones["sd3"])).isfinite().all()
    with pytest.raises(UserError, match="reads latents of sd3-vae-f8c16, backbone sdxl makes sdxl-vae-f8c4"):
        LRM(weights=tmp_path / "sd35").load(backbones["sdxl"], CPU, torch.float32)
    with pytest.raises(UserError, match="was trained with T5, which the backbone does not run"):
        LRM(weights=tmp_path / "sd3").load(backbones["sd35"], CPU, torch.float32)
