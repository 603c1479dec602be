"""Looking through the policy's own transformer: the same features, the same memory, and a policy left alone."""

from types import SimpleNamespace

import made_dina
import made_pipelines
import pytest
import torch
from diffusers import SD3Transformer2DModel
from made_dina import CPU, PROMPTS, latents

from lpobench.plugin import UserError
from lpobench.sampling import Noisy, Policy
from rewards.dina import DiNa
from rewards.dina.trunk import Depth, Trunk

FLOAT = torch.float32
SD35_MEDIUM = {
    "sample_size": 128,
    "num_layers": 13,  # of 24: more are not looked at
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 384,
    "qk_norm": "rms_norm",
    "dual_attention_layers": tuple(range(13)),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return made_pipelines.sd35(tmp_path_factory.mktemp("sd35"))


@pytest.fixture
def backbone(pipeline):
    return made_dina.around(pipeline)


@pytest.fixture
def reward_of(tmp_path):
    """A random DiNa-LRM of a backbone, loaded."""

    def load(backbone, source=None, **settings):
        made = made_dina.model(source or backbone)
        folder = made_dina.folder_of(made, source or backbone, tmp_path / "dina")
        return DiNa(weights=folder, **settings).load(backbone, CPU, FLOAT)

    return load


def inputs(transformer, n: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    config = transformer.config
    return {
        "latents": draw(n, config.in_channels, 8, 8),
        "t": torch.tensor([100.0, 500.0, 900.0])[:n],
        "context": draw(n, 5, config.joint_attention_dim),
        "pooled": draw(n, config.pooled_projection_dim),
    }


@pytest.mark.parametrize(
    ("num_blocks", "layers", "taps"), [(24, 12, (4, 8, 12)), (6, 3, (1, 2, 3)), (4, 2, (1, 2)), (2, 1, (1,))]
)
def test_half_of_the_blocks_read_after_each_third(num_blocks, layers, taps):
    """24 blocks: the published 12, tapped at 4, 8 and 12."""
    assert Depth.of(num_blocks, None, None, None) == Depth(layers, taps, taps)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ((7, None, None), r"training\.layers 7: the transformer has 6 blocks"),
        ((3, (1, 4), None), r"training\.visual_taps \[1, 4\]: should be one or more of 0 to 3, ascending"),
        ((3, None, (2, 1)), r"training\.text_taps \[2, 1\]: should be"),
        ((3, (), None), r"training\.visual_taps \[\]: should be"),
        ((6, None, None), r"training\.text_taps: no text comes out of the last block, 6"),
    ],
)
def test_depths_that_a_transformer_does_not_have(asked, message):
    with pytest.raises(UserError, match=message):
        Depth.of(6, *asked)


@torch.no_grad()
def test_taps_are_the_whole_transformers_own():
    """What hooks see in its own forward pass; tap 0 is what the first block is given."""
    transformer = made_dina.transformer()
    trunk, given = Trunk(transformer, Depth(3, (0, 1, 3), (0, 2)), shared=True), inputs(transformer)
    seen, first = {}, {}
    transformer.transformer_blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: first.update(kwargs), with_kwargs=True
    )
    for number, block in enumerate(transformer.transformer_blocks, 1):
        block.register_forward_hook(lambda module, args, out, number=number: seen.update({number: out}))
    tapped = trunk(**given)
    transformer(given["latents"], given["context"], given["pooled"], given["t"])
    visual = [first["hidden_states"], seen[1][1], seen[3][1]]
    assert all(torch.equal(*both) for both in zip(tapped.visual, visual, strict=True))
    text = [first["encoder_hidden_states"], seen[2][0]]
    assert all(torch.equal(*both) for both in zip(tapped.text, text, strict=True))
    assert torch.equal(tapped.temb, first["temb"])


def test_weights_are_the_sources_own_memory_or_a_copy_in_float32():
    transformer = made_dina.transformer().bfloat16()
    theirs = transformer.state_dict()
    for shared in (True, False):
        trunk = Trunk(transformer, Depth(2, (1, 2), (1, 2)), shared=shared)
        trunk.adapt(4, 8)
        own = {
            name.replace(".base_layer.", "."): value
            for name, value in trunk.transformer.state_dict().items()
            if ".lora_" not in name
        }
        assert all((value.data_ptr() == theirs[name].data_ptr()) is shared for name, value in own.items())
        assert {value.dtype for value in own.values()} == {torch.bfloat16 if shared else torch.float32}
        assert {value.dtype for value in trunk.adapter().values()} == {torch.float32}
        assert {name for name in own if name.startswith("transformer_blocks.2")} == set()


