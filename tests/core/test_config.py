import pytest

from wsssjax.core import config as configs

SOURCE = '''
import ml_collections
def get_config(arg=""):
    if arg not in ("", "tiny"):
        raise ValueError(f"config argument {arg!r}: want nothing or 'tiny'")
    c = ml_collections.ConfigDict()
    c.total_steps = 10 if arg == "tiny" else 1000
    c.seed = 0
    c.half = 0.5
    c.flag = False
    c.arms = ("S", "M")
    c.optim = ml_collections.ConfigDict()
    c.optim.lr = 0.1
    c.optim.seed = c.get_ref("seed")
    return c
'''


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "quick.py"
    path.write_text(SOURCE)
    return path


def test_load_takes_argument_and_overrides(path):
    changes = {"optim.lr": "1e-3", "flag": "true", "arms": "ALL", "seed": "3"}
    c = configs.load(f"{path}:tiny", changes)
    assert (c.total_steps, c.optim.lr, c.flag, c.arms) == (10, 1e-3, True, ("ALL",))
    assert c.optim.seed == 3  # references follow an override
    assert configs.to_dict(c)["arms"] == ["ALL"]


@pytest.mark.parametrize(("spec", "overrides", "says"), [
    ("", {"total_step": "1"}, "did you mean 'total_steps'"),
    ("", {"optim.rl": "1"}, "config.optim has no field 'rl'; there are lr, seed"),
    ("", {"optim": "1"}, "is a group of fields"),
    ("", {"seed.x": "1"}, "has no fields of its own"),
    ("", {"seed": "one"}, "--config.seed=one: want a number"),
    ("", {"flag": "maybe"}, "want true or false"),
    (":tinny", {}, "config argument 'tinny'"),
])
def test_load_answers_in_one_line(path, spec, overrides, says):
    with pytest.raises(ValueError, match=says) as error:
        configs.load(f"{path}{spec}", overrides)
    assert "\n" not in str(error.value)


def test_load_offers_near_file_names(path):
    with pytest.raises(ValueError, match="no such config file; did you mean .*quick.py"):
        configs.load(path.with_name("quik.py"))
    path.with_name("bad.py").write_text("x = 1")
    with pytest.raises(ValueError, match="has no get_config"):
        configs.load(path.with_name("bad.py"))


def test_a_loaded_config_is_locked(path):
    c = configs.load(path)
    with pytest.raises(AttributeError):
        c.total_step = 1
