"""BLIP-VQA against its official code on the same random weights, and what is done to pictures and questions."""

import numpy as np
import pytest
import seeded
import torch
from made_compbench import vqa_weights, write_vqa
from PIL import Image

from evaluators._blip.vqa import Questioner, cleaned, prepared, read_network
from evaluators._blip.words import read_words
from lpobench.plugin import MissingAsset, UserError

GOLDEN = seeded.golden("blip_vqa")


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The released file, and the folder of a tokenizer."""
    folder = tmp_path_factory.mktemp("blip")
    return write_vqa(folder), folder


@pytest.fixture(scope="module")
def questioner(places):
    file, folder = places
    network = read_network(file)
    return Questioner(network, read_words(folder, network.vocabulary))


def images(*pictures):
    return torch.stack([torch.from_numpy(picture).permute(2, 0, 1) / 255 for picture in pictures])


@pytest.mark.parametrize("number", range(4))
def test_probabilities_are_the_official_ones(questioner, number):
    picture = seeded.picture(*GOLDEN["sizes"][number], seed=number)
    [found] = questioner.agree(images(picture), [GOLDEN["questions"]])
    assert found == pytest.approx(GOLDEN["scores"][number], abs=2e-6, rel=0)


def test_folder_of_transformers_gives_the_same(places, questioner, tmp_path):
    from transformers import BlipConfig, BlipForQuestionAnswering

    network = questioner.network
    text = {**network.answer.config.to_dict(), "encoder_hidden_size": 128}
    config = BlipConfig(
        text_config=text, vision_config={**network.eye.config.to_dict(), "layer_norm_eps": 1e-5}
    )
    model = BlipForQuestionAnswering(config)
    model.vision_model, model.text_encoder, model.text_decoder = network.eye, network.text, network.answer
    model.save_pretrained(tmp_path)
    again = Questioner(read_network(tmp_path), questioner.words)
    picture, asked = images(seeded.picture(97, 150)), [GOLDEN["questions"][:2]]
    [found], [wanted] = again.agree(picture, asked), questioner.agree(picture, asked)
    assert found == pytest.approx(wanted, abs=1e-6, rel=0)
    assert again.network.eye.config.layer_norm_eps == 1e-6


def test_an_answer_does_not_depend_on_what_else_is_asked(questioner):
    first, second = seeded.picture(60, 60, seed=1), seeded.picture(60, 60, seed=2)
    both = questioner.agree(images(first, second), [["a red cube?", "a dog?"], ["a cat?"]])
    alone = questioner.agree(images(second), [["a cat?"]]) + questioner.agree(images(first), [["a dog?"]])
    assert [both[1], both[0][1:]] == alone
    assert questioner.agree(images(first), [[]]) == [[]]


def test_questions_are_cleaned_as_in_the_official_data_set(questioner):
    assert [cleaned(question) for question in GOLDEN["questions"]] == GOLDEN["cleaned"]
    ids = questioner.tokens("a RED cube?")
    words = questioner.words.convert_ids_to_tokens(ids)
    assert words == ["[ENC]", "a", "red", "cube", "?", "[SEP]"]
    assert len(questioner.tokens(GOLDEN["questions"][3])) == 35


def test_pictures_are_squeezed_into_a_square():
    picture = seeded.picture(64, 20)
    [found] = prepared(images(picture), 48)
    wanted = np.asarray(Image.fromarray(picture).resize((48, 48), Image.Resampling.BICUBIC)) / 255
    mean, std = np.array((0.48145466, 0.4578275, 0.40821073)), np.array((0.26862954, 0.26130258, 0.27577711))
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), (wanted - mean) / std, atol=1e-6)


def test_other_files_are_refused_in_one_line(places, tmp_path):
    _, folder = places
    weights = vqa_weights()
    torch.save(
        {"model": {name: value for name, value in weights.items() if "visual" not in name}},
        tmp_path / "a.pth",
    )
    with pytest.raises(UserError, match=r"a\.pth holds no BLIP-VQA: 'patch_embed\.proj\.weight'"):
        read_network(tmp_path / "a.pth")
    weights.pop("text_decoder.cls.predictions.transform.dense.bias")
    torch.save({"model": weights}, tmp_path / "b.pth")
    with pytest.raises(
        UserError, match=r"b\.pth does not fit: answer\.cls.*transform\.dense\.bias is missing"
    ):
        read_network(tmp_path / "b.pth")
    with pytest.raises(UserError, match=r"makes 119 tokens with \[DEC\] and \[ENC\], the network has 30524"):
        read_words(folder, 30524)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingAsset, match=r"has no model\.safetensors or pytorch_model\.bin"):
        read_network(tmp_path / "empty")
