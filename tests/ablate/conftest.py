"""The modules beside the tests: rows of an ablation made by hand, and a recipe of seconds."""

import importlib.util
import pathlib

import pytest


def _load(name):
    path = pathlib.Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ablations():
    return _load("ablations")


@pytest.fixture(scope="session")
def small():
    return _load("small")
