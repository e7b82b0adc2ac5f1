"""What outputs of cells say beyond their looks: words for pictures, and classes that tell the page's style what each one is.

The words are the output's text form, or the cell's metadata (mystnb: image: alt).
"""

import re
from pathlib import Path

from docutils import nodes
from sphinx.util import logging

log = logging.getLogger(__name__)
PHONE = 620  # pixels: what is drawn no wider can still be read when it is fitted to a phone
PHOTOGRAPHS = re.compile(r"Images: |grid of \d|Samples: |\d+ rows? of \d+ images?\b")  # pictures of images; all else is drawn
GAP = re.compile(r"\S {2,}(?=\S)")


def describe_pictures(app, doctree: nodes.document) -> None:
    """doctree-read: an output holds its picture and its text form side by side; one without any text is warned about.

    What is drawn has the class `prx-plot`, as its grey is set for each theme, and `prx-narrow` where it fits a phone.
    """
    for bundle in doctree.findall(lambda node: isinstance(node, nodes.container) and node.get("nb_element") == "mime_bundle"):
        said = next((part.astext() for part in bundle.children if part.get("mime_type") == "text/plain"), "")
        for image in bundle.findall(nodes.image):
            image["alt"] = image.get("alt") or in_words(said)
            if not image["alt"]:
                log.warning("a picture without words: return a `Plot`, or give its cell mystnb.image.alt", location=image)
            if not PHOTOGRAPHS.match(image["alt"]):
                image["classes"].append("prx-plot")
                image["classes"] += ["prx-narrow"] * (width(Path(app.srcdir, image["uri"])) <= PHONE)


def in_words(text: str) -> str:
    """The first line of a text form; nothing where it is an object's address or a bare matplotlib figure."""
    line = text.strip().partition("\n")[0]
    return "" if line.startswith("<") else line


def width(path: Path) -> int:
    """Pixels across a PNG, from its header."""
    return int.from_bytes(path.read_bytes()[16:20], "big")


def mark_columns(app, doctree: nodes.document) -> None:
    """doctree-read: printed text with columns has the class `prx-columns`, as it may not be wrapped; all other is."""
    for block in doctree.findall(nodes.literal_block):
        if "output" in block["classes"] and in_columns(block.astext()):
            block["classes"].append("prx-columns")


def in_columns(text: str) -> bool:
    """Whether two lines or more have three columns: two gaps of two spaces or more. A label before a sentence makes no table."""
    return sum(len(GAP.findall(line)) > 1 for line in text.splitlines()) > 1
