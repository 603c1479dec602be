"""The rules against the official tool's verdicts, and against the paper's words read literally."""

import json
from fractions import Fraction

import made_geneval as made
import numpy as np
import pytest
from seeded import golden

from evaluators.geneval.rules import Detections, Found, is_correct, objects, relations, threshold
from lpobench.data import geneval

GOLDEN = golden("geneval_rules")
PROMPTS = geneval.published()


def as_detections(case):
    labels, scores, boxes, _ = zip(*case, strict=True) if case else ((), (), (), ())
    masks = np.array([made.mask(box) for box in boxes]).reshape(-1, made.HEIGHT, made.WIDTH)
    boxes = np.float32(boxes).reshape(-1, 4)
    return Detections(np.int64(labels), np.float32(scores), boxes, masks)


def verdict(demands, case):
    known = {(geneval.NAMES[label], box): colour for label, _, box, colour in case}
    look = lambda some, name: [known[name, tuple(int(side) for side in one.box)] for one in some]
    return is_correct(demands, objects(as_detections(case), demands.task), look)


def made_case(number):
    demands = PROMPTS[number % len(PROMPTS)]
    return demands, made.case(json.loads(demands.line()), geneval.NAMES, geneval.COLOURS, number)


def test_the_verdicts_of_the_official_tool():
    """1,659 made cases, three of each prompt: the tool's own code decided."""
    found = [verdict(*made_case(number)) for number in range(len(GOLDEN["verdicts"]))]
    assert len(found) == 3 * len(PROMPTS)
    assert "".join(str(int(one)) for one in found) == GOLDEN["verdicts"]


def literally(demands, case):
    """Section 3 of the paper and its appendix, with exact numbers."""
    surely = 0.9 if demands["tag"] == "counting" else 0.3
    seen = {}
    for label, score, box, colour in sorted(case, key=lambda one: -one[1]):
        if score > np.float32(surely) and len(seen.setdefault(label, [])) < 16:
            seen[label].append((box, colour))
    groups = []
    for entry in demands["include"]:
        of_class = seen.get(geneval.NAMES.index(entry["class"]), [])
        if len(of_class) < entry["count"]:
            return False
        groups.append([box for box, _ in of_class[: entry["count"]]])
        if "color" in entry:
            right = [colour == entry["color"] for _, colour in of_class[: entry["count"]]]
            if not all(right):
                return False
    for number, entry in enumerate(demands["include"]):
        if "position" in entry:
            side, other = entry["position"]
            for a in groups[number]:
                for b in groups[other]:
                    if not stands(a, b, side):
                        return False
    for entry in demands.get("exclude", []):
        if len(seen.get(geneval.NAMES.index(entry["class"]), [])) >= entry["count"]:
            return False
    return True


def stands(a, b, side):
    """Along the side's axis the offset of the centres, less a tenth of both sizes, is over half of their distance."""
    axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[side]
    offset = [Fraction(a[i] + a[i + 2] - b[i] - b[i + 2], 2) for i in (0, 1)]
    slack = Fraction(a[axis + 2] - a[axis] + b[axis + 2] - b[axis], 10)
    rest = sign * offset[axis] - slack
    return rest > 0 and 4 * rest**2 > offset[0] ** 2 + offset[1] ** 2


def test_the_rules_read_literally():
    """1,106 other cases."""
    verdicts = []
    for number in range(10_000, 10_000 + 2 * len(PROMPTS)):
        demands, case = made_case(number)
        wanted = literally(json.loads(demands.line()), case)
        assert verdict(demands, case) == wanted, (number, demands.prompt, case)
        verdicts.append(wanted)
    assert 0.3 < np.mean(verdicts) < 0.7


def found(*box):
    return Found(np.float32(box), np.zeros((1, 1), bool))


def test_positions_by_hand():
    """Squares of side 10: a tenth of both is 2. Offset (-30, 0): 28 of 30. Offset (12, 12): 10 of 17, 0.59 each.
    Offset (4, 0): 2 of 4 is not over a half. Offset (2, 0): nothing is left. Offset (12, 6): 0.745 and 0.298.
    """
    at = lambda x, y: relations(found(50 + x, 50 + y, 60 + x, 60 + y), found(50, 50, 60, 60))
    assert at(-30, 0) == {"left of"}
    assert at(12, 12) == {"right of", "below"}
    assert at(-12, -12) == {"left of", "above"}
    assert at(4, 0) == set()
    assert at(5, 0) == {"right of"}
    assert at(2, 0) == at(0, 0) == set()
    assert at(12, 6) == {"right of"}


def test_thresholds_are_above_not_at():
    for task, level in (("colors", 0.3), ("counting", 0.9)):
        assert threshold(task) == level
        scores = np.float32([level, np.nextafter(np.float32(level), np.float32(1)), level / 2])
        masks = np.zeros((3, 2, 2), bool)
        boxes = np.float32([[0, 0, i, i] for i in range(3)])
        kept = objects(Detections(np.array([15, 15, 15]), scores, boxes, masks), task)
        assert [one.box.tolist() for one in kept["cat"]] == [[0, 0, 1, 1]]


def test_the_surest_sixteen_of_a_class_count():
    scores = np.float32(np.linspace(0.95, 0.99, 20))
    boxes, masks = np.float32([[i, 0, i + 1, 1] for i in range(20)]), np.zeros((20, 1, 20), bool)
    kept = objects(Detections(np.zeros(20, int), scores, boxes, masks), "counting")["person"]
    assert [int(one.box[0]) for one in kept] == list(range(19, 3, -1))


@pytest.mark.parametrize(("count", "right"), [(1, False), (2, True), (3, False)])
def test_counting_is_exact(count, right):
    demands = geneval.Demands("counting", "", (geneval.Clause("cat", 2),), (geneval.Clause("cat", 3),))
    assert is_correct(demands, {"cat": [found(0, 0, 1, 1)] * count}, None) is right


def test_only_the_surest_object_is_asked_for_its_colour():
    demands = geneval.Demands("colors", "", (geneval.Clause("cat", 1, "red"),))
    cats = [found(0, 0, 1, 1), found(5, 5, 6, 6)]
    asked = []

    def colours(some, name):
        asked.append((name, len(some)))
        return ["blue" if one.box[0] else "red" for one in some]

    assert is_correct(demands, {"cat": cats}, colours)
    assert not is_correct(demands, {"cat": cats[::-1]}, colours)
    assert asked == [("cat", 1), ("cat", 1)]
