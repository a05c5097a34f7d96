"""The same work on threads and on a Ray cluster of two machines, one of whose workers dies."""

import importlib.util
import os
import pathlib
import signal
import socket
import sys
import types

import numpy as np
import pytest
from PIL import Image

from wsssjax.core import cluster
from wsssjax.data import cam_file, label_map
from wsssjax.refine import __main__ as refine
from wsssjax.refine import propose
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


def test_selection_on_a_cluster_outlives_a_worker(two_machines, pairs, monkeypatch):
    marker = pairs / "killed"

    def of(name, first_hw, second_hw):
        if name == "020" and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [np.mean(first_hw == second_hw)]

    signals = stream.Signals(("same",), of, lambda name: ())
    job = stream.Job
    monkeypatch.setattr(stream, "Job", lambda *args: job(*args[:4], signals))
    want = kit.options(pairs, "ray")
    run(**want, executor="ray")
    assert marker.exists()
    run(**{**want, "out": str(pairs / "threads")})
    assert kit.content(pairs / "ray") == kit.content(pairs / "threads")
    (pairs / "first" / "040.png").write_bytes(b"")
    with pytest.raises(ValueError, match="^.*first/040.png: empty"):
        run(**{**want, "out": str(pairs / "broken")}, executor="ray")
    assert len(list((pairs / "broken" / "scores").iterdir())) == 5  # what stood before it is kept


@pytest.fixture
def photos(tmp_path):
    """Six photos with a label map and a CAM file each."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(6):
        image = np.repeat(np.repeat(rng.integers(0, 255, (4, 5, 3)), 8, 0), 8, 1).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
        label_map.write(tmp_path / "labels" / f"{i}.png", image[..., 0] // 64)
        cam_file.write(tmp_path / "cams" / f"{i}.npz", [1, 3], image[..., :2].transpose(2, 0, 1)
                       / np.float32(255), image.shape[:2])
    return tmp_path


def test_proposals_and_refinement_on_a_cluster_are_those_of_threads(two_machines, photos):
    def both(name, run, **options):
        for executor in cluster.EXECUTORS:
            run(out=str(photos / f"{name}_{executor}"), executor=executor, **options)
        one, other = (kit.content(photos / f"{name}_{executor}") for executor in cluster.EXECUTORS)
        assert one == other and len(one) >= 6
        return str(photos / f"{name}_ray")

    images, labels = str(photos / "photos"), str(photos / "labels")
    proposals = both("proposals", propose.run, images=images)
    both("sam", refine.run, method="sam", labels=labels, proposals=proposals)
    both("crf", refine.run, method="crf", labels=labels, images=images)
    both("confidences", refine.run, method="confidences", cams=str(photos / "cams"), images=images)


def test_what_a_cluster_cannot_do_is_refused(photos):
    images, labels, out = (str(photos / name) for name in ("photos", "labels", "out"))
    with pytest.raises(ValueError, match="--executor=ray: --backend=sam runs on this machine"):
        propose.run(images=images, out=out, backend="sam", executor="ray")
    with pytest.raises(ValueError, match="--executor=ray: runs on the cores .* --device=jax"):
        refine.run(method="crf", labels=labels, images=images, out=out, device="jax",
                   executor="ray")
    with pytest.raises(ValueError, match="--method=difference: does not take --executor"):
        refine.run(method="difference", labels=labels, advice=labels, images=images, out=out,
                   config="c", weights="w", executor="ray")


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    pytest.importorskip("ray")
    with socket.socket() as free:  # bound, but nobody listens
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(OSError, match="RAY_ADDRESS=127.0.0.1:.*no Ray cluster answers there"):
            list(cluster.each(abs, [1], "ray"))


def test_a_ray_that_does_not_start_here_is_not_looked_for_elsewhere(monkeypatch):
    def init(**options):
        raise RuntimeError("no memory")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(
        init=init, is_initialized=lambda: False))
    with pytest.raises(OSError, match=r"ray: Ray did not start on this machine \(no memory\); use"):
        list(cluster.each(abs, [1], "ray"))


def test_a_missing_ray_and_an_unknown_executor_are_named(monkeypatch):
    with pytest.raises(ValueError, match="--executor.*'rai'.*did you mean 'ray'"):
        cluster.check("rai")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"ray is not installed; pip install 'wsssjax\[ray\]'"):
        cluster.check("ray")
