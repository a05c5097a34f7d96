"""The tutorial notebook, executed as a newcomer does: no cell fails, a model and a report come out.

Its outputs are committed, so that it can be read without running; they are held to be of use.
"""

import pathlib
import re

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install 'wsssjax[dev]'")
nbclient = pytest.importorskip("nbclient", reason="pip install 'wsssjax[dev]'")
pytest.importorskip("ipykernel", reason="pip install 'wsssjax[dev]'")

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs/your_photos.ipynb"


def printed(notebook) -> str:
    """All that the cells printed."""
    return "\n".join(output.text for cell in notebook.cells if cell.cell_type == "code"
                     for output in cell.outputs if output.output_type == "stream")


def pictures(notebook) -> int:
    return sum(any(kind.startswith("image/") for kind in output.get("data", {}))
               for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)


def test_it_runs_and_ends_with_a_model_and_a_report(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("WSSSJAX_RUNS", str(tmp_path))
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # one device, as a user has it
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=1200, kernel_name="python3",
                                     resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()  # raises where a cell does
    run = tmp_path / "your_photos_run"
    assert (run / "arm_s/weights.safetensors").is_file() and (run / "report.html").is_file()
    assert len(list((run / "new").glob("*.png"))) == 4
    assert not list((run / "prepare/packed").rglob("*label*"))
    text = printed(notebook)
    assert "Segmenters on the test images" in text and "PROBLEM" not in text
    assert pictures(notebook) == 4


def test_what_is_committed_is_executed_small_and_of_no_machine():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert pictures(notebook) == 4 and "Segmenters on the test images" in printed(notebook)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 300_000
    assert not re.search(r"/(work|tmp|home|root|usr)/", text) and "\\u001b" not in text


def test_what_it_tells_to_change_is_there():
    source = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
    for spec in re.findall(r"`?\"?(configs/\w+\.py)", source):
        assert (ROOT / spec).is_file(), spec
    for name in ("PHOTOS", "CONFIG", "QUOTA", "SHORT", "OWN"):
        assert re.search(rf"^{name}\b", source, re.MULTILINE) and f"`{name}`" in source, name
