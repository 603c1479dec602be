"""Which prompt belongs to which image file; and what is done to the pixels of unusual ones."""

import json

import numpy as np
import pytest
from made_judges import picture
from PIL import Image

from lpobench.data.image_prompts import find_images, with_prompts
from lpobench.data.pairs.image import decode, decode_noted
from lpobench.plugin import MissingAsset, UserError


@pytest.fixture
def folder(tmp_path):
    """1.png, 2.JPG, 10.webp and sub/2.png."""
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for number, name in enumerate(("1.png", "2.JPG", "10.webp", "sub/2.png")):
        picture(images / name, 50 * number)
    (images / "notes.md").write_text("not an image")
    return images


def test_names_are_in_natural_order_at_any_depth(folder):
    assert find_images(folder) == ["1.png", "2.JPG", "10.webp", "sub/2.png"]


def test_a_text_beside_each_image(folder):
    (folder / "1.txt").write_text(" a star \n")
    (folder / "sub" / "2.txt").write_text("a circle")
    (folder / "10.txt").write_text("\n")
    assert with_prompts(folder, None).prompts == ["a star", None, None, "a circle"]


def test_lines_belong_to_images_in_order(folder, tmp_path):
    lines = tmp_path / "p.txt"
    lines.write_text("one\ntwo\nten\nsub\n")
    assert with_prompts(folder, lines).prompts == ["one", "two", "ten", "sub"]
    lines.write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"has 2 prompts for 4 images; its lines are the images'"):
        with_prompts(folder, lines)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.csv", "file,prompt\nsub/2.png,s\n10.webp,t\nx.png,gone\n"),
        ("p.tsv", "caption\tfile_name\ns\tsub/2.png\nt\t./10.webp\ngone\tx.png\n"),
        ("p.jsonl", "".join(json.dumps({"image": f, "prompt": p}) + "\n" for f, p in
                            (("sub/2.png", "s"), ("10.webp", " t "), ("x.png", "gone")))),
        ("p.json", '[{"path": "sub/2.png", "caption": "s"}, {"file": "10.webp", "prompt": "t"},'
                   ' {"file": "x.png", "prompt": "gone"}]'),
    ],
)  # fmt: skip
def test_every_format_names_its_images(folder, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    found = with_prompts(folder, tmp_path / name)
    assert found.prompts == [None, None, "t", "s"]
    assert found.notes == [f"{name} names images that are not there: 1, such as x.png"]


def test_a_bare_name_is_enough_where_only_one_image_has_it(folder, tmp_path):
    picture(folder / "sub" / "only.png", 9)
    table = tmp_path / "p.csv"
    table.write_text("file,prompt\nonly.png,a\n")
    assert with_prompts(folder, table).prompts == [None, None, None, None, "a"]
    picture(folder / "only.png", 9)
    table.write_text("file,prompt\nsub/only.png,a\nonly.png,b\n")
    assert with_prompts(folder, table).prompts == [None, None, None, "b", None, "a"], "a whole path, too"
    (folder / "only.png").rename(folder / "other.png")
    (folder / "more").mkdir()
    picture(folder / "more" / "only.png", 9)
    table.write_text("file,prompt\nonly.png,a\n")
    with pytest.raises(UserError, match=r"2 images are called only\.png; give the path below the folder"):
        with_prompts(folder, table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,prompt\n1.png,a\n1.png,b\n", "1.png has two prompts, 'a' and 'b'; keep one"),
        ("name,prompt\n1.png,a\n", "no image named; expected file, file_name, filename, image or path"),
        ("file,text\n1.png,a\n", "no prompt or caption among file, text"),
        ("file,prompt\nx.png,a\n", "no image in .* has a prompt in"),
        ("file,prompt\n1.png,\n", "no image in .* has a prompt in"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(folder, tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        with_prompts(folder, tmp_path / "p.csv")


def test_the_same_prompt_twice_is_no_contradiction(folder, tmp_path):
    (tmp_path / "p.csv").write_text("file,prompt\n1.png,a\n1.png, a\n")
    assert with_prompts(folder, tmp_path / "p.csv").prompts[0] == "a"


def test_folders_that_are_not_there_or_hold_no_image(tmp_path):
    with pytest.raises(MissingAsset, match="no folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no image in .*; known: files ending in \.png"):
        find_images(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match="is no folder"):
        find_images(tmp_path / "a.txt")
    picture(tmp_path / "a.png", 3)
    with pytest.raises(MissingAsset, match="no prompt file"):
        with_prompts(tmp_path, tmp_path / "nowhere.csv")


def noted(tmp_path, image: Image.Image, suffix: str = ".png"):
    image.save(tmp_path / f"x{suffix}")
    pixels, notes = decode_noted((tmp_path / f"x{suffix}").read_bytes())
    assert np.array_equal(pixels, decode((tmp_path / f"x{suffix}").read_bytes()))
    assert pixels.dtype == np.uint8
    return pixels, notes


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    """Pillow's own conversion makes everything above 255 white. 257 v is v in 8 bits."""
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    pixels, notes = noted(tmp_path, Image.fromarray(values * 257))
    assert np.array_equal(pixels, np.repeat(values[..., None], 3, axis=2))
    assert notes == ("grey, made RGB", "of 16 bits, cut to 8")


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("RGB", ".png", ()),
        ("RGB", ".jpg", ()),
        ("L", ".png", ("grey, made RGB",)),
        ("L", ".jpg", ("grey, made RGB",)),
        ("1", ".png", ("grey, made RGB",)),
        ("RGBA", ".png", ("with an alpha channel, dropped",)),
        ("RGBA", ".webp", ("with an alpha channel, dropped",)),
        ("LA", ".png", ("grey, made RGB", "with an alpha channel, dropped")),
        ("P", ".png", ("of a palette, made RGB",)),
        ("CMYK", ".jpg", ("CMYK, made RGB",)),
    ],
)
def test_what_was_done_to_an_image_is_noted(tmp_path, mode, suffix, expected):
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (8, 8, 4), dtype=np.uint8), "RGBA")
    pixels, notes = noted(tmp_path, image if mode == "RGBA" else image.convert("RGB").convert(mode), suffix)
    assert pixels.shape == (8, 8, 3)
    assert notes == expected
