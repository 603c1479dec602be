"""The network of CLIP-FlanT5, of transformers' classes, and the reader of its folder."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration

from evaluators._batches import in_batches
from evaluators._files import fill, inside, read_folder, read_json
from evaluators._flant5.question import Questions
from evaluators._pixels import Preparation
from lpobench.plugin import UserError

STEP = 16
"""Questions are padded to a multiple of so many tokens, whatever the others' length: a score depends on its own."""
EYE, PROJECTOR = "vision_tower.vision_tower.", "mm_projector."
"""Start of the names of what is not T5's."""


class Network(nn.Module):
    """An eye, a projector of its patches into T5's embeddings, and T5."""

    def __init__(self, sees: CLIPVisionConfig, reads: T5Config, layer: int):
        super().__init__()
        self.eye, self.layer = CLIPVisionModel(sees), layer
        self.projector = nn.Sequential(
            nn.Linear(sees.hidden_size, reads.d_model), nn.GELU(), nn.Linear(reads.d_model, reads.d_model)
        )
        self.language = T5ForConditionalGeneration(reads)
        self.prepare = Preparation(sees.image_size, "floor")

    @property
    def vocabulary(self) -> int:
        """Rows of logits."""
        return self.language.config.vocab_size

    def score(
        self, images: Float[Tensor, "n 3 H W"], prompts: list[str], questions: Questions, batch_size: int
    ) -> Float[Tensor, " n"]:
        """The probability of the answer, in [0, 1]."""
        some = self.language.shared.weight
        texts = [questions.after(prompt) for prompt in prompts]
        lengths = [-(-len(text) // STEP) * STEP for text in texts]
        pixels = self.prepare(squared(images, self.prepare.mean)).to(some.device, some.dtype)
        before, answer = (
            torch.tensor(ids, device=some.device) for ids in (questions.before, questions.answer)
        )
        run = lambda pixels, after: self(pixels, before, after, answer, questions.vocabulary)
        scores = torch.empty(len(texts), dtype=torch.float32, device=some.device)
        for length in sorted(set(lengths)):
            rows = [row for row, own in enumerate(lengths) if own == length]
            after = torch.tensor([texts[row] + [0] * (length - len(texts[row])) for row in rows])
            scores[rows] = in_batches(run, batch_size, pixels[rows], after.to(some.device))
        return scores

    def forward(
        self,
        pixels: Float[Tensor, "n 3 s s"],
        before: Int64[Tensor, " p"],
        after: Int64[Tensor, "n q"],
        answer: Int64[Tensor, " a"],
        vocabulary: int,
    ) -> Float[Tensor, " n"]:
        """exp(mean log p) of the answer's tokens, after the text before, the picture and the text after; 0 pads."""
        n, dtype = len(pixels), pixels.dtype
        with torch.autocast(pixels.device.type, dtype, enabled=dtype != torch.float32):
            seen = self.eye(pixels, output_hidden_states=True).hidden_states[self.layer][:, 1:]
            embed = self.language.shared
            parts = embed(before).expand(n, -1, -1), self.projector(seen), embed(after)
            whole = torch.cat([part.to(dtype) for part in parts], 1)
            mask = torch.cat([after.new_ones(n, whole.shape[1] - after.shape[1]), (after != 0).long()], 1)
            start = answer.new_tensor([self.language.config.decoder_start_token_id])
            said = torch.cat([start, answer[:-1]]).expand(n, -1)
            logits = self.language(inputs_embeds=whole, attention_mask=mask, decoder_input_ids=said).logits
        logprobs = logits[..., :vocabulary].float().log_softmax(-1)
        return logprobs.gather(-1, answer.expand(n, -1)[..., None]).mean((1, 2)).exp()


def squared(images: Float[Tensor, "n 3 H W"], mean: tuple[float, ...]) -> Float[Tensor, "n 3 s s"]:
    """Centred on a square of the mean colour, which is cut to 8 bits."""
    height, width = images.shape[-2:]
    side = max(height, width)
    colour = images.new_tensor([int(value * 255) / 255 for value in mean])
    canvas = colour.view(1, 3, 1, 1).repeat(len(images), 1, side, side)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[..., top : top + height, left : left + width] = images
    return canvas


def read_network(folder: Path, eye: Path, dtype: torch.dtype) -> Network:
    """On the CPU. Raises MissingAsset or UserError."""
    config = read_json(inside(folder, "config.json"))
    if config.get("mm_projector_type") != "mlp2x_gelu":
        raise UserError(
            f"{folder / 'config.json'} describes no CLIP-FlanT5: mm_projector_type is not mlp2x_gelu"
        )
    reads, layer = T5Config(**config), int(config.get("mm_vision_select_layer", -2))
    sees = CLIPVisionConfig.from_pretrained(eye, local_files_only=True)
    with torch.device("meta"):
        network = Network(sees, reads, layer)
    network.prepare = Preparation.read(eye / "preprocessor_config.json", sees.image_size, "floor")
    fill(network, _named(read_folder(folder, dtype), eye, dtype), folder, dtype)
    network.language.encoder.embed_tokens = network.language.decoder.embed_tokens = network.language.shared
    return network


def _named(weights: dict[str, Tensor], eye: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """By the network's names; the eye's from its own folder where they are not in CLIP-FlanT5's."""
    if not any(name.startswith(EYE) for name in weights):
        weights = weights | {EYE + name: value for name, value in read_folder(eye, dtype).items()}
    found = {}
    for name, value in weights.items():
        if name.startswith(EYE):
            found["eye." + name.removeprefix(EYE).removeprefix("vision_model.")] = value
        elif name.startswith(PROJECTOR):
            found["projector." + name.removeprefix(PROJECTOR)] = value
        else:
            found["language." + name] = value
    shared = "language.shared.weight"
    if shared in found:
        copies = (f"language.{half}.embed_tokens.weight" for half in ("encoder", "decoder"))
        found |= dict.fromkeys(copies, found[shared])
    return found
