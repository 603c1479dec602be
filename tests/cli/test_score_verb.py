"""`lpobench score`: plain images, scored through the VAE's encoder or as they are."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from made_judges import judges, picture  # noqa: F401
from PIL import Image

pytestmark = pytest.mark.usefixtures("judges")


def logit(shade: float) -> float:
    return math.log(shade / (1 - shade))


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Ten grey images, 1.png to 10.png, and p.csv with a number as prompt for each."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(1, 11):
        picture(tmp_path / "images" / f"{number}.png", 20 * number)
    lines = [f"{number}.png,{number}\n" for number in range(1, 11)]
    (tmp_path / "p.csv").write_text("file,prompt\n" + "".join(lines))
    return tmp_path


def scored(cli, *words, prompts=("--prompts", "p.csv")):
    return cli("score", "images", *prompts, *words)


def table(done) -> pd.DataFrame:
    from io import StringIO

    assert done.code == 0, done.err
    return pd.read_csv(StringIO(done.out), dtype={"prompt": str}, keep_default_na=False)


def test_a_row_per_image_on_stdout(cli, images):
    """Latents are the logit of the shade, and the reward 8 times their mean."""
    found = table(scored(cli))
    assert list(found.columns) == ["file", "prompt", "brighter", "problem"]
    assert found["file"].tolist() == [f"{number}.png" for number in range(1, 11)]
    assert found["prompt"].tolist() == [str(number) for number in range(1, 11)]
    expected = [8 * logit(20 * number / 255) for number in range(1, 11)]
    assert found["brighter"].to_numpy() == pytest.approx(expected, rel=1e-5)


def test_to_a_file_with_means_on_stdout(cli, images):
    done = scored(cli, "--out", "scores.csv", "--reward", "brighter", "--reward", "pixel,metric=light")
    assert done.code == 0, done.err
    found = pd.read_csv("scores.csv")
    assert "10 of 10 scored, in scores.csv" in done.out
    assert "finished images" in done.out
    assert "t = 5" in scored(cli, "--out", "noised.csv", "--t", "5").out
    assert f"{found['brighter'].mean():.6g}" in done.out
    assert found["pixel"].to_numpy() == pytest.approx([20 * n / 255 for n in range(1, 11)])
    assert "problem" in found


@pytest.mark.parametrize("t", [None, "501"])
def test_a_score_depends_on_the_image_alone(cli, images, t):
    words = () if t is None else ("--t", t)
    whole = table(scored(cli, *words)).set_index("file")["brighter"]
    assert table(scored(cli, *words, "--batch", "3")).set_index("file")["brighter"].equals(whole)
    for name in ("4", "5", "6", "7", "8", "9", "10"):
        (images / "images" / f"{name}.png").unlink()
    few = table(scored(cli, *words)).set_index("file")["brighter"]
    assert few.equals(whole[:3])
    (images / "images" / "2.png").rename(images / "images" / "4.png")
    moved = table(scored(cli, *words)).set_index("file")["brighter"]
    assert moved["4.png"] == whole["2.png"], "the noise belongs to the content, not to the name"


def test_noise_of_a_level(cli, images):
    """At t the latents are alpha x + sigma noise: scores move, by a seed, and less where there is less noise."""
    clean, low, high, other = (
        table(scored(cli, *words))["brighter"]
        for words in ((), ("--t", "1"), ("--t", "901"), ("--t", "901", "--seed", "1"))
    )
    assert (clean != low).all()
    assert (high != other).all()
    assert abs(clean - low).max() < abs(clean - high).max()


def test_evaluators_see_the_file_and_need_no_backbone(cli, images, monkeypatch):
    from made_judges import Seeing

    monkeypatch.setattr(Seeing, "load", None)
    picture(images / "images" / "3.png", 60, size=(9, 7))
    found = table(scored(cli, "--evaluators", "meter,far", "--batch", "4"))
    assert list(found.columns) == ["file", "prompt", "light", "bright", "distance", "problem"]
    assert found["light"].to_numpy() == pytest.approx([20 * n / 255 for n in range(1, 11)])
    assert found["distance"].to_numpy() == pytest.approx(1 - found["light"])


def test_rewards_and_evaluators_in_one_table(cli, images):
    found = table(scored(cli, "--reward", "brighter", "--evaluators", "meter"))
    assert list(found.columns) == ["file", "prompt", "brighter", "light", "bright", "problem"]


def test_unusual_images_are_converted_and_counted(cli, images):
    folder = images / "images"
    picture(folder / "1.png", 20, mode="L")
    picture(folder / "2.png", 40, mode="RGBA")
    picture(folder / "3.png", 60, size=(40, 24))
    Image.fromarray(np.full((4, 4), 80 * 257, dtype=np.uint16)).save(folder / "4.png")
    done = scored(cli)
    found = table(done)
    expected = [8 * logit(20 * number / 255) for number in range(1, 11)]
    assert found["brighter"].to_numpy() == pytest.approx(expected, rel=1e-5)
    for line in (
        "2 images grey, made RGB",
        "1 image with an alpha channel, dropped",
        "1 image of 16 bits, cut to 8",
        "1 image resized to 4 x 4, aspect ratio not kept",
    ):
        assert line in done.err.splitlines()


def test_what_cannot_be_scored_is_told_and_keeps_its_row(cli, images):
    folder, whole = images / "images", (images / "images" / "5.png").read_bytes()
    (folder / "5.png").write_bytes(whole[: len(whole) // 2])
    (folder / "6.png").write_bytes(b"")
    picture(folder / "11.png", 5)
    done = scored(cli)
    found = table(done).set_index("file")
    assert len(found) == 11
    assert (
        found.loc["5.png", "problem"] == found.loc["6.png", "problem"] == "damaged, or no PNG, JPEG or WebP"
    )
    assert found.loc["11.png", "problem"] == "no prompt"
    assert (found["brighter"] == "").sum() == 3
    assert "2 images left out, damaged, or no PNG, JPEG or WebP: 5.png, 6.png" in done.err
    assert "1 image left out, no prompt: 11.png" in done.err
    document = json.loads(scored(cli, "--json").out)
    assert (document["images"], document["scored"], len(document["rows"])) == (11, 8, 11)
    assert document["rows"][4]["brighter"] is None
    assert document["problems"] == {"damaged, or no PNG, JPEG or WebP": 2, "no prompt": 1}


def test_scores_that_are_not_finite_end_in_4_after_everything_is_written(cli, images):
    (images / "p.csv").write_text((images / "p.csv").read_text().replace("3.png,3", "3.png,13"))
    done = scored(cli, "--reward", "spoilt", "--reward", "brighter", "--out", "scores.csv")
    assert done.code == 4
    assert done.err.splitlines()[-1] == (
        "error: 1 of 10 images have a score that is not finite: 3.png; all rows are in scores.csv"
    )
    found = pd.read_csv("scores.csv").set_index("file")
    assert len(found) == 10
    assert math.isnan(found.loc["3.png", "spoilt"])
    assert found.loc["3.png", "brighter"] == pytest.approx(8 * logit(60 / 255), rel=1e-5)
    assert found.loc["3.png", "problem"] == "a score is not finite"


def test_a_text_beside_each_image(cli, images):
    for number in range(1, 10):
        (images / "images" / f"{number}.txt").write_text(f"{number}")
    found = table(scored(cli, prompts=()))
    assert found["problem"].tolist() == [""] * 9 + ["no prompt"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("score nowhere", 3, "no folder nowhere"),
        ("score empty", 2, "no image in empty; known: files ending in .png"),
        ("score images", 2, "no image in images has a prompt in a .txt beside it"),
        ("score images --prompts nowhere.csv", 3, "no prompt file nowhere.csv"),
        ("score images --prompts p.yaml", 2, "cannot read prompts from p.yaml; known: a file ending in .txt"),
        ("score images --prompts twice.csv", 2, "twice.csv: 1.png has two prompts, '1' and '2'; keep one"),
        ("score images --prompts short.txt", 2, "short.txt has 1 prompts for 10 images"),
        ("score damaged --prompts d.csv", 2, "none of the 1 images in damaged can be scored: 1 damaged"),
        ("score images --prompts p.csv --reward x", 2, 'unknown reward "x"; known: brighter'),
        ("score images --prompts p.csv --evaluators x", 2, 'unknown evaluator "x"; known: '),
        ("score images --prompts p.csv --t soon", 2, 'timestep "soon": should be a number from 0 to 999'),
        ("score images --prompts p.csv --t 1000", 2, "timestep 1000: should be a whole number"),
        ("score images --prompts p.csv --t 5 --evaluators meter", 2, "--t is for rewards"),
        ("score images --prompts p.csv --backbone toy", 2, "backbone gaussian has no VAE to encode with"),
        ("score images --prompts p.csv --out s.txt", 2, "--out should end in .csv, got s.txt"),
        ("score images --prompts p.csv --batch 0", 2, "Invalid value for '--batch'"),
        ("score", 2, "Missing argument 'DIR'"),
    ],
)  # fmt: skip
def test_one_line_and_the_documented_code(cli, images, words, code, message):
    (images / "empty").mkdir()
    (images / "damaged").mkdir()
    (images / "damaged" / "1.png").write_bytes(b"\x89PNG")
    (images / "d.csv").write_text("file,prompt\n1.png,1\n")
    (images / "twice.csv").write_text("file,prompt\n1.png,1\n1.png,2\n")
    (images / "short.txt").write_text("1\n")
    done = cli(*words.split())
    lines = [line for line in done.err.splitlines() if not line.startswith(("no built-in", "scoring"))]
    assert len(lines) == 1, done.err
    assert lines[0].startswith(f"error: {message}")
    assert (done.code, done.out) == (code, "")
