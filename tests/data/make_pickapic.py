"""Makes a parquet set in Pick-a-Pic's exact schema: `python tests/data/make_pickapic.py --out FOLDER --rows 20000`.

Shapes world as small JPEGs, the same for a seed: three pictures of a prompt make three pairs. Ties and rows with
has_label=False are among them, and as many damaged rows of each kind in DAMAGE as are asked for.
"""

from __future__ import annotations

import argparse
import uuid
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from lpobench.data.pairs.world import GROUP, jpeg
from lpobench.data.shapes.annotator import altered
from lpobench.data.shapes.render import draw
from lpobench.data.shapes.scene import sample_scene

SCHEMA = pa.schema(
    {
        "are_different": pa.bool_(),
        "best_image_uid": pa.string(),
        "caption": pa.string(),
        "created_at": pa.timestamp("ns"),
        "has_label": pa.bool_(),
        "image_0_uid": pa.string(),
        "image_0_url": pa.string(),
        "image_1_uid": pa.string(),
        "image_1_url": pa.string(),
        "jpg_0": pa.binary(),
        "jpg_1": pa.binary(),
        "label_0": pa.float64(),
        "label_1": pa.float64(),
        "model_0": pa.string(),
        "model_1": pa.string(),
        "ranking_id": pa.int64(),
        "user_id": pa.int64(),
        "num_example_per_prompt": pa.int64(),
        "__index_level_0__": pa.int64(),
    }
)
TIES, UNLABELLED = 0.12, 0.03
DAMAGE = {
    "broken jpeg": {"jpg_0": lambda row: row["jpg_0"][: len(row["jpg_0"]) // 2]},
    "not an image": {"jpg_1": lambda row: b"<html>404</html>"},
    "no image": {"jpg_1": lambda row: None},
    "no caption": {"caption": lambda row: None},
    "odd label": {"label_0": lambda row: 0.3, "label_1": lambda row: 0.7},
    "odd sum": {"label_0": lambda row: 1.0, "label_1": lambda row: 1.0},
}
"""Kind of damage -> what becomes of a row's cells. A damaged row has has_label=True."""


def rows(split: str, num: int, seed: int) -> Iterator[dict]:
    """Whole rows of a split, undamaged."""
    rng = np.random.default_rng([seed, *split.encode()])
    group = GROUP if split == "train" else GROUP[:1]
    for index in range(num):
        prompt, member = divmod(index, len(group))
        if member == 0:
            scene = sample_scene("train" if split == "train" else "eval", rng)
            pictures = [_picture(scene, rng) for _ in range(len({i for pair in group for i in pair}))]
        members = min(len(group), num - prompt * len(group))
        yield _row(index, scene.text, [pictures[i] for i in group[member]], members, rng)


def _picture(scene, rng: np.random.Generator) -> tuple[str, bytes, bool]:
    """Uid, file, and whether it shows its prompt."""
    faithful = rng.random() < 0.5
    pixels = draw(scene if faithful else altered(scene, rng), rng)
    return str(uuid.UUID(bytes=rng.bytes(16))), jpeg((pixels * 255).round().astype(np.uint8)), faithful


def _row(index: int, caption: str, pictures: list[tuple[str, bytes, bool]], members: int, rng) -> dict:
    (uid_0, jpg_0, good_0), (uid_1, jpg_1, good_1) = pictures
    tie, ahead = rng.random() < TIES, float(good_0) - float(good_1) + rng.logistic(scale=0.3) > 0
    has_label = bool(rng.random() >= UNLABELLED)
    label = 0.5 if tie else float(ahead)
    return {
        "are_different": True,
        "best_image_uid": "tie" if tie else uid_0 if ahead else uid_1,
        "caption": caption,
        "created_at": 1_675_000_000_000_000_000 + index,
        "has_label": has_label,
        "image_0_uid": uid_0,
        "image_0_url": f"https://example.invalid/{uid_0}.png",
        "image_1_uid": uid_1,
        "image_1_url": f"https://example.invalid/{uid_1}.png",
        "jpg_0": jpg_0,
        "jpg_1": jpg_1,
        "label_0": label if has_label else 0.0,
        "label_1": 1 - label if has_label else 0.0,
        "model_0": "shapes",
        "model_1": "shapes",
        "ranking_id": index,
        "user_id": index % 97,
        "num_example_per_prompt": members,
        "__index_level_0__": index,
    }


def write(
    folder: Path,
    num: int = 60,
    *,
    held_out: int = 0,
    files: int = 1,
    group: int = 100,
    seed: int = 0,
    damaged: dict[str, int] | None = None,
) -> dict[str, list[int]]:
    """Write `num` training rows in `files` files, and `held_out` rows of each unique split in one file.

    `group` is rows per row group. `damaged` is kind -> how many training rows; returns kind -> which rows.
    """
    kinds = [kind for kind, count in (damaged or {}).items() for _ in range(count)]
    assert len(kinds) <= num, "more damage than rows"
    where = sorted(np.random.default_rng([seed, 7]).permutation(num)[: len(kinds)].tolist())
    plan = dict(zip(where, kinds, strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    for split, size, count in (
        ("train", num, files),
        ("validation_unique", held_out, 1),
        ("test_unique", held_out, 1),
    ):
        made = _damaged(rows(split, size, seed), plan if split == "train" else {})
        for file in range(count if size else 0):
            share = size * (file + 1) // count - size * file // count
            path = folder / f"{split}-{file:05d}-of-{count:05d}.parquet"
            with pq.ParquetWriter(path, SCHEMA) as writer:
                left = islice(made, share)
                while part := list(islice(left, group)):
                    writer.write_table(pa.Table.from_pylist(part, SCHEMA), row_group_size=group)
    return {kind: [row for row in where if plan[row] == kind] for kind in dict.fromkeys(kinds)}


def _damaged(made: Iterator[dict], plan: dict[int, str]) -> Iterator[dict]:
    for index, row in enumerate(made):
        if index in plan:
            row |= {"has_label": True, "label_0": 1.0, "label_1": 0.0}
            row |= {name: change(row) for name, change in DAMAGE[plan[index]].items()}
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--rows", type=int, default=2000, help="training rows")
    parser.add_argument(
        "--held-out", type=int, default=100, help="rows of validation_unique and of test_unique"
    )
    parser.add_argument("--files", type=int, default=4, help="files of the training split")
    parser.add_argument("--group", type=int, default=100, help="rows per row group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--damaged", type=int, default=0, help="training rows with each kind of damage")
    args = parser.parse_args()
    damaged = dict.fromkeys(DAMAGE, args.damaged)
    where = write(
        args.out,
        args.rows,
        held_out=args.held_out,
        files=args.files,
        group=args.group,
        seed=args.seed,
        damaged=damaged,
    )
    for kind, which in where.items():
        print(f"{kind}: rows {', '.join(map(str, which))}")


if __name__ == "__main__":
    main()
