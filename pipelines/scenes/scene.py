"""Scenes that a caption describes completely: coloured shapes, numbers of them, and words.

They probe what text-to-image models confuse: which object has which colour, how many there are,
and how a word is spelled (DALL·E 2, section 7). `pipelines.scenes.drawing` draws a scene, and
`pipelines.scenes.checker` says whether an image shows it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, get_args

Shape = Literal["circle", "square", "triangle", "star"]
Colour = Literal["red", "green", "blue", "yellow", "purple", "black"]
Relation = Literal["left of", "above"]
Kind = Literal["single", "binding", "counting", "text"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
RELATIONS: tuple[Relation, ...] = get_args(Relation)
KINDS: tuple[Kind, ...] = get_args(Kind)
NUMBERS: Mapping[int, str] = {2: "two", 3: "three", 4: "four", 5: "five"}
WORDS = (
    *("GO", "UP", "NO", "HI", "OK", "ME", "IT", "AX"),
    *("CAT", "DOG", "SUN", "BUS", "FOX", "KEY", "MAP", "JAR"),
    *("ZOO", "VAN", "ICE", "PIG", "OWL", "TEN", "HUT", "BED"),
)


@dataclass(frozen=True)
class Item:
    """One object."""

    shape: Shape
    colour: Colour

    def __str__(self) -> str:
        """Words such as "red circle"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Lettering:
    """A written word."""

    word: str  # one of WORDS
    colour: Colour


@dataclass(frozen=True)
class Scene:
    """What an image shows: either objects, or a word."""

    kind: Kind
    items: tuple[Item, ...] = ()  # no objects for a text
    relation: Relation | None = None  # of the first item to the second
    lettering: Lettering | None = None

    @property
    def caption(self) -> str:
        """The caption, which no other scene has."""
        if self.lettering is not None:
            return f'the word "{self.lettering.word}" in {self.lettering.colour}'
        first = self.items[0]
        if self.kind == "counting":
            return f"{NUMBERS[len(self.items)]} {first}s"
        return f"a {first} {self.relation} a {self.items[1]}" if self.relation else f"a {first}"


def text_scene(word: str, colour: Colour) -> Scene:
    """A word in a colour."""
    return Scene("text", lettering=Lettering(word, colour))


def binding_scenes() -> Iterator[Scene]:
    """Pairs of objects that differ in shape and in colour, in both orders, in every relation."""
    items = [Item(shape, colour) for shape, colour in product(SHAPES, COLOURS)]
    for first, second, relation in product(items, items, RELATIONS):
        if first.shape != second.shape and first.colour != second.colour:
            yield Scene("binding", (first, second), relation)


@cache
def all_scenes() -> tuple[Scene, ...]:
    """Every scene, in a fixed order: single, binding, counting, text."""
    items = [Item(shape, colour) for shape, colour in product(SHAPES, COLOURS)]
    return (
        *(Scene("single", (item,)) for item in items),
        *binding_scenes(),
        *(Scene("counting", (item,) * number) for number, item in product(NUMBERS, items)),
        *(text_scene(word, colour) for word, colour in product(WORDS, COLOURS)),
    )


@cache
def _by_caption() -> Mapping[str, Scene]:
    return {scene.caption: scene for scene in all_scenes()}


def parse(caption: str) -> Scene | None:
    """The scene that a caption describes, or None. The inverse of `Scene.caption`."""
    return _by_caption().get(caption)