def test_true_sizes():
    """SD3.5 medium, at 1024 pixels with 333 text tokens: 12 of 24 blocks, taps 4, 8, 12, rank 64, width 1536.

    Adapted matrices of a block: 8 in the joint attention, 4 more in the 12 blocks' second one, 1536 x 64 twice each.
    """
    with torch.device("meta"):
        trunk = Trunk(SD3Transformer2DModel(**SD35_MEDIUM), Depth.of(24, None, None, None), shared=True)
        trunk.adapt(64, 128)
        shown = torch.empty(2, 16, 128, 128), torch.empty(2), torch.empty(2, 333, 4096), torch.empty(2, 2048)
        tapped = trunk(*shown)
    assert [tuple(tokens.shape) for tokens in tapped.visual] == [(2, 4096, 1536)] * 3
    assert [tuple(words.shape) for words in tapped.text] == [(2, 333, 1536)] * 3
    assert sum(value.numel() for value in trunk.adapter().values()) == 12 * (8 + 4) * 2 * 1536 * 64


def test_only_the_adapter_is_trained_and_all_of_it_moves():
    transformer = made_dina.transformer()
    trunk = Trunk(transformer, Depth(2, (2,), (2,)), shared=True)
    trunk.adapt(4, 8)
    for name, value in trunk.adapter().items():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    tapped = trunk(**inputs(transformer))
    (tapped.visual[0].square().sum() + tapped.text[0].square().sum()).backward()
    moved = {name for name, value in trunk.named_parameters() if value.grad is not None}
    assert moved == {name for name, _ in trunk.named_parameters() if ".rm_lora." in name}
    assert all(value.grad.abs().sum() > 0 for value in trunk.adapter().values())
    assert all(parameter.grad is None for parameter in transformer.parameters())
    assert all(parameter.requires_grad for parameter in transformer.parameters())  # theirs, as they were


def test_text_layers_of_the_last_block_are_adapted_if_its_text_is_read():
    """8 layers a block and 3 of SD3.5's second attention, to_out.0 among them; without text 4 fewer."""
    transformer = made_dina.transformer()
    read = Trunk(transformer, Depth(2, (1, 2), (1, 2)), shared=True).targets()
    unread = Trunk(transformer, Depth(2, (1, 2), (0, 1)), shared=True).targets()
    assert len(read) == 8 + 4 + 8
    assert {name.partition("transformer_blocks.1.attn.")[2] for name in set(read) - set(unread)} == {
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    }
    assert set(unread) < set(read)


def test_checkpointing_changes_no_gradient():
    transformer, gradients = made_dina.transformer(), []
    for checkpointing in (False, True):
        trunk = Trunk(transformer, Depth(2, (1, 2), (2,)), shared=True)
        torch.manual_seed(0)
        trunk.adapt(4, 8)
        trunk.checkpointing = checkpointing
        tapped = trunk(**inputs(transformer))
        sum(x.square().mean() for x in (*tapped.visual, *tapped.text)).backward()
        gradients.append([parameter.grad for parameter in trunk.adapter().values()])
    assert all(torch.equal(*both) for both in zip(*gradients, strict=True))


@torch.no_grad()
def seen_of(policy) -> list[torch.Tensor]:
    """What the policy, its reference, and the policy again make of the same latents."""
    x, t = latents(policy.backbone, 2), torch.tensor([200.0, 800.0])
    outputs = [policy.predict(x, t, PROMPTS[:2])]
    with policy.reference():
        outputs.append(policy.predict(x, t, PROMPTS[:2]))
    return [*outputs, policy.predict(x, t, PROMPTS[:2])]


