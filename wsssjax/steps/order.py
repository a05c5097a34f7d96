"""A recipe's steps in the order they stand in, and the run of all of them.

    prepare ┬ cam_a ─ labels_a ┬ … ─ labels_a_plus ──────────────────────────────────┐
            ├ saliency ─ cam_b ─ labels_b ┬ … ─ labels_b_plus ─ select ┬ control_m ─ │
            └ proposals ──────────────────┘          (two of the four) ┘             │
      ┌──────────────────────────────────────────────────────────────────────────────┘
      └ arm_s ─ test_s, arm_m ─ test_m, … ─ evaluate ─ report

Which of the label sets are compared, `config.pair` says; how A+ and B+ are refined,
`config.refine`: one step a link. `config.given` puts finished folders in the place of steps.
"""

from __future__ import annotations

import functools
import pathlib

from wsssjax import recipe
from wsssjax.core import config as configs
from wsssjax.core import files, parallel
from wsssjax.data.classes import read_class_names
from wsssjax.steps import arms, depends, labels, scores, sets

bind = functools.partial


def step(config, name: str, run, inputs=(), fields=(), *, batch=0, ids=None,
         **more) -> recipe.Step:
    """One step; `run`: (folder, inputs) →.  fields: of the config, what its result depends on, or
    a dict of such values.  ids: list of the ids it works on; None: of the training photos, or of
    the test photos.  more: see `recipe.Step`."""
    whole = configs.to_dict(config)
    found = fields if isinstance(fields, dict) else {
        field: depends.settings(whole[field]) for field in fields}

    def call(out, folders):
        run(out=out, inputs=folders)

    if ids is None:
        ids = "" if name in ("evaluate", "report") else "train.txt"
        ids = "test.txt" if name.startswith("test_") else ids
    return recipe.Step(name, call, tuple(inputs), found, ids, batch, **more)


def _part(config, name: str):
    """A copy of its own: a step fills in paths that nothing else may see."""
    return config[name].copy_and_resolve_references()


def build(config) -> list[recipe.Step]:
    """All steps of a recipe, scores and report last."""
    out = build_labels(config) + build_selection(config)
    for name in config.arms:
        out += build_arm(config, name)
    before = tuple(s.name for s in out if not s.name.startswith("submit_"))
    fields = {"title": config.title, "arms": list(config.arms), "pair": list(config.pair),
              "report": configs.to_dict(config.report), "seed": config.seed,
              **scores.told(config, config.arms)}
    out.append(step(config, "evaluate", bind(scores.evaluate, config), before, fields,
                    derived=True))
    out.append(step(config, "report", bind(scores.report, config), ("evaluate",), derived=True,
                    outputs=("results.json", "report.html")))
    return out


def build_labels(config) -> list[recipe.Step]:
    """From the data set to the label sets that `config.pair` needs."""
    out = [step(config, "prepare", bind(_prepare, config), (), depends.data(config))]
    made = sets.needed(config)
    trained = [sets.side(n) for n in made if n in ("A", "B") and not config.given[sets.field(n)]]
    wants_saliency = any(sets.reads_saliency(config[f"cam_{s}"]) and
                         not config.given[f"cam_{s}"] for s in trained)
    mbd = config.saliency.source == "mbd" and wants_saliency
    if mbd:
        out.append(step(config, "saliency", bind(labels.saliency, config), ("prepare",),
                        ("saliency",)))
    for name in made:
        if name in ("A", "B"):
            out += _base(config, name, mbd)
    if _uses(config, made, "proposals"):
        out.append(_proposals(config))
    for name in made:
        if name.endswith("+") and config.given[sets.field(name)]:
            out.append(_given(config, name))
        elif name.endswith("+"):
            out += _links(config, sets.chain(config, name))
    return out


def _prepare(config, out, inputs):
    labels.prepare(config, out, inputs)
    arms.check_truth(config, out)


def _base(config, name: str, mbd: bool) -> list[recipe.Step]:
    """The steps of A or B: finished labels, or a classifier, its maps, what finishes them."""
    if config.given[sets.field(name)]:
        return [_given(config, name)]
    cam, finish = f"cam_{sets.side(name)}", sets.finish(config, name)
    weights, out = config.given[cam], []
    if not weights:
        saliency = ("saliency",) if mbd and sets.reads_saliency(config[cam]) else ()
        out.append(step(config, cam, bind(labels.train_cam, _part(config, cam)),
                        ("prepare", *saliency), (cam, "seed"), batch=config[cam].device_batch))
    own = finish[0][0] if finish else sets.STEPS[name]
    found = {cam: depends.settings(configs.to_dict(config)[cam])}
    if weights:
        found["weights"] = depends.fingerprint(weights)
    out.append(step(config, own, bind(labels.infer_cam, _part(config, cam), weights),
                    ("prepare",) if weights else ("prepare", cam), found))
    return out + _links(config, finish)


def _links(config, links) -> list[recipe.Step]:
    out = []
    for before, own, link in links:
        if link.field not in config:
            raise ValueError(f"step {own}, {link.title}: reads config.{link.field}, which this "
                             "config has not; begin with configs/paper_voc.py")
        if link is labels.LINKS["mars"]:
            out += _mars(config, before, own)
        else:
            out.append(step(config, own, bind(link.run, config, before),
                            ("prepare", before, *link.inputs), (link.field,)))
    return out


