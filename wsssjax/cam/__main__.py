"""Command: a trained classifier, photos and their tags → CAM files and label maps."""

from __future__ import annotations

import pathlib

import jax
import numpy as np

from wsssjax.cam import bao, cam, clip, dino, eps, infer, transcam
from wsssjax.core import cli, config, files, parallel, progress, weights
from wsssjax.data import cam_file, classes, label_map, photos
from wsssjax.data import tags as tag_files
from wsssjax.models import recognise, registry

METHODS = {"bao": bao.build, "cam": cam.build, "clip": clip.build, "dino": dino.build,
           "eps": eps.build, "transcam": transcam.build}
SUFFIXES = {"cams": ".npz", "labels": ".png"}
SETTINGS = "cam.json"  # beside the results: what they were made with


def main(arguments: list[str]) -> None:
    """Nothing; writes what the flags ask for."""
    plain, overrides = cli.split_overrides(arguments)
    parser = cli.parser(
        "python -m wsssjax.cam", __doc__,
        "python -m wsssjax.cam --config=configs/cam_voc_eps.py --weights=runs/eps/weights \\\n"
        "    --images=photos --tags=tags.csv --out=labels --save=labels")
    parser.add_argument("--config", required=True, help="the config that trained the classifier; "
                        "--config.a.b=v changes a field, for instance infer.canvas")
    parser.add_argument("--weights", required=True, help="exported weights (.safetensors)")
    parser.add_argument("--images", required=True, help="folder of photos, or a list of paths")
    parser.add_argument("--tags", required=True, help="CSV `id,tags`")
    parser.add_argument("--out", required=True, help="folder for <id>.npz and <id>.png")
    parser.add_argument("--save", default="cams,labels", help="cams, labels or both (default)")
    parser.add_argument("--threshold", type=float, help="score of the background, 0..1; "
                        "default: infer.threshold of the config; not read where the method learns "
                        "a map of it (infer.background=map)")
    parser.add_argument("--classes", help="voc, coco or a file; default: classes of the config")
    flags = parser.parse_args(plain)
    if flags.threshold is not None:
        overrides["infer.threshold"] = str(flags.threshold)
    if flags.classes is not None:
        overrides["classes"] = flags.classes
    run(config.load(flags.config, overrides), flags.weights, flags.images, flags.tags, flags.out,
        save=tuple(flags.save.split(",")))


def run(settings, weights_path, images, tags, out, *, save=("cams", "labels")) -> list[str]:
    """Ids of all photos, sorted; `<out>/<id>.npz` and `<id>.png` are there when it returns.

    settings: the config that trained the classifier.  images: folder or list of photos.  tags: CSV
    file.  save: of "cams" and "labels".  Files that are there already are kept, and refused if
    they were made with other settings.
    """
    for name in save:
        config.choose(SUFFIXES, name, "--save")
    registry.need(settings, ("infer", "model", "classes"), "python -m wsssjax.cam",
                  "cam_voc_cam.py")
    infer.check(settings.infer)
    paths = files.photo_paths(images)
    names = classes.need_background(classes.read_class_names(settings.classes), "cam")
    tags_by_id = tag_files.read_tags(tags, names, untagged=True)
    if bare := [name for name in paths if name not in tags_by_id]:
        raise ValueError(f"{tags}: no tags for the photo {paths[bare[0]]} ({len(bare)} of "
                         f"{len(paths)} photos have none); add them, or give --images a list of "
                         "the others")
    out = pathlib.Path(out)
    _claim(out, settings, weights_path, tags)
    parallel.start()
    method, variables = restored(settings, weights_path)
    encoder = registry.build_encoder(settings.model)
    forward = infer.compiled(method.predict, variables, settings.infer,
                             getattr(encoder, "own_side", None))
    batches = infer.plan({name: photos.photo_size(path) for name, path in paths.items()},
                         settings.infer)
    with progress.Progress(len(paths), "cam") as bar:
        for batch in batches:
            if not all((out / f"{n}{SUFFIXES[s]}").exists() for n in batch for s in save):
                found = infer.class_maps(
                    forward, [photos.read_photo(paths[n]) for n in batch],
                    [tags_by_id[n] for n in batch], settings.infer, settings.data)
                for name, maps in zip(batch, found, strict=True):
                    _write(out, name, maps, settings.infer, save)
            bar.advance(len(batch))
    return sorted(paths)


def restored(settings, weights_path):
    """(method, variables): the method `settings` describes with the weights of a file."""
    settings = settings.copy_and_resolve_references()
    with settings.unlocked():
        settings.model.encoder_weights = ""  # the trained weights hold the encoder, too
        if "init_weights" in settings:
            settings.init_weights = ""
    build = config.choose(METHODS, settings.method, "config.method")
    method = build(settings)
    template = jax.eval_shape(method.init, jax.random.key(0)).variables()
    flat = weights.load(weights_path)
    _check_head(flat, template, settings, weights_path)
    try:
        return method, weights.restore(template, registry.place_norms(flat, template))
    except ValueError as error:
        raise ValueError(f"{weights_path}, as {settings.method}: {error}"
                         f"{recognise.hint(flat, settings.model.encoder)}") from None


def _check_head(flat, template, settings, weights_path):
    """Refuses a class list that is not of the length that the head was trained for."""
    for name, leaf in weights.flatten(template).items():
        want, found = leaf.shape, np.shape(flat.get(name, leaf))
        if "head" in name and len(want) > 1 and want[:-1] == found[:-1] and want != found:
            k = len(classes.read_class_names(settings.classes)) - 1
            raise ValueError(
                f"{weights_path}, as {settings.method}: {name} gives {found[-1]} maps, the {k} "
                f"classes of {settings.classes!r} want {want[-1]}; pass --classes with the names "
                "it was trained on, or --config with the method")


def _write(out, name, maps, settings, save):
    """Writes the files of one photo."""
    if not np.isfinite(maps.cam).all():
        raise ValueError(f"photo {name!r}: NaN or infinity in its class maps; the training of "
                         "these weights diverged, take earlier ones or a lower config.optim.lr")
    if "cams" in save:
        cam_file.write(out / f"{name}.npz", maps.classes, maps.cam.clip(0, 1), maps.cam.shape[1:])
    if "labels" in save:
        label_map.write(out / f"{name}.png", infer.label_map(maps, settings))


def _claim(out, settings, weights_path, tags):
    """Writes down what the folder's files are made with, or refuses a folder made otherwise."""
    plain = config.to_dict(settings)
    made_with = {name: plain[name] for name in ("method", "model", "infer", "dtype")}
    made_with["classes"] = list(classes.read_class_names(settings.classes))
    made_with["model"].pop("encoder_weights")
    made_with["colours"] = [plain["data"]["mean"], plain["data"]["std"]]
    made_with["weights"] = weights.fingerprint(weights_path)
    if pathlib.Path(made_with["model"].get("text", "")).is_file():  # its content counts
        made_with["model"]["text"] = files.hash_file(settings.model.text)
    made_with["tags"] = files.hash_file(tags)
    files.claim(out / SETTINGS, made_with)


if __name__ == "__main__":
    cli.run(main)
