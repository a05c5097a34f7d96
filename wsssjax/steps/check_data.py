"""The check of a recipe's photos, tags and masks, and of folders of finished work."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from wsssjax.core import cli, files
from wsssjax.core.config import choose
from wsssjax.data import label_map, photos, prepare, records
from wsssjax.data.classes import SHAPES_CLASSES, VOC_CLASSES, read_class_names
from wsssjax.data.records import DataSet, Record
from wsssjax.evaluate import submission
from wsssjax.refine import proposals
from wsssjax.steps.arms import listed_ids
from wsssjax.steps.finding import Finding, look, problems_of, spread

VOC_LISTS = {"train": 1464, "train_aug": 10582, "trainaug": 10582, "val": 1449, "trainval": 2913,
             "test": 1456}  # photos of VOC 2012's lists, train with SBD's masks among them
SHOWN = 5  # ids that a message names


class Data(NamedTuple):
    """What other inputs are held against.  classes: names, background first.  classes_name: what
    config.classes of a network is.  train, test: records, None where they are not known.  count: of
    training photos."""

    classes: tuple[str, ...]
    classes_name: str
    train: tuple[Record, ...] | None
    test: tuple[Record, ...] | None
    count: int


class Wanted(NamedTuple):
    """What the recipe reads of the data set beside its photos; saliency: "" or who reads it."""

    tags: bool
    truth: tuple[str, ...]
    saliency: str


def data_set(config: Any, wanted: Wanted) -> tuple[Data, list[Finding]]:
    """The data set as the step `prepare` will find it, and what there is to tell."""
    if config.data.kind == "shapes":
        how, names = config.data, SHAPES_CLASSES
        found = f"{how.train_count:,} training and {how.test_count:,} test photos will be drawn"
        return (Data(names, "shapes", None, None, how.train_count),
                [Finding("data set", "shapes", found, warnings=_other_names(config, names))])
    data, problems = _read(config)
    found = f"{len(data.classes) - 1} classes beside the background"
    out = [Finding("data set", config.data.root, found, tuple(problems),
                   _other_names(config, data.classes) + _overlap(data))]
    for name, split in (("train", data.train), ("test", data.test)):
        if split is not None:
            out.append(_photos(config, name, split, data.classes))
    if data.train is not None and wanted.tags:
        out.append(_tags(config.data.train, data))
    if data.train is not None:
        out += [_truth(data, wanted.truth)] + _saliency(data, wanted.saliency)
    return data, out


def _read(config: Any) -> tuple[Data, list[str]]:
    """(the data set, all its problems); what cannot be read at all is None."""
    kind = prepare.FOLDER_KINDS.get(config.data.kind, config.data.kind)
    told: dict[str, None] = {}
    found: dict[str, tuple[Record, ...]] = {}
    names: tuple[str, ...] = ()

    def read(*splits):
        nonlocal names
        try:
            if not config.data.root:
                raise ValueError("config.data.root is empty; pass --config.data.root=FOLDER of the "
                                 "photos")
            read = records.collect(kind, config.data.root, splits=dict.fromkeys(splits),
                                   tell=told.setdefault)
        except (ValueError, OSError) as error:
            no_root = config.data.root and not pathlib.Path(config.data.root).is_dir()
            return cli.one_line(error) + "; --config.data.root names another" * bool(no_root)
        names = read.class_names
        found.update(read.splits)
        return ""

    # One by one where something is amiss, so that the problems of both are told.
    if read(config.data.train, config.data.test):
        for split in (config.data.train, config.data.test):
            if problem := read(split):
                told.setdefault(problem)
    classes_name = config.classes
    if names:
        own_file = pathlib.Path(config.data.root) / records.CLASSES[kind]
        classes_name = str(own_file) if kind == "folder" else records.CLASSES[kind]
    else:
        names = _names(config.classes)
        if not names:  # told once, as a setting; other checks go on with some names
            names, classes_name = VOC_CLASSES, "voc"
    train = found.get(config.data.train)
    return Data(names, classes_name, train, found.get(config.data.test),
                len(train or ())), list(told)


def _names(classes: str) -> tuple[str, ...]:
    try:
        return read_class_names(classes)
    except (ValueError, OSError):
        return ()


def _other_names(config: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """A warning where config.classes names others; a file that is not there is told elsewhere."""
    own = _names(config.classes)
    if not own or own == names:
        return ()
    return (f"config.classes={config.classes} names {len(own) - 1} classes, the data set has "
            f"{len(names) - 1}, or in another order; the data set's are taken",)


def _overlap(data: Data) -> tuple[str, ...]:
    """A warning about photos that are trained on and tested on."""
    both = sorted({r.name for r in data.train or ()} & {r.name for r in data.test or ()})
    if not both:
        return ()
    return (f"{_some(both)} in both lists; the scores are then of photos that it learned from",)


def _some(names: list[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names):,} photo{'s' * (len(names) != 1)} ({', '.join(names[:SHOWN])}{more})"


def _photos(config: Any, which: str, found: tuple[Record, ...], classes) -> Finding:
    """A list's photos, of which some are decoded with all that belongs to them."""
    name, problems = config.data[which], []
    sample = spread(found)
    prepare.check(DataSet(class_names=classes, splits={name: tuple(sample)}), problems.append)
    known = VOC_LISTS.get(name) if config.data.kind == "voc" else None
    other = known not in (None, len(found))
    masks = " with their masks" if any(r.label is not None for r in sample) else ""
    return Finding(f"{which} photos", f"list {name}",
                   f"{len(found):,}; {len(sample)} of them decoded{masks}", tuple(problems),
                   (f"{len(found):,} photos; VOC's {name} has {known:,}",) if other else ())


