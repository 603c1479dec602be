"""The folders of the official tool: ours as it reads them, its own as we do."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from lpobench.data import geneval
from lpobench.data.geneval import folder as layout
from lpobench.data.image_prompts import with_prompts
from lpobench.data.prompts import load_prompts
from lpobench.plugin import MissingAsset, UserError
from lpobench.types import Prompt

GREY = np.full((4, 6, 3), 99, np.uint8)


def read_as_the_official_tool(root):
    """Every image with its metadata: the loops of its evaluate_images.py, written down again."""
    found = {}
    for name in os.listdir(root):
        if not (root / name).is_dir() or not name.isdigit():
            continue
        metadata = json.loads((root / name / "metadata.jsonl").read_text())
        for image in os.listdir(root / name / "samples"):
            if re.match(r"\d+\.png", image):
                found[f"{name}/samples/{image}"] = metadata
    return found


def test_ours_is_read_by_the_official_tool_and_by_us(tmp_path):
    prompts = load_prompts("geneval", "eval", None, 0)[75:85]
    layout.place_samples(tmp_path, prompts)
    for place in (0, 9):
        for number in (0, 11):
            layout.write_sample(tmp_path, place, number, GREY + number)
    files = ["00000/samples/00000.png", "00000/samples/00011.png"]
    files += [file.replace("00000/", "00009/", 1) for file in files]
    official = read_as_the_official_tool(tmp_path)
    assert sorted(official) == files
    assert official["00009/samples/00011.png"] == json.loads(geneval.published()[84].line())
    samples = layout.read_folder(tmp_path)
    assert [sample.file for sample in samples] == files
    assert [sample.number for sample in samples] == [0, 11, 0, 11]
    assert samples[2].row == (prompts[9].text, prompts[9].tags)
    assert (np.asarray(Image.open(tmp_path / files[1])) == GREY + 11).all()


def test_files_are_copied_to_where_the_official_tool_looks(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "mine.png")
    prompts, root = load_prompts("geneval", "eval", None, 0)[:3], tmp_path / "out"
    layout.export(root, prompts, {(prompts[2].id, 3): tmp_path / "mine.png"})
    assert sorted(path.name for path in root.iterdir()) == ["00000", "00001", "00002"]
    [sample] = layout.read_folder(root)
    assert (sample.file, sample.row) == ("00002/samples/00003.png", (prompts[2].text, prompts[2].tags))
    assert (root / sample.file).read_bytes() == (tmp_path / "mine.png").read_bytes()
    with pytest.raises(UserError, match="GenEval knows no demands"):
        layout.export(tmp_path / "other", [*prompts, Prompt("a yeti", "x")], {})
    assert not (tmp_path / "other").exists()


def sample(root, name, file="0000.png", metadata=True):
    (root / name / "samples").mkdir(parents=True, exist_ok=True)
    Image.fromarray(GREY).save(root / name / "samples" / file)
    if metadata:
        (root / name / "metadata.jsonl").write_text(geneval.published()[int(name)].line() + "\n")


def test_names_of_four_digits_are_read_and_other_files_passed_over(tmp_path):
    for name in ("0010", "0002"):
        sample(tmp_path, name)
        sample(tmp_path, name, "grid.png")
    (tmp_path / "results").mkdir()
    (tmp_path / "0002" / "samples" / "0001.png.part").write_text("")
    assert [one.file for one in layout.read_folder(tmp_path)] == [
        "0002/samples/0000.png",
        "0010/samples/0000.png",
    ]


def test_score_finds_the_prompts_in_it(tmp_path):
    sample(tmp_path, "0002")
    sample(tmp_path, "0002", "0001.png")
    found = with_prompts(tmp_path, None)
    assert found.files == ["0002/samples/0000.png", "0002/samples/0001.png"]
    assert found.prompts == [geneval.published()[2].prompt] * 2


def test_what_is_wrong_is_told_in_a_line(tmp_path):
    with pytest.raises(MissingAsset, match="no folder"):
        layout.read_folder(tmp_path / "none")
    with pytest.raises(UserError, match=r"no image in .*GenEval's folders are 00000/metadata.jsonl"):
        layout.read_folder(tmp_path)
    sample(tmp_path, "0002", metadata=False)
    with pytest.raises(UserError, match=r"no .*0002/metadata.jsonl; GenEval keeps"):
        layout.read_folder(tmp_path)
    (tmp_path / "0002" / "metadata.jsonl").write_text("{}")
    with pytest.raises(
        UserError, match=r"0002/metadata.jsonl: not GenEval's metadata: no 'include', in \{\}"
    ):
        layout.read_folder(tmp_path)
    sample(tmp_path, "0002")
    sample(tmp_path, "0002", "0.png")
    with pytest.raises(UserError, match="two images with the number 0; keep one"):
        layout.read_folder(tmp_path)
