"""Alternative text of pictures that cells drew: what their text form says, or the cell's metadata (mystnb: image: alt)."""

import re

from docutils import nodes
from sphinx.util import logging

log = logging.getLogger(__name__)


def describe_pictures(app, doctree: nodes.document) -> None:
    """doctree-read: an output holds its picture and its text form side by side; one without any text is warned about."""
    for bundle in doctree.findall(lambda node: isinstance(node, nodes.container) and node.get("nb_element") == "mime_bundle"):
        said = next((part.astext() for part in bundle.children if part.get("mime_type") == "text/plain"), "")
        for image in bundle.findall(nodes.image):
            image["alt"] = image.get("alt") or in_words(said)
            if not image["alt"]:
                log.warning("a picture without words: return a `Plot`, or give its cell mystnb.image.alt", location=image)
            if not PHOTOGRAPHS.match(image["alt"]):
                image["classes"].append("prx-plot")


PHOTOGRAPHS = re.compile(r"grid of \d|Samples: |\d+ rows? of \d+ images?\b")  # text forms of pictures of images; all else is drawn


def in_words(text: str) -> str:
    """The first line of a text form; nothing where it is an object's address or a bare matplotlib figure."""
    line = text.strip().partition("\n")[0]
    return "" if line.startswith("<") else line
