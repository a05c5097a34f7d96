"""Who may import whom, held by reading every import in the package."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "wsssjax"
COMMANDS = {"ablate", "predict", "recipe", "scoring", "steps", "train"}
STAGES = {"cam", "refine", "select", "semi", "evaluate", "report"}
JOINTS = {"steps", "ablate"}  # packages that join the stages, as commands do
ALLOWED = {stage: {stage, "models", "data", "core"} for stage in STAGES}
ALLOWED |= {"data": {"data", "core"}, "models": {"models", "core"}, "core": {"core"},
            "bridge": {"bridge", "refine", "data", "core"}}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imported(path):
    """Full module names that a file imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_pipeline(path):
    part = path.relative_to(PACKAGE).parts[0]
    if part.endswith(".py") or part in JOINTS:  # they may use everything but torch
        allowed = STAGES | {"models", "data", "core", *COMMANDS}
    else:
        allowed = ALLOWED[part]
    if path == PACKAGE / "refine" / "propose.py":
        allowed = allowed | {"bridge"}  # the step that drives SAM
    for name in imported(path):
        words = name.split(".")
        if words[0] == "wsssjax" and len(words) > 1:
            assert words[1] in allowed or words[1].startswith("__"), f"{path}: imports {name}"
        if part != "bridge" and "bridge" not in allowed:
            assert words[0] not in ("torch", "torchvision", "segment_anything"), f"{path}: {name}"
        assert words[0] != "tensorflow", f"{path}: {name}"


def test_only_parallel_counts_devices():
    words = ("pmap", "shard_map", "Mesh", "device_count", "local_devices", "process_index",
             "process_count")
    for path in modules():
        if path == PACKAGE / "core" / "parallel.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in words:
                owner = getattr(node.value, "id", "")
                assert owner != "jax", f"{path}:{node.lineno}: {owner}.{node.attr}"
            if isinstance(node, ast.ImportFrom):
                assert not {a.name for a in node.names} & set(words), f"{path}:{node.lineno}"


def test_sizes():
    """A file over 400 lines, or a function over 60, has its reason in its docstring."""
    for path in [*modules(), *(ROOT / "tools").rglob("*.py"), *(ROOT / "configs").glob("*.py")]:
        tree = ast.parse(path.read_text())
        lines = len(path.read_text().splitlines())
        assert lines <= 400 or "lines" in (ast.get_docstring(tree) or ""), f"{path}: {lines} lines"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                size = node.end_lineno - node.lineno + 1
                assert size <= 60 or "lines" in (ast.get_docstring(node) or ""), \
                    f"{path}:{node.lineno}: {node.name} has {size} lines"


def test_the_main_job_imports_neither_torch_nor_tensorflow():
    code = ("import sys, wsssjax.train, wsssjax.steps.order, wsssjax.predict\n"
            "bad = {'torch', 'tensorflow', 'torchvision'} & set(sys.modules)\n"
            "print(sorted(bad))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr[-2000:]


def test_every_import_is_declared():
    """A plain install must start: each package imported at run time stands in setup.cfg."""
    names = {"absl": "absl-py", "PIL": "pillow", "cv2": "opencv-python-headless",
             "skimage": "scikit-image", "orbax": "orbax-checkpoint",
             "tensorflow_datasets": "tensorflow-datasets", "ml_collections": "ml-collections",
             "array_record": "array-record", "torch": "", "segment_anything": "", "jaxlib": ""}
    declared = (ROOT / "setup.cfg").read_text()
    for path in [*modules(), *(ROOT / "tools").glob("*.py")]:
        for name in imported(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in ("wsssjax", "__future__"):
                continue
            assert names.get(top, top) in declared, f"{path}: {top} is not in setup.cfg"
