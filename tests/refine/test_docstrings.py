"""The examples in the docstrings of the merging and proposal modules are true."""

import doctest

import pytest

from wsssjax.refine import coco, merge_report, merge_runs, proposals, propose, rle, sam_merge


@pytest.mark.parametrize("module", [coco, merge_report, merge_runs, proposals, propose, rle,
                                    sam_merge], ids=lambda m: m.__name__)
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted and not found.failed
