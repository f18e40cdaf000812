"""One metric with all its labels and values: prometheus_client's families, in few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from proxy.web.metrics import BOUNDS, Durations

PREFIX = "pipcacheproxy_"
_CEILINGS = (*(str(bound) for bound in BOUNDS), "+Inf")

Labels = tuple[str, ...]
Values = Iterable[tuple[Labels, float]]


def counter(name: str, text: str, labels: Labels, values: Values) -> Metric:
    """What only grows; ``_total`` is put behind its name."""
    family = CounterMetricFamily(f"{PREFIX}{name}", text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def gauges(name: str, text: str, labels: Labels, values: Values) -> Metric:
    """What comes and goes."""
    family = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def gauge(name: str, text: str, labels: Labels, value: float) -> Metric:
    """The same, of which there is one."""
    return gauges(name, text, labels, [(labels, value)])


def histogram(name: str, text: str, labels: Labels, values: Mapping[Labels, Durations]) -> Metric:
    """Durations in seconds."""
    family = HistogramMetricFamily(f"{PREFIX}{name}", text, labels=labels)
    for label, durations in values.items():
        upto, buckets = 0, []
        for ceiling, count in zip(_CEILINGS, durations.counts, strict=True):
            upto += count
            buckets.append((ceiling, upto))
        family.add_metric(label, buckets, durations.total)
    return family
