"""A project list in HTML (PEP 503), read piece by piece: which of its links are projects, and is it a list at all.

A captive portal answers 200 with HTML, too. So a page must say that it is a list, by the meta tag of PEP 629 or by
its title or heading; or else it must link to something directly below its own URL and hold nothing of a form.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from html import unescape
from urllib.parse import unquote, urlsplit

from proxy.core.hypertext import API_VERSION, absolute
from proxy.core.projects import Entries, Event, Events, JsonEvents, Member, Stepwise
from proxy.core.simple import HTML_TYPES, JSON_TYPES
from proxy.core.urls import is_project, normalise_project
from proxy.errors import MalformedPage

# The tokeniser of the HTML standard (§13.2.5) for whole tokens, as one linear expression: nothing is given back.
# What begins like a token and does not end here matches nothing, and waits for more. Of a value in quotes both
# quotes must be there, or the rest of the tag could be taken for the text of the page.
_TOKEN = re.compile(
    rb"""
    (?P<text> (?: [^<] | <(?= [^A-Za-z!/?] ) | </(?= [^A-Za-z>] ) )++ )
    | < (?P<raw> script | style | textarea | title ) (?=[ZZ/>]) ATTRIBUTES >
        (?P<inner> .*? ) </(?P=raw) (?=[ZZ/>]) [^>]*+ >
    | < (?! (?: script | style | textarea | title ) [ZZ/>] )
        (?P<name> [A-Za-z][^ZZ/>]*+ | /[A-Za-z][^ZZ/>]*+ ) (?P<attributes> ATTRIBUTES ) >
    | <!-- (?: -?> | .*? --!?> )
    | <! (?!--) (?=..) [^>]*+ > | <[?] [^>]*+ > | </>
    """.replace(
        b"ATTRIBUTES",
        rb"""(?: [ZZ/]*+ [^ZZ/>] [^ZZ/>=]*+
             (?: [ZZ]*+ = [ZZ]*+ (?: "[^"]*+" | '[^']*+' | [^ZZ>"'][^ZZ>]*+ | (?=>) ) | (?! [ZZ]*+ = ) ) )*+ [ZZ/]*+""",
    ).replace(b"ZZ", rb"\t\n\f\r\x20"),
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
_ATTRIBUTE = re.compile(
    rb"""[ZZ/]*+ ([^ZZ/>] [^ZZ/>=]*+)
         (?: [ZZ]*+ = [ZZ]*+ (?: "([^"]*+)" | '([^']*+)' | ([^ZZ>"'][^ZZ>]*+) )?+ )?+
    """.replace(b"ZZ", rb"\t\n\f\r\x20"),
    re.VERBOSE,
)
_OTHERS = r'(?:\s++(?!href)[a-z-]++="[^"<>]*+")*+'
_TEXT_LIMIT = 1024
_HEADING = re.compile(
    r"\bsimple\b.*\b(?:index|list)|\b(?:index|list)\b.*\bsimple\b|^\s*index of\b", re.IGNORECASE | re.DOTALL
)
# What pages for people have, and lists do not.
_OF_A_FORM = frozenset({b"form", b"input", b"button", b"iframe", b"frame", b"script"})


def events_of(content_type: str, url: str, site: str) -> Events:
    """What reads a list of that type; ``url`` is where it came from, ``site`` the configured URL of the list. Raises
    MalformedPage when no list has that type."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in JSON_TYPES:
        return JsonEvents()
    if media_type in HTML_TYPES:
        return AnchorEvents(url, site)
    raise MalformedPage("the project list has a type that is none of the Simple API's")


class AnchorEvents(Stepwise):
    """Reads PEP 503's HTML; ``url`` and ``site`` as for ``events_of``."""

    def __init__(self, url: str, site: str) -> None:
        super().__init__()
        self._url = url
        self._folders = tuple(dict.fromkeys([site, _folder_of(url)]))
        self._children = _children_of(self._folders, url)
        self._based = self._says_list = self._child = self._of_a_form = self._told = False
        # The text of the element that is open and matters: of an anchor (with its href), of a heading.
        self._open: bytes | None = None
        self._href = b""
        self._text = b""

    def events(self, data: bytes) -> Generator[Event, None, int]:
        """See ``Stepwise``."""
        if not self._told:
            # PEP 700: what has no sizes must not claim 1.1; HTML cannot say more than 1.0 of a list, either.
            self._told = True
            yield Member("meta", {"api-version": "1.0"})
            yield Entries([])
        names: list[str] = []
        at = 0
        while at < len(data):
            if self._open is None and (run := self._children.run.match(data, at)) is not None:
                anchors = self._children.anchor.findall(run[0].decode())
                names += [text if normalise_project(text) == child else child for child, text in anchors]
                self._child = True
                at = run.end()
            elif (token := _TOKEN.match(data, at)) is not None:
                names += self._taken(token)
                at = token.end()
            else:
                break
        if self._of_a_form and not self._says_list:
            raise MalformedPage("the page is made for people, and no project list")
        if names:
            yield Entries([{"name": name} for name in names])
        return at

    def end(self, left: bytes) -> Iterator[Event]:
        """See ``Stepwise``."""
        # A bare "<" at the very end is text.
        if left not in (b"", b"<", b"</"):
            raise MalformedPage("the project list is cut short, or no HTML")
        if not (self._says_list or self._child):
            raise MalformedPage("the page is no project list")
        return iter(())

    def _taken(self, token: re.Match[bytes]) -> list[str]:
        """One token; the project whose anchor it ended, if it did."""
        if token["text"] is not None:
            if self._open is not None and len(self._text) <= _TEXT_LIMIT:
                self._text += token["text"][:_TEXT_LIMIT]
            return []
        if token["raw"] is not None:
            self._raw(token["raw"].lower(), token["inner"])
            return []
        if token["name"] is None:
            return []
        name = token["name"].lower()
        ended = self._closed() if name.lstrip(b"/") in (b"a", b"h1", b"body", b"html") else []
        match name:
            case b"a":
                self._open, self._href, self._text = name, _attributes(token).get(b"href", b""), b""
            case b"h1":
                self._open, self._text = name, b""
            case b"meta":
                self._meta(_attributes(token))
            case b"base" if not self._based and b"href" in (found := _attributes(token)):
                # HTML §4.2.3: the first <base> with a href counts.
                self._based = True
                self._url = absolute(_decoded(found[b"href"]), self._url) or self._url
                self._children = _children_of(self._folders, self._url)
            case b"/html" | b"/body":
                self.ended = True
            case _:
                self._of_a_form = self._of_a_form or name in _OF_A_FORM
        return ended

    def _closed(self) -> list[str]:
        opened, self._open = self._open, None
        if opened == b"h1":
            self._heading(self._text)
        name = self._name(_decoded(self._href), _decoded(self._text).strip()) if opened == b"a" else None
        return [] if name is None else [name]

    def _raw(self, name: bytes, inner: bytes) -> None:
        if name == b"title":
            self._heading(inner)
        self._of_a_form = self._of_a_form or name in _OF_A_FORM

    def _heading(self, text: bytes) -> None:
        self._says_list = self._says_list or _HEADING.search(_decoded(text[:_TEXT_LIMIT])) is not None

    def _meta(self, found: dict[bytes, bytes]) -> None:
        if found.get(b"name", b"").lower() == b"pypi:repository-version":
            if not API_VERSION.fullmatch(_decoded(found.get(b"content", b"")).strip()):
                raise MalformedPage("the project list has an API version we cannot read")
            self._says_list = True

    def _name(self, href: str, name: str) -> str | None:
        """The project that an anchor names; None for one that leads elsewhere.

        PEP 503: its text is the name of the project, its link has the normalised name as its last part.
        """
        child = self._children.link.fullmatch(href)
        if child is not None:
            segment = unquote(child[1])
        elif self._says_list:
            segment = unquote(_last_segment(href))
        else:
            return None
        if not is_project(segment):
            return None
        agrees = name == segment or (is_project(name) and normalise_project(name) == normalise_project(segment))
        if child is not None:
            self._child = True
        elif not agrees:
            return None
        return name if agrees else segment


@dataclass(frozen=True, slots=True)
class _Children:
    """What leads directly below the list: a ``link``, its group is the child's name; an ``anchor`` as nearly every
    index writes them, with child and text, and a ``run`` of these, which are taken without a step for each token."""

    link: re.Pattern[str]
    anchor: re.Pattern[str]
    run: re.Pattern[bytes]


def _children_of(folders: tuple[str, ...], base: str) -> _Children:
    """Of these URLs (each with its final slash), on a page whose links are relative to ``base``."""
    spellings = []
    for folder in folders:
        parts = urlsplit(folder)
        spellings += [folder, f"//{parts.netloc}{parts.path}", parts.path]
    if _folder_of(base) in folders:
        spellings += ["./", ""]
    root = "|".join(map(re.escape, spellings))
    anchor = (
        rf'<a{_OTHERS}\s++href="(?:{root})([a-z0-9]++(?:-[a-z0-9]++)*+)/?+"{_OTHERS}\s*+>\s*+([A-Za-z0-9._-]++)\s*+</a>'
    )
    return _Children(
        re.compile(rf"\s*+(?:{root})([^/?#\s:]++)/?+(?:#.*+)?+\s*+", re.DOTALL),
        re.compile(anchor, re.ASCII),
        re.compile(rf"(?:{anchor}\s*+(?:<br\s*+/?+>\s*+)?+)++".encode()),
    )


def _folder_of(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[0] + "/"


def _last_segment(href: str) -> str:
    return href.partition("#")[0].partition("?")[0].strip().removesuffix("/").rpartition("/")[2]


def _attributes(token: re.Match[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, double, single, bare in _ATTRIBUTE.findall(token["attributes"]):
        found.setdefault(name.lower(), double or single or bare)
    return found


def _decoded(text: bytes) -> str:
    plain = text.decode("utf-8", "replace")
    return unescape(plain) if "&" in plain else plain
