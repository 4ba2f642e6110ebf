"""Reads the pages that the project writes."""

import html.parser


class Element:
    """A tag of a page, with its attributes, its text and what is in it."""

    def __init__(self, tag, attributes):
        self.tag, self.attributes = tag, dict(attributes)
        self.parts = []  # texts and elements

    @property
    def text(self):
        parts = (part if isinstance(part, str) else part.text for part in self.parts)
        return " ".join("".join(parts).split())

    def all(self, tag, **attributes):
        """All elements in it of a tag, in order, with these attributes at least."""
        for part in self.parts:
            if not isinstance(part, str):
                if part.tag == tag and part.attributes.items() >= attributes.items():
                    yield part
                yield from part.all(tag, **attributes)

    def only(self, tag, **attributes):
        (found,) = self.all(tag, **attributes)
        return found


class Page(html.parser.HTMLParser):
    """A whole page: it fetches nothing, its images have words, and its tags are closed."""

    VOID = ("meta", "img", "br", "link", "input")

    def __init__(self, text):
        super().__init__()
        assert text.startswith("<!DOCTYPE html>")
        assert "default-src 'none'" in text  # nor would the browser
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert self._open == [self.root]
        for image in self.root.all("img"):
            assert image.attributes["alt"]
            assert image.attributes["src"].startswith("data:image/")
        for tag in ("link", "iframe", "object", "a"):
            assert not list(self.root.all(tag))
        assert "//" not in self.root.only("style").text

    def handle_starttag(self, tag, attributes):
        element = Element(tag, attributes)
        assert tag == "img" or not {"src", "href", "srcset"} & element.attributes.keys()
        assert not [key for key in element.attributes if key.startswith("on")]
        self._open[-1].parts.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self._open[-1].parts.append(Element(tag, attributes))

    def handle_endtag(self, tag):
        assert self._open.pop().tag == tag

    def handle_data(self, data):
        self._open[-1].parts.append(data)

    def table(self, label):
        """The rows of a table, the header first, as text."""
        section = self.root.only("section", **{"aria-label": label})
        return [
            [cell.text for cell in row.parts if not isinstance(cell, str)]
            for row in section.all("tr")
        ]
