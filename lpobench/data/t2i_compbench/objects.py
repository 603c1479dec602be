"""The objects that numeracy prompts count: singular and plural. T2I-CompBench's new_objects.txt (MIT, HKU 2023)."""

import re

REGULAR = re.findall(
    r"\w+",
    """airplane apple backpack bag balloon banana bear bee bicycle bird boat book bottle bowl boy bread cake camel
camera candle car cat chair chicken clock computer cow cup desk dog drum duck egg flag frog giraffe girl guitar
hamburger helicopter helmet horse key kite lamp lemon microphone microwave painting paddle pear pen phone pig pillow
plate printer rabbit refrigerator ship sink sofa stool suitcase swan table television tent toy train truck turtle
vase""",
)
IRREGULAR = {
    "butterfly": "butterflies",
    "couch": "couches",
    "deer": "deer",
    "fish": "fish",
    "goldfish": "goldfish",
    "knife": "knives",
    "man": "men",
    "mouse": "mice",
    "peach": "peaches",
    "person": "people",
    "sheep": "sheep",
    "shrimp": "shrimp",
    "strawberry": "strawberries",
    "tomato": "tomatoes",
    "woman": "women",
}
PLURALS = {**{name: f"{name}s" for name in REGULAR}, **IRREGULAR}
COUNTED = {form: name for name, plural in PLURALS.items() for form in (name, plural)}
"""Either form -> singular."""
