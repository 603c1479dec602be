"""DiNa-LRM's head: what it is at the start, and a forward pass done by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from lpobench.plugin import UserError
from rewards.dina.head import Film, Head, Logistic
from rewards.dina.trunk import Tapped

WIDTH = 16


def head(num_visual: int = 2, num_text: int = 2, **sizes) -> Head:
    torch.manual_seed(0)
    return Head(WIDTH, num_visual, num_text, **{"num_heads": 2} | sizes).eval()


def tapped(n: int = 3, num_visual: int = 2, num_text: int = 2, seed: int = 0) -> Tapped:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    visual = [draw(n, 6, WIDTH) for _ in range(num_visual)]
    return Tapped(visual, [draw(n, 4, WIDTH) for _ in range(num_text)], draw(n, WIDTH))


def noised(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter moved, those that start at zero too."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return module


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt() * weight


def linear(x: torch.Tensor, layer: torch.nn.Linear) -> torch.Tensor:
    return x @ layer.weight.T + layer.bias


def softmaxed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Attention head by head, as one reads it in a textbook."""
    size = q.shape[-1] // num_heads
    outs = []
    for h in range(num_heads):
        part = slice(h * size, (h + 1) * size)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)).softmax(-1)
        outs.append(weights @ v[..., part])
    return torch.cat(outs, -1)


