"""Captions written from the scene graph, long or short, and exactly the facts that each states."""

from dataclasses import dataclass, replace

import numpy as np

from prx_lab.data.graph import LEVELS, Object, Scene, view
from prx_lab.data.source import kind_at
from prx_lab.errors import LabError

RELATIONS = ("left of", "right of", "in front of", "behind")
PHRASE = {"left of": "to the left of", "right of": "to the right of", "in front of": "in front of", "behind": "behind"}
NUMBERS = ("no", "one", "two", "three", "four")
LIGHT = {
    "left": ("light comes from the left", "it is lit from the left"),
    "right": ("light comes from the right", "it is lit from the right"),
    "front": ("light comes from the front", "it is lit from the front"),
    "above": ("light comes from above", "it is lit from above"),
}


@dataclass(frozen=True)
class Facts:
    """What a caption states: the objects, "" for an attribute it leaves open, and triples (object, one of RELATIONS, object) by index."""

    objects: tuple[Object, ...]
    relations: tuple[tuple[int, str, int], ...]


def choices(scene: Scene) -> np.random.Generator:
    """The caption's own random choices, fixed by the scene."""
    key = [scene.seed, scene.index, LEVELS.index(scene.level), len(scene.objects), 11]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def relation(scene: Scene, i: int, j: int) -> str:
    """The clearer relation of object i to object j: across where they differ by 12 % of the frame, else in depth."""
    a, b = scene.objects[i], scene.objects[j]
    across = view(scene).project(*a.centre)[0] - view(scene).project(*b.centre)[0]
    depth = a.z - b.z
    if abs(depth) > 0.8 and abs(across) < 0.30 or abs(across) < 0.12:
        return "behind" if depth > 0 else "in front of"
    return "left of" if across < 0 else "right of"


def facts(scene: Scene, kind: str = "long") -> Facts:
    """The objects and relations that `caption(scene, kind)` states: of a short one shapes and colours alone.

    A long one relates each object after the first to an earlier one.
    """
    if kind_at(kind, scene.index) == "short":
        return Facts(tuple(replace(o, size="", material="") for o in scene.objects), ())
    rng = choices(scene)
    flip = rng.random() < 0.5
    relations = []
    for k in range(1, len(scene.objects)):
        other = int(rng.integers(k))
        pair = (other, k) if flip and k == 1 else (k, other)
        relations.append((pair[0], relation(scene, *pair), pair[1]))
    return Facts(scene.objects, tuple(relations))


def full(obj: Object) -> str:
    """An object with all of its attributes, such as 'a small matte red cube'."""
    return f"a {obj.size} {obj.material} {obj.colour} {obj.shape}"


def brief(obj: Object, article: str = "the") -> str:
    """An object by its colour and shape, such as 'the red cube'; before 'orange' the article 'a' becomes 'an'."""
    if article == "a" and obj.colour == "orange":
        article = "an"
    return f"{article} {obj.colour} {obj.shape}"


def listed(parts: list[str]) -> str:
    """The parts in one list, with commas between them and 'and' before the last."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def caption(scene: Scene, kind: str = "long") -> str:
    """A caption in plain lower-case words; the same scene always gets the same one.

    `long`: every object with its four attributes, relations, surface and light; `short`: one clause that names the
    objects; `mixed`: one of the two, half each, by the scene's index. Raises LabError for another kind.
    """
    kind = kind_at(kind, scene.index)
    if kind == "short":
        return listed([brief(o, "a") for o in scene.objects])
    if kind != "long":
        raise LabError(f"A caption is 'long' or 'short', or 'mixed' for half of each, not {kind!r}.")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([scene.seed, scene.index, LEVELS.index(scene.level), 13])))
    body = pair(scene, rng) if len(scene.objects) == 2 else several(scene, rng)
    if scene.style == "photo":
        body = "a photo of " + body
    return f"{body} {setting(scene, rng)}.".replace(" .", ".")


def pair(scene: Scene, rng: np.random.Generator) -> str:
    """Two objects in one clause that carries their relation."""
    (i, word, j), *_ = facts(scene).relations
    stands = ("", "standing ")[int(rng.integers(2))] if scene.style == "photo" else (" is", " stands")[int(rng.integers(2))]
    a, b = full(scene.objects[i]), full(scene.objects[j])
    return f"{a} {stands.strip()} {PHRASE[word]} {b}".replace("  ", " ")


def several(scene: Scene, rng: np.random.Generator) -> str:
    """One object alone, or a counted list followed by relations."""
    if len(scene.objects) == 1:
        return full(scene.objects[0])
    opening = ("", f"{NUMBERS[len(scene.objects)]} objects, ")[int(rng.integers(2))]
    told = [f"{brief(scene.objects[i])} is {PHRASE[word]} {brief(scene.objects[j])}" for i, word, j in facts(scene).relations]
    return f"{opening}{listed([full(o) for o in scene.objects])}. {listed(told)}"


def setting(scene: Scene, rng: np.random.Generator) -> str:
    """The surface, the wall and the light."""
    light = LIGHT[scene.light][int(rng.integers(2))]
    floor, wall = f"a {scene.floor} floor", f"a {scene.wall} wall"
    if len(scene.objects) > 2:
        joins = (f". all stand on {floor} with {wall}, and {light}", f". there is {floor} and {wall}, and {light}")
    else:
        joins = (f"on {floor} with {wall}, and {light}", f"on {floor}. the wall is {scene.wall}. {light}")
    return joins[int(rng.integers(2))]