def _tags(name: str, data: Data) -> Finding:
    bare = [r.name for r in data.train if r.tags is None or not r.tags.any()]
    count = sum(int(r.tags.sum()) for r in data.train if r.tags is not None)
    problems = (f"{_some(bare)} without a tag; add them, or take the photos out of the list",)
    return Finding("tags", f"list {name}", f"{count / max(len(data.train), 1):.2f} classes a photo",
                   problems if bare else ())


def _truth(data: Data, arms: tuple[str, ...]) -> Finding:
    """True masks: for scores, and for the arms that learn from them."""
    bare = [r.name for r in data.train if r.label is None]
    test = data.test or ()
    scored = sum(r.label is not None for r in test)
    problems, warnings = [], []
    if bare and arms:
        problems.append(f"{_some(bare)} of training without; {', '.join(arms)} learns from them: "
                        f"add SegmentationClassAug/<id>.png or masks/<id>.png, or leave "
                        f"{'it' if len(arms) == 1 else 'them'} out of config.arms")
    elif bare:
        warnings.append(f"{_some(bare)} of training without, so labels are not scored")
    if scored < len(test):
        warnings.append(f"{len(test) - scored:,} of {len(test):,} test photos without"
                        + ("" if scored else ", so nothing is scored"))
    return Finding("true masks", "", f"{len(data.train) - len(bare):,} of {len(data.train):,} "
                   f"training photos, {scored:,} of {len(test):,} test photos", tuple(problems),
                   tuple(warnings))


def _saliency(data: Data, reader: str) -> list[Finding]:
    if not reader:
        return []
    bare = [r.name for r in data.train if r.saliency is None]
    problem = (f"{_some(bare)} without a map; {reader} learns from them: make them with "
               "tools/make_saliency.py, or --config.saliency.source=mbd",)
    return [Finding("saliency", "saliency/", f"{len(data.train) - len(bare):,} maps",
                    problem if bare else ())]


# ---- finished work -----------------------------------------------------------------------------


def given_labels(what: str, folder: str, data: Data) -> Finding:
    """A folder of finished label maps of the training photos."""
    def there():
        ids = label_map.folder_ids(folder)
        if data.train is not None:
            files.need_ids([r.name for r in data.train], set(ids), folder,
                           "make them, or name another folder")
        return ids

    def one(name, photo=None):
        own = photos.photo_size(photo) if photo is not None else None
        label_map.read(pathlib.Path(folder) / f"{name}.png", len(data.classes), own)

    return _folder(what, folder, there, ".png", one, data)


