"""The check of a recipe's inputs: every one is looked at, in about a minute, and nothing is run.

    python -m wsssjax.train --config=configs/paper_voc.py --config.check=true

A line begins with `ok`, `PROBLEM` or `warning`. Photos, masks and finished label maps are all
there, and some two hundred of each are opened; weights are read whole and held against the network
that they are for. Only what the recipe is going to read is asked for: with config.given.b_plus, for
instance, neither SAM's checkpoint nor MARS's encoder.
"""

from __future__ import annotations

import functools
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from wsssjax.core import cli, crf
from wsssjax.core.config import choose
from wsssjax.data.classes import read_class_names
from wsssjax.refine import proposals, propose, sam_merge
from wsssjax.select import iou, quota, relabel
from wsssjax.select import scores as rank
from wsssjax.steps import arms, check_data, check_weights, order, scores, sets
from wsssjax.steps.check_data import Data
from wsssjax.steps.finding import Finding, look, problems_of
from wsssjax.steps.labels import LINKS

SALIENCY, ENCODERS = ("data", "mbd"), ("weights", "cam_b")  # values of two fields
GIVEN = ("a", "b", "a_plus", "b_plus", "proposals")


class Needs(NamedTuple):
    """What a recipe reads. made: label sets.  trained: sides (a, b) whose classifier is trained.
    ready: sides whose finished classifier makes labels.  links: names of refinements that run."""

    made: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


def run(config: Any) -> None:
    """Prints what is there of each input; ValueError with the number of problems, if not 0."""
    count = 0
    for finding in findings(config):
        print("\n".join(finding.lines()), flush=True)
        count += len(finding.problems)
    if count:
        raise ValueError(f"{count:,} problem{'s' * (count != 1)} in the inputs, told above; "
                         "nothing was run")


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
             (config.refine if name.endswith("+") else config[f"finish_{sets.side(name)}"])
             if link in LINKS and LINKS[link].field in config]  # others are told as settings
    return Needs(tuple(made), tuple(s for s in bases if not config.given[f"cam_{s}"]),
                 tuple(s for s in bases if config.given[f"cam_{s}"]), tuple(dict.fromkeys(links)))


def _settings(config: Any, folder: pathlib.Path) -> Finding:
    """Names and values that the recipe is made of: its steps are built, each part for itself.

    Files that are not there are no matter here, so something that can be read stands for each.
    """
    for name in ("any.png", "weights.safetensors"):
        (folder / name).touch()
    proposals.write(folder / "any.json.gz", (1, 1), [], {"backend": config.proposals.backend})
    own = config.copy_and_resolve_references()
    with own.unlocked():
        for name in (*GIVEN, "cam_a", "cam_b"):
            own.given[name] = str(folder) if own.given[name] else ""
        own.listed = str(folder / "any.png") if own.listed else ""
    steps: list = []
    parts = [lambda: steps.extend(order.build_labels(own)),
             lambda: steps.extend(order.build_selection(own)),
             lambda: read_class_names(config.classes),
             lambda: choose(dict.fromkeys(SALIENCY), config.saliency.source,
                            "config.saliency.source"),
             lambda: choose(dict.fromkeys(ENCODERS), config.segmenter_encoder,
                            "config.segmenter_encoder"),
             *(functools.partial(sets.links, config[field], "", "", f"config.{field}")
               for field in ("finish_a", "finish_b", "refine")),
             *(functools.partial(_add_arm, steps, own, name) for name in config.arms)]
    problems = dict.fromkeys(problems_of(lambda part: part(), parts))
    names = [step.name for step in steps]
    lost = sorted({name for step in steps for name in step.inputs} - set(names))
    if lost and not problems:
        problems[f"no step makes {', '.join(lost)}; see config.pair, config.segmenter_encoder and "
                 "config.given"] = None
    found = f"{len(set(names))} steps: {', '.join(dict.fromkeys(names))}"
    return Finding("recipe", "", found, tuple(problems))


def _add_arm(steps: list, config: Any, name: str) -> None:
    steps += order.build_arm(config, name)
    scores.supervision(config, name)  # its letters may be wrong


def _of_data(config: Any, wanted: Needs) -> check_data.Wanted:
    """What the recipe reads of its data set."""
    readers = [f"cam_{s}" for s in wanted.trained if sets.reads_saliency(config[f"cam_{s}"])]
    own = [name for name in config.arms
           if name in arms.ARMS and arms.ARMS[name].labels == "truth"]
    return check_data.Wanted(
        tags=bool(wanted.trained or wanted.ready or "mars" in wanted.links), truth=tuple(own),
        saliency=readers[0] if readers and config.saliency.source == "data" else "")


def _given(config: Any, wanted: Needs, data: Data) -> Iterator[Finding]:
    """Folders of finished label maps."""
    for name in wanted.made:
        if folder := config.given[sets.field(name)]:
            yield check_data.given_labels(f"labels {name}", folder, data)


