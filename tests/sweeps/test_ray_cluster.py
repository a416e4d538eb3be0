"""Checks a sweep on a real Ray cluster of two nodes on this machine, one of which dies."""

import time
from pathlib import Path

import pytest

from quantnas.config import search_space
from quantnas.errors import DataError, UsageError
from quantnas.runs.run_folder import Run
from quantnas.sweeps import plan, ray_cluster, results_table, scheduler
from quantnas.sweeps.plan import Sweep

BASE = {
    "search": {"epochs": 2, "steps_per_epoch": 2, "warmup_epochs": 1, "batch": 2, "patch": 12},
    "train": {"float_steps": 300, "qat_steps": 4, "batch": 2, "patch": 12, "check": 100},
    "quantize": {"steps": 2, "batch": 2, "patch": 12, "crops": 2},
}


def test_without_ray_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(ray_cluster.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        ray_cluster.Cluster("auto", 1)
    assert "quantnas[ray]" in caught.value.remedy


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Ray's own
def test_a_sweep_survives_the_death_of_a_node(tiny, tmp_path):
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster as Nodes

    (tmp_path / "tiny.yaml").write_text(search_space.to_yaml(tiny), encoding="utf-8")
    base = {**BASE, "space": str(tmp_path / "tiny.yaml")}
    points = plan.points(Sweep(base, {"seed": [0, 1, 2, 3]}), "test")
    folder = scheduler.begin(tmp_path, "s", points)
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        with pytest.raises(DataError, match="has 2 CPU"):
            ray_cluster.Cluster(nodes.address, 2)
        killed, most, last = False, 0, None
        for last in scheduler.perform(folder, ray_cluster.Cluster(nodes.address, 1)):
            most = max(most, last.count("running"))
            if not killed and most == 2 and _training(folder) == 2:
                nodes.remove_node(second, allow_graceful=False)
                killed = True
            time.sleep(0.1)
        assert killed and last is not None
        assert [point.state for point in last.points] == ["done"] * 4
    finally:
        nodes.shutdown()
    assert all("psnr" in row for row in results_table.rows(folder))
    errors = [path.read_text() for path in (folder / "points").glob("*/errors.txt")]
    assert len(errors) == 1 and errors[0].strip()


def _training(folder: Path) -> int:
    """The number of points that are being trained."""
    found = [Run(path) for path in (folder / "points").iterdir()]
    return sum(run.result("search") is not None and run.result("train") is None for run in found)


def test_a_cluster_that_is_not_there_is_an_error():
    pytest.importorskip("ray")
    with pytest.raises(DataError) as caught:
        ray_cluster.Cluster("127.0.0.1:1", 1)
    assert "ray start --head" in caught.value.remedy
