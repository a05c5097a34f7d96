"""The check of a recipe's inputs: every one is looked at, in about a minute, and nothing is run.

    python -m wsssjax.train --config=configs/paper_voc.py --config.check=true

A line begins with `ok`, `PROBLEM` or `warning`. Photos, masks and finished label maps are all
there, and some two hundred of each are opened; weights are read whole and held against the network
that they are for. Only what the recipe is going to read is asked for: with config.given.b_plus, for
instance, neither SAM's checkpoint nor MARS's encoder.
"""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from wsssjax.core import cli, crf
from wsssjax.core.config import choose
from wsssjax.data.classes import read_class_names
from wsssjax.refine import propose, sam_merge
from wsssjax.select import iou, quota, relabel
from wsssjax.select import scores as rank
from wsssjax.steps import arms, check_data, check_weights, order, scores, sets
from wsssjax.steps.check_data import Data
from wsssjax.steps.finding import Finding, look, problems_of
from wsssjax.steps.labels import LINKS

SALIENCY = ("data", "mbd")
GIVEN = ("a", "b", "a_plus", "b_plus", "proposals")


class Needs(NamedTuple):
    """What a recipe reads. made: label sets.  trained: sides (a, b) whose classifier is trained.
    ready: sides whose finished classifier makes labels.  links: names of refinements that run."""

    made: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


def run(config: Any) -> None:
    """Prints what is there of each input; ValueError with the number of problems if there is any."""
    count = 0
    for finding in findings(config):
        print("\n".join(finding.lines()), flush=True)
        count += len(finding.problems)
    if count:
        raise ValueError(f"{count:,} problem{'s' * (count != 1)} in the inputs, each told above "
                         "with its cure; nothing was run")


def findings(config: Any) -> Iterator[Finding]:
    """What there is to tell of every input of the recipe."""
    with tempfile.TemporaryDirectory() as folder:
        stand_in = pathlib.Path(folder)
        settings = _settings(config, stand_in)
        yield settings
        wanted = needs(config) if not problems_of(needs, [config]) else Needs()
        data, found = check_data.data_set(config, _of_data(config, wanted))
        yield from found
        yield from _given(config, wanted, data)
        yield _selection(config, data)
        yield from check_data.listed(config, data)
        yield from _proposals(config, wanted, data)
        yield from _weights(config, wanted, data)
        yield from _trainings(config, wanted, data, stand_in)
        yield from check_data.archive(config, data)


def needs(config: Any) -> Needs:
    """What the recipe reads, as `order.build_labels` has it; ValueError for names of no meaning."""
    made = sets.needed(config)
    own = [name for name in made if not config.given[sets.field(name)]]
    bases = [sets.side(name) for name in own if name in ("A", "B")]
    links = [link for name in own for link in
             (config.refine if name.endswith("+") else config[f"finish_{sets.side(name)}"])]
    return Needs(tuple(made), tuple(s for s in bases if not config.given[f"cam_{s}"]),
                 tuple(s for s in bases if config.given[f"cam_{s}"]), tuple(dict.fromkeys(links)))


def _settings(config: Any, folder: pathlib.Path) -> Finding:
    """Names and values that the recipe is made of: its steps are built, each part for itself.

    Files that are not there are no matter here, so something that can be read stands for each.
    """
    for name in ("any.png", "any.json.gz", "weights.safetensors"):
        (folder / name).touch()
    own = config.copy_and_resolve_references()
    with own.unlocked():
        for name in (*GIVEN, "cam_a", "cam_b"):
            own.given[name] = str(folder) if own.given[name] else ""
        own.listed = str(folder / "any.png") if own.listed else ""
    steps = []
    parts = [lambda: steps.extend(order.build_labels(own)),
             lambda: steps.extend(order.build_selection(own)),
             lambda: read_class_names(config.classes),
             lambda: choose(dict.fromkeys(SALIENCY), config.saliency.source,
                            "config.saliency.source"),
             lambda: choose(dict.fromkeys(("weights", "cam_b")), config.segmenter_encoder,
                            "config.segmenter_encoder")]
    for arm in config.arms:
        parts += [lambda arm=arm: steps.extend(order.build_arm(own, arm)),
                  lambda arm=arm: scores.supervision(own, choose(arms.ARMS, arm, "config.arms"))
                  if False else scores.supervision(own, arm)]
    return Finding("recipe", config.title, "", ())
