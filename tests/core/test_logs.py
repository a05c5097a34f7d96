import pytest

from wsssjax.core import logs


def test_a_restart_drops_the_lines_after_its_checkpoint(tmp_path):
    log = logs.MetricsLog(tmp_path, 0)
    for step in (10, 20, 30):
        log.write(step, {"train/loss": step / 10})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "train/lo')  # cut short by a kill
    log = logs.MetricsLog(tmp_path, 20)
    log.write(30, {"train/loss": 9.0})
    log.close()
    rows = logs.read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["train/loss"]) for r in rows] == [(10, 1.0), (20, 2.0), (30, 9.0)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_the_run_and_its_step_is_named(value):
    with pytest.raises(ValueError, match="step 8: train/loss is .*; lower config.optim.lr"):
        logs.means(10, {"train/loss": [1.0, 2.0, value, value, 1.0]})
    both = {"train/grad_head": [value, value], "train/loss": [1.0, value]}
    with pytest.raises(ValueError, match="step 9: train/grad_head is"):
        logs.means(10, both)
    with pytest.raises(ValueError, match="step 10: train/loss is"):
        logs.means(10, {name: values[1:] for name, values in both.items()})
    with pytest.raises(ValueError, match="step 10: train/grad_head is"):
        logs.means(10, {"train/loss": [1.0, 1.0], "train/grad_head": [1.0, value]})
    found = logs.means(4, {"train/gap": [value], "train/loss": [1.0, 2.0]})
    assert found["train/loss"] == 1.5  # other numbers may be anything


def test_tensorboard_gets_the_same_numbers(tmp_path):
    log = logs.MetricsLog(tmp_path, 0, tensorboard=True)
    log.write(1, {"train/loss": 0.5})
    log.close()
    assert [p for p in tmp_path.iterdir() if p.name.startswith("events.out")]
