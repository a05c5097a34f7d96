"""Selecting from Python, with the result in memory; `wsssjax.select.select` is the way in."""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import tempfile
from collections.abc import Mapping

import pyarrow as pa

from wsssjax.select import run as command
from wsssjax.select import store


@dataclasses.dataclass(frozen=True)
class Selection:
    """table: one row an image, by id, see `store.schema`.  summary: what `summary.json` holds."""

    table: pa.Table
    summary: dict

    @property
    def selected(self) -> list[str]:
        """The ids of the trusted labels, sorted."""
        return self.table["id"].filter(self.table["selected"]).to_pylist()

    def to_pandas(self):
        """The table as a pandas DataFrame; ValueError where pandas is not installed."""
        try:
            return self.table.to_pandas()
        except ImportError:
            raise ValueError("Selection.to_pandas: pandas is not installed; pip install pandas, or "
                             "use Selection.table") from None


def select(first, second, quota: str | Mapping[str, int] | None = None, *,
           iou: str | None = None, out: str | os.PathLike | None = None,
           **options) -> Selection:
    """See `wsssjax.select.select`."""
    if quota is None:
        quota = "none"
    elif isinstance(quota, Mapping):
        quota = json.dumps(dict(quota), default=operator.index)  # numpy's integers
    if options.get("shard"):
        raise ValueError(f"shard={options['shard']!r}: selects nothing; use the command")
    for name, usual in (("out_labels", None), ("keep", "whole")):
        if options.get(name, usual) != usual and out is None:
            raise ValueError(f"{name}={options[name]!r}: makes label maps; name a folder, out")
    with tempfile.TemporaryDirectory() as temporary:
        folder = temporary if out is None else os.fspath(out)
        summary = command.run(first=os.fspath(first), second=os.fspath(second), out=folder,
                              quota_spec=str(quota), kind=iou, **options)
        return Selection(store.read_arrow(folder), summary)
