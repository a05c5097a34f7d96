"""The recipe engine on steps that write one number: skip, resume, refuse, redo."""

import pathlib

import pytest

from wsssjax import recipe
from wsssjax.core import files

LOG = []


def add(name, inputs, amount):
    def run(folder, sources):
        LOG.append(name)
        total = amount + sum(files.read_json(p / "n.json") for p in sources.values())
        files.write_json(folder / "n.json", total)

    return recipe.Step(name, run, inputs, {"amount": amount})


def steps(a=1, b=10):
    return [add("a", (), a), add("b", ("a",), b), add("c", ("a", "b"), 100), add("d", (), 7)]


@pytest.fixture
def context(tmp_path):
    LOG.clear()
    return recipe.Context(tmp_path, ("background", "cat"), seed=0, devices=1)


def run(steps_, context, **kwargs):
    LOG.clear()
    recipe.run(steps_, context, say=lambda text: None, **kwargs)
    return list(LOG)


def number(context, name):
    return files.read_json(context.workdir / name / "n.json")


def test_a_second_run_has_nothing_to_do(context):
    assert run(steps(), context) == ["a", "b", "c", "d"]
    assert number(context, "c") == 112
    assert run(steps(), context) == []


def test_a_step_without_a_manifest_goes_on(context):
    run(steps(), context)
    (context.workdir / "b" / "manifest.json").unlink()
    assert run(steps(), context) == ["b"]


def test_other_settings_are_refused_by_name_until_redone(context):
    run(steps(), context)
    with pytest.raises(ValueError, match=r"amount: 10 -> 20\); make it again with --redo=b"):
        run(steps(b=20), context)
    assert number(context, "b") == 11  # nothing lost
    assert run(steps(b=20), context, redo=("b",)) == ["b", "c"]  # and what follows from it
    assert number(context, "c") == 122
    assert run(steps(b=20), context) == []


def test_unfinished_work_of_other_settings_is_not_mixed_in(context):
    run(steps(), context)
    (context.workdir / "b" / "manifest.json").unlink()
    with pytest.raises(ValueError, match="made with other settings"):
        run(steps(b=20), context)


def test_seed_and_devices_are_part_of_a_training_step(context):
    trained = [steps()[0]._replace(batch=4)]
    run(trained, context)
    with pytest.raises(ValueError, match="seed: 0 -> 1"):
        run(trained, context._replace(seed=1))
    with pytest.raises(ValueError, match="devices: 1 -> 8"):
        run(trained, context._replace(devices=8))


def test_a_changed_input_is_seen_two_steps_later(context):
    run(steps(), context)
    run(steps(a=2)[:1], context, redo=("a",))
    with pytest.raises(ValueError, match="b: made with other settings|inputs.a"):
        run(steps(a=2), context)


def test_unknown_redo_offers_near_names(context):
    with pytest.raises(ValueError, match="--redo=aa: no such step; did you mean 'a'"):
        run(steps(), context, redo=("aa",))


def test_temporary_files_of_a_kill_are_swept(context):
    folder = pathlib.Path(context.workdir) / "a"
    folder.mkdir()
    (folder / ".n.json.1.wsssjax-tmp").write_text("half")
    run(steps(), context)
    assert not list(folder.glob(".*"))


def test_a_derived_step_follows_its_inputs_and_settings_by_itself(context):
    def chain(b, d):
        last = steps(b=b)[:2]
        return [*last, add("sum", ("a", "b"), d)._replace(derived=True)]

    run(chain(10, 0), context)
    assert run(chain(10, 5), context) == ["sum"]
    assert number(context, "sum") == 17
    assert run(chain(20, 5), context, redo=("b",)) == ["b", "sum"]
    assert run(chain(20, 5), context) == []


def test_a_missing_output_is_made_again(context):
    def write(folder, sources):
        (folder.parent / "report.html").write_text("x")

    last = [recipe.Step("report", write, (), {}, outputs=("report.html",))]
    recipe.run(last, context, say=lambda text: None)
    (context.workdir / "report.html").unlink()
    assert recipe.run(last, context, say=lambda text: None) == ["report"]