@pytest.mark.parametrize("reward_first", [True, False])
def test_the_policy_never_notices(backbone, pipeline, reward_of, reward_first):
    """Loaded before or after it, scored inside and outside its reference: bitwise the same policy, reference,
    trained parameters and state, and a reward that does not see the policy's adapter.
    """
    alone = made_dina.policy(made_dina.around(pipeline))
    expected, names = seen_of(alone), list(alone.backbone.denoiser.state_dict())
    reward = reward_of(backbone) if reward_first else None
    policy = made_dina.policy(backbone)
    reward = reward or reward_of(backbone, source=made_dina.around(pipeline))

    assert len(policy.trained) == len(alone.trained)
    assert list(backbone.denoiser.state_dict()) == names
    noisy = Noisy(latents(backbone, 2), torch.tensor([300.0, 700.0]), PROMPTS[:2], policy)
    scores = [reward.score(noisy)]
    with policy.reference():
        scores.append(reward.score(noisy))
    assert all(torch.equal(*both) for both in zip(seen_of(policy), expected, strict=True))
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(expected[0], expected[2])
    assert all(parameter.requires_grad for parameter in policy.trained)

    for parameter in policy.trained:
        parameter.data.add_(1.0)
    scores.append(reward.score(noisy))
    assert torch.equal(scores[0], scores[1])
    assert torch.equal(scores[0], scores[2])


def test_it_goes_on_reading_the_base_when_all_weights_are_trained(backbone, reward_of):
    """The policy trains a copy: what the reward shares is the reference's."""
    reward = reward_of(backbone)
    policy = Policy(backbone, SimpleNamespace(num_steps=4, guidance_scale=1.0, rule="ddim", eta=1.0), "all")
    noisy = Noisy(latents(backbone, 2), torch.tensor([300.0, 700.0]), PROMPTS[:2], policy)
    score = reward.score(noisy)
    with torch.no_grad():
        for parameter in policy.trained:
            parameter.mul_(1.5)
    assert torch.equal(reward.score(noisy), score)


def test_gradients_stay_apart(backbone, reward_of):
    """A loss on a score of what the policy made reaches the policy's adapter through the latents, and nothing of the
    reward's; the policy's own loss leaves the reward alone."""
    policy = made_dina.policy(backbone)
    reward = reward_of(backbone, source=backbone)
    x, t = latents(backbone, 2), torch.tensor([600.0, 900.0])
    x0, _ = policy.denoise(x, t, PROMPTS[:2])
    reward.score(Noisy.finished(x0, PROMPTS[:2], policy)).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.trained)
    assert sum(parameter.grad.abs().sum() for parameter in policy.trained) > 0
    assert not any(parameter.requires_grad for parameter in reward.model.parameters())
    assert all(parameter.grad is None for parameter in reward.model.parameters())
    frozen = [p for p in backbone.denoiser.parameters() if not any(p is a for a in policy.trained)]
    assert not any(p.requires_grad or p.grad is not None for p in frozen)


def test_the_policys_adapter_is_exported_without_the_rewards(pipeline, reward_of, tmp_path):
    """`export_lora` compares with a stock pipeline itself, and finds only the policy's adapter."""
    backbone = made_pipelines.load("sd35", pipeline)
    reward = reward_of(backbone)
    policy = made_dina.policy(backbone)
    reward.score(Noisy.finished(latents(backbone, 1), ["a"], policy))
    backbone.export_lora(tmp_path / "lora")
    (stored,) = (tmp_path / "lora").glob("*.safetensors")
    assert b"rm_lora" not in stored.read_bytes()


def test_a_checkpoint_put_onto_shared_weights_is_noticed(backbone, reward_of, tmp_path):
    """Its scores would be of other weights; a copy keeps scoring as before."""
    policy = made_dina.policy(backbone, adapter=False)
    noisy = Noisy.finished(latents(backbone, 2), PROMPTS[:2], policy)
    shared, own = reward_of(backbone), reward_of(backbone, shared=False)
    before = own.score(noisy)
    torch.testing.assert_close(shared.score(noisy), before)
    torch.manual_seed(5)
    made_dina.transformer(seed=5).save_pretrained(tmp_path / "other")
    backbone.load_checkpoint(tmp_path / "other")
    assert torch.equal(own.score(noisy), before)
    with pytest.raises(UserError, match=r"were replaced by others; set reward\.shared to false"):
        shared.score(noisy)
