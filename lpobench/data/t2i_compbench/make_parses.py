"""Makes a table of parses with a model of spaCy: `python -m lpobench.data.t2i_compbench.make_parses --help`.

Needs lpobench[compbench]. The official environment has en_core_web_sm 3.5.0; the version of spaCy itself makes no
difference.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lpobench.data.assets import locate
from lpobench.data.t2i_compbench.parses import Parse, Parses, Row, Token
from lpobench.data.t2i_compbench.prompts import ASSET, unparsed
from lpobench.plugin import MissingAsset, UserError

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

NEEDLESS = ("numeracy", "non_spatial")
"""Categories whose scores take no parse."""
KINDS = {"NOUN": "n", "PROPN": "p", "ADJ": "a"}


def make(folder: Path, model: str) -> Parses:
    """Of the published files in a folder, and the name or the place of a model. Raises MissingAsset and UserError."""
    parser = _load(model)
    rows = {
        name: row if row.category in NEEDLESS else Row(row.category, row.parts, parse_of(parser(text)).code)
        for name, (text, row) in unparsed(folder).items()
    }
    return Parses(f"{parser.meta['lang']}_{parser.meta['name']} {parser.meta['version']}", rows)


def parse_of(document: Doc) -> Parse:
    """White space that is a token is left out: no score sees it."""
    words = [token for token in document if not token.is_space]
    place = {token.i: number for number, token in enumerate(words)}
    tokens = [Token(word.idx, word.idx + len(word), KINDS.get(word.pos_, "o")) for word in words]
    chunks = [(place[chunk.start], place[chunk.end - 1] + 1) for chunk in document.noun_chunks]
    return Parse(document.text, tuple(tokens), tuple(chunks))


def _load(model: str) -> Language:
    try:
        import spacy

        return spacy.load(model)
    except ModuleNotFoundError as error:
        raise MissingAsset(f"prompts are parsed with {error.name}: install lpobench[compbench]") from None
    except OSError as error:
        raise MissingAsset(f"no model {model} of spaCy: {str(error).splitlines()[0]}") from None


def main() -> None:
    """The command line."""
    arguments = argparse.ArgumentParser(prog="make_parses", description="Parse the prompts of T2I-CompBench.")
    arguments.add_argument("out", type=Path, help="the table to write")
    arguments.add_argument("--model", default="en_core_web_sm", help="of spaCy: a name, or a folder")
    arguments.add_argument(
        "--prompts", type=Path, help=f"folder of the published files (default: asset {ASSET})"
    )
    given = arguments.parse_args()
    try:
        table = make(given.prompts or locate(ASSET), given.model)
    except UserError as error:
        sys.exit(f"error: {error}")
    given.out.write_text("\n".join(table.lines()) + "\n", encoding="utf-8")
    print(f"{given.out}: {len(table.rows):,} prompts, {table.model}")


if __name__ == "__main__":
    main()
