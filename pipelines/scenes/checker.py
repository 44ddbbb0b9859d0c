"""Check whether an image shows a scene, with rules instead of a trained model."""

from dataclasses import dataclass

from PIL import Image

from pipelines.scenes.reading import Content, read
from pipelines.scenes.scene import Scene


@dataclass(frozen=True)
class Checked:
    """What an image shows of a scene. None: the scene has no such property."""

    content: Content
    has_colours: bool  # the colours of the scene and no other, on whatever
    has_shapes: bool | None = None  # the shapes of the scene and no other, in any colours
    has_binding: bool | None = None  # each shape in its colour; implies the two above
    has_count: bool | None = None  # the number of objects
    has_relation: bool | None = None  # one object of each shape, in any colours, in the relation
    has_text: bool | None = None  # the word, in any colours

    @property
    def is_right(self) -> bool:
        """Whether the image shows all of the scene, and nothing else."""
        parts = (self.has_shapes, self.has_binding, self.has_count, self.has_relation)
        return self.has_colours and all(part is not False for part in (*parts, self.has_text))


def check(image: Image.Image, scene: Scene) -> Checked:
    """Compare a square image of 64 pixels or more with a scene.

    Each pixel gets the nearest colour of the palette, and connected areas of one colour are
    objects. An area is a shape, and all areas together are a word, if they overlap well with a
    template that is stretched to the same box.

    Tolerated: any position and size, stretching by up to 1.3, JPEG of quality 75, blur with a
    standard deviation of 1 pixel of 64, noise with one of 16 of 255, a background of light grey,
    and specks below 0.3% of the image.
    Rejected, although a person may accept them: rotated shapes, shapes of one colour that touch,
    shapes wider or higher than 0.9 of the image, other typefaces, colours between those of the
    palette, small stars and words behind a stronger blur.
    Raises ValueError if the image is not square.
    """
    return compare(read(image), scene)


def compare(content: Content, scene: Scene) -> Checked:
    """Compare what an image shows with a scene; for many scenes, the image is read once."""
    found = content.objects
    if scene.lettering is not None:
        has_colours = {each.colour for each in found} == {scene.lettering.colour}
        return Checked(content, has_colours, has_text=content.word == scene.lettering.word)
    pairs = {(each.shape, each.colour) for each in found}
    return Checked(
        content,
        has_colours={each.colour for each in found} == {item.colour for item in scene.items},
        has_shapes={each.shape for each in found} == {item.shape for item in scene.items},
        has_binding=pairs == {(item.shape, item.colour) for item in scene.items},
        has_count=len(found) == len(scene.items),
        has_relation=_has_relation(content, scene),
    )


def _has_relation(content: Content, scene: Scene) -> bool | None:
    """Whether the relation holds: the centres differ, and more along its axis than across."""
    if scene.relation is None:
        return None
    centres = {each.shape: each.centre for each in content.objects}
    first, second = (centres.get(item.shape) for item in scene.items)
    if first is None or second is None or len(centres) != len(content.objects):
        return False
    right, down = second[0] - first[0], second[1] - first[1]
    along, across = (right, down) if scene.relation == "left of" else (down, right)
    return along > abs(across)
