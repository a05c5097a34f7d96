"""The same work on threads and on a Ray cluster of two machines, one of whose workers dies."""

import importlib.util
import os
import pathlib
import signal
import sys

import numpy as np
import pytest

from wsssjax.core import cluster
from wsssjax.select import stream
from wsssjax.select.run import run

KIT = pathlib.Path(__file__).parents[1] / "select_kit.py"
spec = importlib.util.spec_from_file_location("select_kit", KIT)
kit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(kit)
pairs = kit.pairs


@pytest.fixture(scope="module")
def two_machines():
    """A cluster of two nodes with one core each, all on this machine; its address is set."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=node)
    made.add_node(num_cpus=1, object_store_memory=80 << 20)
    made.wait_for_nodes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", made.address)
        yield made
    made.shutdown()


def test_threads_keep_the_order_and_stop_at_the_first_error():
    assert list(cluster.each(lambda i: i * i, range(50), workers=3)) == [i * i for i in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(cluster.each(lambda i: 1 / i, [2, 1, 0, 1]))


def test_ray_keeps_the_order_loses_nothing_and_names_errors(two_machines, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def work(item):
        """Kills its worker, the first time that it gets to item 5."""
        marker = pathlib.Path("killed")  # beside the command
        if item == 5 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 99:
            raise ValueError("item 99 is broken")
        return item, os.getpid(), str(pathlib.Path.cwd())

    found = list(cluster.each(work, range(12), "ray"))
    assert [item for item, _, _ in found] == list(range(12)) and (tmp_path / "killed").exists()
    assert os.getpid() not in {pid for _, pid, _ in found}
    assert {folder for _, _, folder in found} == {str(tmp_path)}
    assert [r[0] for r in cluster.each(work, range(7), "ray", chunk=3)] == list(range(7))
    with pytest.raises(ValueError, match="^item 99 is broken$"):
        list(cluster.each(work, [1, 99, 2], "ray"))


def test_selection_on_a_cluster_outlives_a_worker(two_machines, pairs):
    marker = pairs / "killed"

    def of(name, first_hw, second_hw):
        if name == "020" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [np.mean(first_hw == second_hw)]

    signals = stream.Signals(("same",), of, lambda name: ())
    want = kit.options(pairs, "ray", signals=signals)
    run(**want, executor="ray")
    assert marker.exists()
    run(**{**want, "out": str(pairs / "threads")})
    assert kit.content(pairs / "ray") == kit.content(pairs / "threads")
    (pairs / "first" / "040.png").write_bytes(b"")
    with pytest.raises(ValueError, match="^.*first/040.png: empty"):
        run(**{**want, "out": str(pairs / "broken")}, executor="ray")
    assert len(list((pairs / "broken" / "scores").iterdir())) == 5  # what stood before it is kept


def test_a_missing_ray_and_an_unknown_executor_are_named(monkeypatch):
    with pytest.raises(ValueError, match="--executor.*'rai'.*did you mean 'ray'"):
        cluster.check("rai")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"ray is not installed; pip install 'wsssjax\[ray\]'"):
        cluster.check("ray")
