"""Tables say the protocol, fit 80 columns, and come out the same every time."""

import io

import pytest
from made import paired, protocol, record
from rich.console import Console

from lpobench.records.record import Cost
from lpobench.report.tables import Bold, Document, Section, comparison, document_markdown, to_markdown

MARKDOWN = """\
lpo on tiny-sd15, reward lrm  
standard@1: 600 shapes prompts (231 texts) x 1 image, 20 steps, guidance 5, noise seed 7; scored by shapes 1; \
1 training seed; intervals by bootstrap over prompts  
record tiny-sd15-lpo-s0-0123abcd  

| metric | none | lpo | difference [95% interval] | win rate |
| --- | ---: | ---: | ---: | ---: |
| correct | 0.5000 | 0.5500 | +0.0500 [+0.0300, +0.0800] | 62.5% |
| distance (lower is better) | 20.000 | 0.400 | -0.100 [-0.120, -0.070] | 62.5% |

| correct by task | prompts | none | lpo |
| --- | ---: | ---: | ---: |
| counting | 100 | 0.2500 | 0.5000 |

| phase | time | denoiser calls | latents denoised | images decoded |
| --- | ---: | ---: | ---: | ---: |
| load | 2.5 s | 0 | 0 | 0 |
| update | 100.2 s | 1,200 | 2,400 | 80 |
| generate none | reused |  |  |  |
| all | 102.8 s | 1,200 | 2,400 | 80 |

peak memory 1.50 GiB on cpu, 2 threads
"""


def shown(table, width=80):
    text = io.StringIO()
    Console(file=text, width=width, no_color=True).print(table)
    return text.getvalue()


def test_markdown_is_exactly_this():
    assert to_markdown(record()) == MARKDOWN


@pytest.mark.parametrize("width", [80, 200])
def test_nothing_is_cut_at_80_columns(width):
    metrics = {
        "a_metric_with_a_long_name_of_its_own": paired(-0.1234, mean_base=3.25),
        "hpsv2.score": paired(123.5, mean_base=512.0),
    }
    text = shown(comparison(record(method="diffusion-dpo", metrics=metrics, check=None)), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for cell in ("-0.1234 [-0.1434, -0.0934]", "+123.50 [+123.48, +123.53]", "3.2500", "512.00", "62.5%"):
        assert cell in text
    first_column = "".join(line.split("  ")[0].strip() for line in text.splitlines())
    assert all(name in first_column for name in metrics)


def test_the_terminal_shows_what_markdown_shows():
    text = " ".join(shown(comparison(record()), 400).split())
    for line in MARKDOWN.splitlines():
        for cell in line.strip("| ").split(" | "):
            assert cell.strip() in text or set(cell) <= set("-: |")


def test_a_run_that_trained_nothing_has_one_column():
    text = to_markdown(record(method="none", reward=None, trained=False, training=None))
    assert "| metric | none |\n" in text
    assert "| correct by task | prompts | none |\n" in text
    assert "win rate" not in text


def test_what_a_reader_must_know_is_in_the_header():
    text = to_markdown(record(limit=8, trained_reward="reward-0123", protocol=protocol(images_per_prompt=4)))
    assert text.startswith(
        "lpo on tiny-sd15, reward lrm trained by this run  \nstandard@1: 600 shapes prompts (231 texts) x 4 images"
    )
    assert "cut short by --limit 8: for trying things, not a result" in text
    assert "prompts x" in to_markdown(record(protocol=protocol(num_texts=600)))


def test_a_metric_without_an_interval():
    assert "+0.0500 [n/a]" in to_markdown(
        record(metrics={"correct": paired(low=None, high=None)}, check=None)
    )


def test_a_bar_in_a_name_does_not_break_markdown():
    assert "| a\\|b | 1.0 s | 2 | 3 | 0 |" in to_markdown(
        record(costs={"a|b": Cost(seconds=1, calls=2, rows=3)})
    )


def test_a_document_is_a_title_tables_and_what_must_be_read_with_them():
    section = Section(["a", "b", "n"], [["x", "y", "1"], ["x", "z", Bold("2|3")]], "note", "Some", labels=2)
    assert (
        document_markdown(Document("Title", [section], ["above"], ["below", "last"]))
        == """\
## Title

above  

### Some

| a | b | n |
| --- | --- | ---: |
| x | y | 1 |
| x | z | **2\\|3** |

note

below  
last  
"""
    )