def _selection(config: Any, data: Data) -> Finding:
    """The quota and the score."""
    own, unmet = config.select, []

    def counted():
        if not own.quota_spec:  # told as a setting
            return
        try:
            need_k = quota.read_quota(own.quota_spec, data.classes)
        except (ValueError, OSError) as error:
            raise ValueError(f"config.select.quota_spec={own.quota_spec}: "
                             f"{cli.one_line(error)}") from None
        if need_k is None and not own.min_iou:
            raise ValueError("config.select.quota_spec=none: takes all; give a quota, or "
                             "config.select.min_iou")
        unmet.extend(check_data.unmet(need_k, data))
        found.append("no quota" if need_k is None else f"quota {need_k.sum():,} in all, of "
                            f"{(need_k > 0).sum()} classes")

    found: list[str] = []
    problems = problems_of(lambda part: part(), [
        counted,
        lambda: choose(rank.SCORES, own.score, "config.select.score"),
        lambda: choose(dict.fromkeys(relabel.KEEP), own.keep, "config.select.keep"),
        lambda: choose(dict.fromkeys(("", *iou.SCORES)), own.kind, "config.select.kind"),
        lambda: _in_range("min_iou", own.min_iou, 0 <= own.min_iou < 1, "a fraction below 1"),
        lambda: _in_range("min_area", own.min_area, own.min_area >= 1, "1 pixel or more")])
    return Finding("selection", "", ", ".join([*found, f"score {own.score}"]), tuple(problems),
                   tuple(unmet))


def _in_range(name: str, value: float, good: bool, want: str) -> None:
    if not good:
        raise ValueError(f"config.select.{name}={value}: want {want}")


def _proposals(config: Any, wanted: Needs, data: Data) -> Iterator[Finding]:
    """What refinements without a training read: masks or what makes them, and their settings."""
    if any("proposals" in LINKS[name].inputs for name in wanted.links):
        if config.given.proposals:
            yield check_data.given_proposals(config.given.proposals, data)
        elif config.proposals.backend == "sam":
            yield from check_weights.sam(config.proposals)
        else:
            yield look("proposals", "", lambda: propose.describe(**config.proposals)["backend"])
    if "crf" in wanted.links:
        yield look("CRF", "", lambda: crf.preset(config.crf.preset) and config.crf.preset)
    if "sam" in wanted.links:
        yield look("merging", "", lambda: choose(sam_merge.RULES, config.merge.merge,
                                                 "config.merge.merge") and config.merge.merge)


def _weights(config: Any, wanted: Needs, data: Data) -> Iterator[Finding]:
    """Every file of weights that a step is going to read."""
    for side in wanted.ready:
        yield check_weights.classifier(config, side, data)
    for side in wanted.trained:
        yield from check_weights.start(f"cam_{side}", config[f"cam_{side}"], data)
    if "mars" in wanted.links:
        yield check_weights.mars_features(config.mars.debias, data)
        yield check_weights.encoder("encoder of MARS's segmenter", config.mars.segmenter.model)
    if own := _segmenter(config):
        yield check_weights.encoder(
            "encoder of the segmenter", own.model,
            "config.segmenter.model.encoder_weights is empty; a probe learns from finished "
            f"features of {own.model.encoder}" if arms.is_probe(own) else "")


def _segmenter(config: Any) -> Any:
    """The segmenter's config with its encoder's weights; None where this recipe trains them."""
    own = config.segmenter.copy_and_resolve_references()
    if config.segmenter_encoder == "cam_b":
        if not config.given.cam_b:
            return None
        with own.unlocked():
            own.model.encoder_weights = config.given.cam_b
    return own


def _trainings(config: Any, wanted: Needs, data: Data, folder: pathlib.Path) -> Iterator[Finding]:
    """What is going to be trained, on the devices that are here."""
    for name in ("labeled", "unlabeled"):
        lines = "".join(f"{i}.jpg {i}.png\n" for i in range(max(data.count, 1)))
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8")
    for side in wanted.trained:
        yield check_weights.training(f"cam_{side}", config[f"cam_{side}"], data, folder)
    if "mars" in wanted.links:
        yield check_weights.training("MARS", config.mars.segmenter, data, folder)
    for name in config.arms:
        if name in arms.ARMS:
            arm = arms.ARMS[name]
            own = config.segmenter.copy_and_resolve_references()
            with own.unlocked():
                if arm.learns == "supervised":
                    own.method = arms.SUPERVISED.get(own.method, "supervised")
                if config.segmenter_encoder == "cam_b":  # its file is made, or looked at above
                    own.model.encoder_weights = config.given.cam_b or "cam_b"
            yield check_weights.training(f"arm {name}", own, data, folder,
                                         semi=arm.learns == "semi", most=arm.chosen != "all")
