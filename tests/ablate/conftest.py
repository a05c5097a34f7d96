"""The module that makes an ablation's rows by hand."""

import importlib.util
import pathlib

import pytest

_SPEC = importlib.util.spec_from_file_location(
    "ablations", pathlib.Path(__file__).with_name("ablations.py"))
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)


@pytest.fixture(scope="session")
def ablations():
    return _MODULE
