"""The models of the admin API: what it answers, and what it is asked."""

from __future__ import annotations

from proxy.web.answers import (
    Directory,
    Explanation,
    File,
    Info,
    Limits,
    Listing,
    Model,
    Problem,
    Refreshed,
    Removal,
    schemas,
)
from proxy.web.questions import (
    Asked,
    ExplainQuery,
    ListQuery,
    Nothing,
    PurgeRequest,
    RefreshRequest,
    RemoveRequest,
    checked,
)

__all__ = [
    "Asked",
    "Directory",
    "ExplainQuery",
    "Explanation",
    "File",
    "Info",
    "Limits",
    "ListQuery",
    "Listing",
    "Model",
    "Nothing",
    "Problem",
    "PurgeRequest",
    "RefreshRequest",
    "Refreshed",
    "Removal",
    "RemoveRequest",
    "checked",
    "schemas",
]