def test_film_starts_without_modulation_and_adds_its_embedding_before_projecting():
    torch.manual_seed(0)
    film, x = Film(WIDTH, WIDTH, proj_in=False), torch.randn(2, 5, WIDTH)
    expected = linear(x + film.layer_embed, film.proj)
    for temb in (torch.zeros(2, WIDTH), torch.randn(2, WIDTH)):
        torch.testing.assert_close(film(x, temb), expected)
    assert expected.shape == (2, 5, WIDTH // 4)


def test_film_scales_and_shifts():
    """The last layer's bias set to gamma = 0.5, beta = 2: W (1.5 x + 2 + layer)."""
    torch.manual_seed(0)
    film, x = Film(WIDTH, WIDTH, proj_in=False), torch.randn(2, 5, WIDTH)
    film.cond_mlp[-1].bias.data[:WIDTH], film.cond_mlp[-1].bias.data[WIDTH:] = 0.5, 2.0
    expected = linear(1.5 * x + 2 + film.layer_embed, film.proj)
    torch.testing.assert_close(film(x, torch.zeros(2, WIDTH)), expected)


def test_gates_start_at_a_half():
    attention, x = head().attn1, torch.randn(2, 5, WIDTH)
    for gate in (attention.gate_vis, attention.gate_text):
        assert torch.equal(gate(x).sigmoid(), torch.full((2, 5, 1), 0.5))


@torch.no_grad()
def test_a_forward_pass_by_hand():
    """Every formula of the module's docstring, written out."""
    net, taps = noised(head()), tapped()
    tokens = {}
    for name, films, inputs, aggregate in (
        ("visual", net.layer_adapters_visual, taps.visual, net.agg_visual),
        ("text", net.layer_adapters_text, taps.text, net.agg_text),
    ):
        adapted = []
        for film, x in zip(films, inputs, strict=True):
            style = linear(F.silu(linear(taps.temb, film.cond_mlp[0])), film.cond_mlp[2])
            gamma, beta = style[:, None, :WIDTH], style[:, None, WIDTH:]
            adapted.append(linear(x * (1 + gamma) + beta + film.layer_embed, film.proj))
        tokens[name] = linear(torch.cat(adapted, -1), aggregate)

    q, first, second = net.query_tokens.expand(3, -1, -1), net.attn1, net.attn2
    vis, text = rms(tokens["visual"], first.norm_v.weight), rms(tokens["text"], first.norm_t.weight)
    asked = linear(rms(q, first.norm_q.weight), first.to_q)
    gate = lambda layers, x: linear(F.silu(linear(x, layers[0])), layers[2]).sigmoid()
    seen = softmaxed(
        asked, linear(vis, first.to_k_vis), gate(first.gate_vis, vis) * linear(vis, first.to_v_vis), 2
    )
    read = softmaxed(
        asked, linear(text, first.to_k_text), gate(first.gate_text, text) * linear(text, first.to_v_text), 2
    )
    q = q + linear(seen + read, first.to_out[0])
    vis = rms(tokens["visual"], second.norm_v.weight)
    asked = linear(rms(q, second.norm_q.weight), second.to_q)
    q = q + linear(
        softmaxed(asked, linear(vis, second.to_k_vis), linear(vis, second.to_v_vis), 2), second.to_out[0]
    )
    q = q + linear(F.gelu(linear(rms(q, net.norm_ff.weight), net.ff[0])), net.ff[2])
    expected = linear(q, net.head)[..., 0].mean(1)

    torch.testing.assert_close(net.decode(*net.tokens(taps)), expected)


@torch.no_grad()
def test_tokens_have_no_order_and_rows_do_not_mix():
    net, taps = noised(head()), tapped()
    scores = net.decode(*net.tokens(taps))
    shuffled = Tapped([x.flip(1) for x in taps.visual], [x.flip(1) for x in taps.text], taps.temb)
    torch.testing.assert_close(net.decode(*net.tokens(shuffled)), scores)
    first = Tapped([x[:1] for x in taps.visual], [x[:1] for x in taps.text], taps.temb[:1])
    torch.testing.assert_close(net.decode(*net.tokens(first)), scores[:1])


@torch.no_grad()
def test_a_pass_seen_twice_scores_as_once():
    """Softmax over two copies of the same tokens gives the same mean: the limit of an ensemble of equal levels."""
    net = noised(head())
    visual, text = net.tokens(tapped())
    twice = net.decode(torch.cat([visual, visual], 1), torch.cat([text, text], 1))
    torch.testing.assert_close(twice, net.decode(visual, text))


def test_published_size():
    """Width 1536, three taps each: the queries, adapters and aggregators of the paper, under the released names."""
    with torch.device("meta"):
        net = Head(1536, 3, 3)
    shapes = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert shapes["query_tokens"] == (1, 4, 1536)
    assert shapes["layer_adapters_text.2.cond_mlp.0.weight"] == (3072, 1536)
    assert shapes["layer_adapters_visual.0.layer_embed"] == (1, 1, 1536)
    assert shapes["layer_adapters_visual.0.proj.weight"] == (384, 1536)
    assert shapes["agg_text.weight"] == (1536, 1152)
    assert shapes["attn1.gate_vis.2.weight"] == (1, 1536)
    assert shapes["ff.0.weight"] == (6144, 1536)
    assert shapes["head.weight"] == (1, 1536)
    assert {name.split(".")[1] for name in shapes if name.startswith("attn2.")} == {
        *("norm_q", "norm_v", "to_q", "to_k_vis", "to_v_vis", "to_out")
    }
    assert not [name for name in shapes if "proj_in" in name]


def test_another_width_has_a_way_in():
    net = head(width=32)
    assert net.layer_adapters_visual[0].proj_in.weight.shape == (32, WIDTH)
    assert net.decode(*net.tokens(tapped())).shape == (3,)


def test_a_width_that_does_not_split_is_refused():
    with pytest.raises(UserError, match="width 16 should be a multiple of 4 and of its heads, 3"):
        head(num_heads=3)


def test_logistic_by_hand():
    """eta 2, -2, 0, 0.15: 0 -> 0; +-inf -> +-2; 0.15 -> 4 / (1 + e^-1) - 2 = 0.9242 (0.15 / (0.15 + 1e-6) is 1)."""
    scores = torch.tensor([0.0, 100.0, -100.0, 0.15])
    assert Logistic()(scores).tolist() == pytest.approx([0, 2, -2, 0.92423], abs=2e-5)
    moved = Logistic()
    moved.eta3.data.fill_(1.0)
    moved.eta4.data.fill_(-0.15)  # its size counts
    assert moved(torch.tensor([1.0, 1.15])).tolist() == pytest.approx([0, 0.92423], abs=2e-5)
