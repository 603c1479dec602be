# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "blip-ci==0.0.5", "transformers==4.27.3", "tokenizers==0.13.3", "timm==0.6.13", "fairscale==0.4.13", "torch",
#     "torchvision", "numpy<2", "pillow<11", "requests",
# ]
# ///
"""Golden BLIP-VQA probabilities: `PYTHONPATH=tests uv run --script tests/evaluators/golden/make_blip_vqa.py`.

Salesforce's BLIP_VQA, in the package blip-ci, with a smaller vision tower, BERT and vocabulary. T2I-CompBench adds one
method to its class, vqa_prob: the first step of the decoder after [DEC], softmax, yes / (yes + no). It is written out
here, with the ids of the small vocabulary for its 30522, 2748 and 2053; its data set cleans a question as BLIP's does.
Questions of one image are a padded batch, as released.
"""

import ast
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import seeded
import torch
import transformers
from blip.models import blip, blip_vqa, vit
from PIL import Image
from torchvision import transforms
from torchvision.transforms.functional import InterpolationMode

WORDS = [*seeded.BERT, "yes", "no"]
QUESTIONS = [
    "a green bench?",
    'The "rough", (gnarled) bark of an Ancient tree: ~ #1!?',
    "one red cube on the moon riding two dogs?",
    "the horse and " * 20 + "cat?",
    "?",
]
SIZES = [(480, 480), (64, 48), (301, 224), (512, 640)]
WIDTH = 128
MED = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": 192,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 40,
    "model_type": "bert",
    "num_attention_heads": WIDTH // 64,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "add_type_embeddings": False,
    "vocab_size": len(WORDS) + 2,
    "encoder_width": WIDTH,
    "add_cross_attention": True,
}
"""The released file's keys."""


def cleaner() -> Callable[[str], str]:
    """pre_question of blip/data/utils.py, which cannot be imported from the package."""
    source = (Path(blip.__file__).parents[1] / "data" / "utils.py").read_text(encoding="utf-8")
    [function] = [node for node in ast.parse(source).body if getattr(node, "name", "") == "pre_question"]
    names = {"re": re}
    exec(ast.unparse(function), names)
    return names["pre_question"]


def small_vision(*_: object, **__: object) -> tuple[torch.nn.Module, int]:
    return vit.VisionTransformer(
        img_size=480, patch_size=60, embed_dim=WIDTH, depth=2, num_heads=WIDTH // 64
    ), WIDTH


def model() -> blip_vqa.BLIP_VQA:
    blip_vqa.create_vit = small_vision
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
        (Path(folder) / "med_config.json").write_text(json.dumps(MED))
        read = blip.BertTokenizer.from_pretrained
        blip.BertTokenizer.from_pretrained = lambda name: read(folder, do_lower_case=True)
        return blip_vqa.BLIP_VQA(f"{folder}/med_config.json").eval()


@torch.no_grad()
def agree(model: blip_vqa.BLIP_VQA, image: torch.Tensor, questions: list[str]) -> list[float]:
    words = model.tokenizer
    seen = model.visual_encoder(image[None]).expand(len(questions), -1, -1)
    asked = words(questions, padding="longest", truncation=True, max_length=35, return_tensors="pt")
    asked.input_ids[:, 0] = words.enc_token_id
    states = model.text_encoder(
        asked.input_ids,
        attention_mask=asked.attention_mask,
        encoder_hidden_states=seen,
        encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long),
        return_dict=True,
    ).last_hidden_state
    answer = model.text_decoder(
        torch.full((len(questions), 1), words.bos_token_id),
        encoder_hidden_states=states,
        encoder_attention_mask=asked.attention_mask,
        return_dict=True,
        reduction="none",
    )
    chance = torch.softmax(answer.logits[:, 0], 1)
    yes, no = chance[:, words.convert_tokens_to_ids(["yes", "no"])].unbind(1)
    return (yes / (yes + no)).tolist()


def main() -> None:
    official = model()
    wanted = official.state_dict()
    shapes = {name: list(value.shape) for name, value in wanted.items() if not name.endswith("position_ids")}
    state = {name: torch.from_numpy(value) for name, value in seeded.weights(shapes).items()}
    for name, value in shared(state).items():
        state[name] = value
    print(official.load_state_dict(state, strict=False))
    prepare = transforms.Compose(
        [
            transforms.Resize((480, 480), interpolation=InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    questions = [cleaner()(question) for question in QUESTIONS]
    pictures = [seeded.picture(*size, seed=number) for number, size in enumerate(SIZES)]
    images = [prepare(Image.fromarray(picture)) for picture in pictures]
    made_by = f"blip-ci 0.0.5, transformers {transformers.__version__}, torch {torch.__version__}"
    document = {
        "made_by": made_by,
        "shapes": shapes,
        "sizes": SIZES,
        "words": WORDS,
        "questions": QUESTIONS,
        "cleaned": questions,
        "scores": [agree(official, image, questions) for image in images],
    }
    seeded.write_golden(Path(__file__).parent / "blip_vqa.json", document)


def shared(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """BERT's head has the embeddings' weights, and its bias under two names."""
    head = "text_decoder.cls.predictions."
    return {
        f"{head}decoder.weight": state["text_decoder.bert.embeddings.word_embeddings.weight"],
        f"{head}decoder.bias": state[f"{head}bias"],
    }


main()