def _mars(config, before: str, own: str) -> list[recipe.Step]:
    """MARS of the label maps of the step `before`: debiased labels, a segmenter, its labels."""
    debiased, trained = f"{own}_debiased", f"{own}_mars"
    parts = depends.settings(configs.to_dict(config)["mars"])
    return [
        step(config, debiased, bind(labels.debias, config, before), ("prepare", before),
             {"mars": parts["debias"]}),
        step(config, trained, bind(labels.train_mars, config, before, debiased),
             ("prepare", before, debiased), {"mars": parts["segmenter"]},
             batch=config.mars.segmenter.device_batch),
        step(config, own, bind(labels.mars_labels, config, trained), ("prepare", trained),
             {"mars": parts["segmenter"]}),
    ]


def _given(config, name: str) -> recipe.Step:
    folder = config.given[sets.field(name)]
    return step(config, sets.STEPS[name], bind(labels.given, folder), ("prepare",),
                {"given": depends.content(folder, ".png")})


def _uses(config, made, what: str) -> bool:
    """Whether a set is refined, or finished, with a step of that name."""
    found = []
    for name in made:
        if not config.given[sets.field(name)]:
            how = sets.chain if name.endswith("+") else sets.finish
            found += [link for _, _, link in how(config, name)]
    return any(what in link.inputs for link in found)


def _proposals(config) -> recipe.Step:
    folder = config.given.proposals
    if folder:
        return step(config, "proposals", bind(labels.given_proposals, folder), ("prepare",),
                    {"given": depends.content(folder, ".json.gz")})
    return step(config, "proposals", bind(labels.propose, config), ("prepare",), ("proposals",))


def build_selection(config) -> list[recipe.Step]:
    """The choice, and the matched random draw that it is measured against."""
    if not config.select.quota_spec:  # told now, not after the days that the labels take
        raise ValueError("config.select.quota_spec is empty: want trusted images per class, such "
                         """as '{"cat": 20, "dog": 20}'""")
    pair = tuple(sets.STEPS[name] for name in sets.pair(config))
    refined = sets.stable(config)
    choose = step(config, "select", bind(labels.select, config, pair, refined),
                  ("prepare", *pair, *(s for s in refined if s not in pair)),
                  depends.selection(config))
    return [choose, build_draw(config, "control_m")]


def build_draw(config, name: str) -> recipe.Step:
    """A random draw beside the selection, by the seed of the segmenter."""
    return step(config, name, bind(arms.draw, config, arms.DRAWS[name]), ("prepare", "select"),
                {"seed": config.segmenter.seed})


def build_arm(config, name: str) -> list[recipe.Step]:
    """Draw, training, test and, where config.submission asks for it, the archive of an arm."""
    arm = configs.choose(arms.ARMS, name, "config.arms")
    own, out = arms.folder_name(name), []
    if arm.chosen == "listed" and not config.listed:
        raise ValueError("config.listed is empty; arm L wants a file with the ids of its images")
    if arm.chosen == "control_q" and config.select.quota_spec == "none":
        raise ValueError("config.select.quota_spec=none: arm Q fills a quota; want one, or leave "
                         "the arm out")
    if arm.chosen in arms.DRAWS and arm.chosen != "control_m":
        out.append(build_draw(config, arm.chosen))
    inputs = ["prepare"]
    if arm.labels == "pool" and (arm.chosen != "select" or config.select.keep == "whole"):
        inputs.append(sets.STEPS[sets.pair(config)[1]])
    if arm.chosen in ("select", *arms.DRAWS):
        inputs.append(arm.chosen)
    if not config.segmenter.total_steps:  # as many as arm S has
        inputs += [name_ for name_ in ("select", sets.STEPS[sets.pair(config)[1]])
                   if name_ not in inputs]
    if config.segmenter_encoder == "cam_b" and not config.given.cam_b:
        if config.given.b:
            raise ValueError("config.segmenter_encoder=cam_b: with config.given.b no classifier is "
                             "trained; want weights, or --config.given.cam_b")
        inputs.append("cam_b")
    whole = configs.to_dict(config)
    found = {field: depends.settings(whole[field]) for field in ("segmenter", "labelled")}
    found |= depends.encoder(config)
    if config.segmenter_tags and arm.learns == "semi":
        found["segmenter_tags"] = True
    if arm.chosen == "listed":
        found["listed"] = files.hash_file(config.listed)
    train = step(config, f"arm_{own}", bind(arms.train_arm, config, arm), inputs, found,
                 batch=config.segmenter.device_batch)
    encoder = [name_ for name_ in inputs if name_ == "cam_b"]
    test = step(config, f"test_{own}", bind(arms.test_arm, config, name),
                ("prepare", train.name, *encoder),
                ("segmenter",))
    out += [train, test]
    if config.submission.ids:
        out.append(step(config, f"submit_{own}", bind(arms.submit, config, name),
                        ("prepare", train.name, *encoder), ("segmenter", "submission"),
                        ids=str(pathlib.Path(config.submission.ids).absolute())))
    return out


def run_recipe(config, workdir: pathlib.Path, *, redo: tuple[str, ...] = ()) -> None:
    """Runs what is missing of the recipe and prints its table. Several hosts join in one run."""
    steps = build(config)
    workdir.mkdir(parents=True, exist_ok=True)
    names = read_class_names(config.classes)
    host, hosts = parallel.process()
    context = recipe.Context(workdir, names, config.seed, parallel.device_count() * hosts)
    todo = recipe.run(steps, context, redo=redo, say=lambda t: print(t, flush=True))
    if host:
        return
    if not todo:
        print("nothing to do: every step is done and unchanged")
    from rich.console import Console

    from wsssjax.report import tables

    for table in tables.render(files.read_json(workdir / "results.json")):
        Console().print(table)
    print(f"report: {workdir / 'report.html'}")
