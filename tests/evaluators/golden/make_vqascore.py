# /// script
# requires-python = "==3.11.*"
# dependencies = [
#     "t2v_metrics==1.2", "image-reward==1.5", "transformers==4.36.1", "tokenizers==0.15.2", "sentencepiece", "torch",
#     "numpy<2", "pillow<11",
# ]
# ///
"""Golden VQAScores: `PYTHONPATH=tests uv run --script tests/evaluators/golden/make_vqascore.py`.

CLIPT5Model.forward of t2v_metrics 1.2 under transformers 4.36.1, on small random weights and a small sentencepiece
vocabulary, in float32 (the package itself runs in bfloat16, too coarse to compare). Its other parts, which need
many more packages, are stepped around.
"""

import importlib
import importlib.util
import io
import json
import sys
import tempfile
import types
from pathlib import Path

import seeded
import sentencepiece
import torch
import transformers
from PIL import Image


def parts() -> tuple[types.ModuleType, ...]:
    """The package's modules that are needed, without its __init__."""
    top = Path(importlib.util.find_spec("t2v_metrics").submodule_search_locations[0])
    for name in ("t2v_metrics", "t2v_metrics.models", "t2v_metrics.models.vqascore_models"):
        package = types.ModuleType(name)
        package.__path__ = [str(top.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    inside = "t2v_metrics.models.vqascore_models."
    return tuple(
        importlib.import_module(inside + name) for name in ("clip_t5_model", "clip_t5.model", "mm_utils")
    )


official, clip_t5, mm_utils = parts()
PIECES = 90
CONFIG = {
    "vocab_size": PIECES + 100 + 28,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_hidden_size": 48,
    "mm_projector_type": "mlp2x_gelu",
}
"""As in FLAN-T5, more rows of logits than the tokenizer has tokens: the official code cuts them off."""
VISION = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 3,
    "num_hidden_layers": 3,
    "image_size": 336,
    "patch_size": 84,
    "hidden_act": "quick_gelu",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model, shapes, pieces = write(Path(folder))
        places = {
            "tokenizer": {"path": folder, "model_max_length": 2048},
            "model": {"path": f"{folder}/model"},
        }
        places["model"] |= {"conversation": "t5_chat", "image_aspect_ratio": "pad"}
        official.CLIP_T5_MODELS["small"] = places
        live = official.CLIPT5Model("small", device="cpu", cache_dir=folder)
        live.model = model.eval()
        model.resize_token_embeddings(len(live.tokenizer))  # as load_pretrained_model does
        files = [f"{folder}/{number}.png" for number in range(len(seeded.SIZES))]
        for file, picture in zip(files, seeded.pictures(), strict=True):
            Image.fromarray(picture).save(file)
        each = [[float(live.forward([file], [prompt])) for file in files] for prompt in seeded.PROMPTS]
        together = live.forward(files[: len(seeded.PROMPTS)], seeded.PROMPTS).tolist()
        questions = [official.default_question_template.format(prompt) for prompt in seeded.PROMPTS]
        questions = [official.format_question(question, "t5_chat") for question in questions]
        tokens = [mm_utils.t5_tokenizer_image_token(question, live.tokenizer) for question in questions]
    document = {
        "made_by": f"t2v_metrics 1.2, transformers {transformers.__version__}, torch {torch.__version__}",
        "config": CONFIG,
        "vision_config": VISION,
        "pieces": pieces,
        "shapes": shapes,
        "tokens": tokens,
        "answer": mm_utils.t5_tokenizer_image_token("Yes", live.tokenizer),
        "scores": each,
        "together": together,
    }
    seeded.write_golden(Path(__file__).with_name("vqascore.json"), document)


def write(folder: Path) -> tuple[torch.nn.Module, dict[str, list[int]], list[list[object]]]:
    """Model, tokenizer and eye into folders; the model in float32, its shapes, and the vocabulary."""
    text = [
        official.format_question(official.default_question_template.format(prompt), "t5_chat")
        for prompt in seeded.PROMPTS
    ]
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*text, "Yes", "No"] * 3),
        model_writer=trained,
        vocab_size=PIECES,
        minloglevel=2,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    )
    (folder / "spiece.model").write_bytes(trained.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    reader = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    pieces = [[reader.id_to_piece(i), reader.get_score(i)] for i in range(len(reader))]
    assert len(pieces) == PIECES, len(pieces)

    eye = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION))
    eye.save_pretrained(folder / "eye")
    transformers.CLIPImageProcessor(size=336, crop_size=336).save_pretrained(folder / "eye")
    model = clip_t5.CLIPT5ForConditionalGeneration(
        clip_t5.CLIPT5Config(**CONFIG, mm_vision_tower=f"{folder}/eye")
    )
    same = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "embed_tokens.weight"}
    shapes = {
        name: list(value.shape)
        for name, value in model.state_dict().items()
        if name not in same and "position_ids" not in name
    }
    state = {name: torch.from_numpy(value) for name, value in seeded.weights(shapes).items()}
    found = model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys, found
    assert set(found.missing_keys) <= same | {
        name for name in found.missing_keys if "position_ids" in name
    }, found
    model.save_pretrained(folder / "model")
    return model, shapes, pieces


main()