def given_proposals(folder: str, data: Data) -> Finding:
    """A folder of finished masks of the training photos."""
    def there():
        names = sorted(p.name.removesuffix(proposals.SUFFIX)
                       for p in pathlib.Path(folder).glob(f"*{proposals.SUFFIX}"))
        if not names:
            raise FileNotFoundError(f"{folder}: no such folder, or no *{proposals.SUFFIX} in it; "
                                    "make them with tools/propose_masks.py")
        if data.train is not None:
            files.need_ids([r.name for r in data.train], set(names), folder,
                           "make them with tools/propose_masks.py")
        return names

    def one(name, photo=None):
        path = pathlib.Path(folder) / f"{name}{proposals.SUFFIX}"
        if photo is None:
            proposals.read_file(path)
        else:
            proposals.read_path(path, photos.photo_size(photo), "its photo")

    return _folder("proposals", folder, there, proposals.SUFFIX, one, data)


def _folder(what, folder, there, suffix, one, data) -> Finding:
    """A folder with a file for every training photo, some of which are opened beside the photo."""
    problems = []
    try:
        ids = there()
    except (ValueError, OSError) as error:
        problems.append(cli.one_line(error))
        ids = [p.name.removesuffix(suffix) for p in sorted(pathlib.Path(folder).glob(f"*{suffix}"))]
    if data.train is None:
        pairs = [(name, None) for name in ids]
    else:
        found = set(ids)
        pairs = [(r.name, r.photo) for r in data.train if r.name in found]
    sample = spread(pairs)
    problems += problems_of(lambda pair: one(*pair), sample)
    return Finding(what, folder, f"{len(ids):,} files; {len(sample)} of them opened",
                   tuple(problems))


def archive(config: Any, data: Data) -> list[Finding]:
    """The photos of VOC's test set, where config.submission asks for the archive."""
    how = config.submission
    if not how.ids:
        return []
    place = how.photos or "config.submission.photos"
    problems: list[str] = []
    there: dict[str, pathlib.Path] = {}

    def act(step):
        try:
            return step()
        except (ValueError, OSError) as error:
            problems.append(cli.one_line(error))
            return None

    act(lambda: choose(submission.CHALLENGES, how.challenge, "config.submission.challenge"))
    if data.classes != VOC_CLASSES:
        problems.append(f"VOC's server takes VOC's classes, not these {len(data.classes)}; leave "
                        "config.submission.ids empty")
    ids = act(lambda: files.read_ids(how.ids)) or []
    if how.photos:
        there = act(lambda: files.photo_paths(how.photos)) or {}
    else:
        problems.append("config.submission.photos is empty; want the folder of VOC's test photos")
    if ids and there:
        act(lambda: files.need_ids(ids, there, place, "want the photos of VOC's test set"))
    sample = spread([name for name in ids if name in there])
    problems += problems_of(lambda name: photos.read_photo(there[name]), sample)
    want = submission.SETS["test"]
    other = (f"{len(ids):,} ids in {how.ids}; VOC's test has {want:,}",)
    return [Finding("submission", place, f"{len(ids):,} photos; {len(sample)} of them decoded",
                    tuple(problems), other if ids and len(ids) != want else ())]


def listed(config: Any, data: Data) -> list[Finding]:
    """The list of arm L."""
    if "L" not in config.arms:
        return []

    def act():
        if not config.listed:
            raise ValueError("config.listed is empty; arm L wants a list of ids")
        if data.train is None:
            return ""
        return f"{len(listed_ids(config, [r.name for r in data.train])):,} ids"

    return [look("list of arm L", config.listed, act)]


def unmet(quota_k: Iterable[int] | None, data: Data) -> tuple[str, ...]:
    """Warnings about classes of which the tags have fewer photos than the quota wants."""
    if quota_k is None or not data.train or any(r.tags is None for r in data.train):
        return ()
    have_k = sum(r.tags for r in data.train)
    short = [f"{name} {int(have):,} of {int(need):,}" for name, have, need
             in zip(data.classes[1:], have_k, quota_k, strict=True) if have < need]
    return (f"wants more photos than are tagged: {', '.join(short)}",) if short else ()
