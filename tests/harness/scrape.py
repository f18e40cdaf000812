"""What a server says at ``/metrics``, read by prometheus_client's own parsers, and which metrics a query names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as text_format

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
Series = tuple[str, frozenset[tuple[str, str]]]

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_RANGE = re.compile(r"\[[^\]]*\]")
_MATCHERS = re.compile(r"\{([^}]*)\}")
_GROUPING = re.compile(r"\b(?:(?:by|on)\s*\(([^)]*)\)|(?:without|ignoring|group_left|group_right)\s*\([^)]*\))")
_NAME = re.compile(r"(?<![\w.:])[a-zA-Z_:][a-zA-Z0-9_:]*")
_OPERATORS = {"and", "or", "unless", "bool", "offset"}


@dataclass(frozen=True, slots=True)
class Scraped:
    """All samples of one scrape, in their order."""

    samples: Mapping[Series, float]

    def sum(self, name: str, **labels: str) -> float:
        """Of all samples of that name with those labels, whatever others they have; 0 when there are none."""
        wanted = set(labels.items())
        return sum(value for (each, has), value in self.samples.items() if each == name and wanted <= has)

    def moved(self, since: Scraped, name: str, **labels: str) -> float:
        """How much that sum has grown."""
        return self.sum(name, **labels) - since.sum(name, **labels)

    def labels(self, name: str) -> set[str]:
        """The names of the labels that samples of that name have."""
        return {label for (each, has) in self.samples if each == name for label, _ in has}

    @property
    def names(self) -> set[str]:
        """Of all samples."""
        return {name for name, _ in self.samples}


def parsed(text: str, media_type: str) -> Scraped:
    """The text in either format. Raises ValueError for what is in neither, and for a sample that is there twice."""
    read: Callable[[str], Iterable[Metric]] = text_format
    if media_type.startswith("application/openmetrics-text"):
        read = open_metrics
    found: dict[Series, float] = {}
    for family in read(text):
        for sample in family.samples:
            series = sample.name, frozenset(sample.labels.items())
            if series in found:
                raise ValueError(f"twice: {series}")
            found[series] = float(sample.value)
    return Scraped(found)


@dataclass(frozen=True, slots=True)
class Named:
    """A metric in a query, and the labels that are asked of it there."""

    metric: str
    labels: frozenset[str]


def named(query: str) -> list[Named]:
    """Every metric that a PromQL expression names. Labels of groupings count for all of its metrics."""
    text = _STRING.sub('""', _RANGE.sub("", query))
    grouped = frozenset(label for inner in _GROUPING.findall(text) for label in _NAME.findall(inner))
    text = _GROUPING.sub(" ", text)
    found = []
    for name in _NAME.finditer(_MATCHERS.sub(lambda match: " " * len(match[0]), text)):
        rest = text[name.end() :].lstrip()
        if name[0] in _OPERATORS or rest.startswith("("):
            continue
        matchers = _MATCHERS.match(rest)
        own = _labels_of(matchers[1]) if matchers is not None else ()
        found.append(Named(name[0], grouped | set(own)))
    return found


def _labels_of(matchers: str) -> Iterable[str]:
    return re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", matchers)
