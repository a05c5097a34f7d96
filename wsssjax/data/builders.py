"""TFDS builders: data sets packed as array_record files, written without TensorFlow.

Photos, masks and saliency maps are stored as the encoded bytes they came in, so that packing
neither loses quality nor needs TensorFlow's encoders. `prepare.pack` is the easy way to call them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from wsssjax.data import label_map, photos, records, shapes
from wsssjax.data.records import DataSet, Record

SHARD_BYTES = 256 << 20  # a shard's records are held in memory while it is written
OPTIONAL = ("label", "saliency", "context")  # stored where a record has them
TRUTH = ("label", "context")  # may score, must never teach


class _Info(tfds.core.DatasetInfo):
    """DatasetInfo that never looks for published statistics in the network."""

    def initialize_from_bucket(self) -> None:
        """Does nothing."""


class _Builder(tfds.core.ShardBasedBuilder):
    """What the builders share: TFDS asks for a class of its own per data set."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = {}  # nothing is downloaded; TFDS would look for checksums beside this module

    def __init__(self, *, data: DataSet, with_truth: bool = False, **kwargs):
        """data: what to pack.  with_truth: also store true masks; only scoring may use them."""
        self._data, self._with_truth = data, with_truth
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        parts = stored_parts(self._data, self._with_truth)
        split_ids = {split: [record.name for record in found]
                     for split, found in self._data.splits.items()}
        metadata = {
            "class_names": list(self._data.class_names),
            "ids": split_ids,
            "lacking": {split: lacking(found, ("tags", *parts))
                        for split, found in self._data.splits.items()},
            "fingerprint": records.fingerprint(self._data, parts),
        }
        return _Info(
            builder=self,
            description=self.__doc__,
            features=_features(self._data, parts),
            metadata=tfds.core.MetadataDict(metadata),
        )

    def _shard_iterators_per_split(self, dl_manager):
        parts = stored_parts(self._data, self._with_truth)
        k = len(self._data.class_names) - 1
        return {split: [functools.partial(_examples, shard, parts, k) for shard in _shards(found)]
                for split, found in self._data.splits.items()}


class Voc(_Builder):
    """Photos of a VOC-like folder with image-level tags."""


class ImageFolder(_Builder):
    """A folder of photos with a CSV file of tags."""


class Coco(_Builder):
    """Photos of COCO with the classes of their instances as tags."""


class Shapes(_Builder):
    """Generated images of textured objects with tags."""


BUILDERS = {"voc": Voc, "folder": ImageFolder, "coco": Coco, "shapes": Shapes}


def draw_shapes(*, train: int, test: int, size: int, seed: int) -> DataSet:
    """The generated data set as records: the first `train` images learn, the next `test` score."""
    found: list[Record] = []
    for name, image_hwc, label_hw, tags_k, context_hw in shapes.generate(train + test, size, seed):
        found.append(Record(
            name=name, photo=photos.encode_png(image_hwc), tags=np.asarray(tags_k, np.float32),
            label=label_map.encode(label_hw), context=photos.encode_png(context_hw),
        ))
    return DataSet(
        class_names=tuple(shapes.SHAPES_CLASSES),
        splits={"train": tuple(found[:train]), "test": tuple(found[train:])},
    )


def stored_parts(data: DataSet, with_truth: bool) -> tuple[str, ...]:
    """Optional entries that at least one record has and that may be stored."""
    everyone = [record for found in data.splits.values() for record in found]
    return tuple(
        part for part in OPTIONAL
        if (with_truth or part not in TRUTH)
        and any(getattr(record, part) is not None for record in everyone)
    )


def lacking(found: tuple[Record, ...], parts: tuple[str, ...]) -> dict[str, list[str]]:
    """{part: ids of the images without it}; tags of nothing but zeros are none."""
    def bare(record, part):
        value = getattr(record, part)
        return value is None or (part == "tags" and not value.any())

    names = {part: [record.name for record in found if bare(record, part)] for part in parts}
    return {part: ids for part, ids in names.items() if ids}


def _features(data: DataSet, parts: tuple[str, ...]) -> tfds.features.FeaturesDict:
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(),
        "tags": tfds.features.Tensor(shape=(len(data.class_names) - 1,), dtype=np.uint8),
        "has_tags": tfds.features.Scalar(np.bool_),
    }
    for part in parts:
        features[part] = tfds.features.Image(shape=(None, None, 1))
        features[f"has_{part}"] = tfds.features.Scalar(np.bool_)
    return tfds.features.FeaturesDict(features)


def _examples(
    found: tuple[Record, ...], parts: tuple[str, ...], k: int
) -> Iterator[tuple[int, dict]]:
    """(key, example) of each record; what a record lacks is stored empty with its flag False."""
    for index, record in enumerate(found):
        tags_k = np.zeros(k, np.float32) if record.tags is None else record.tags
        example = {"id": record.name, "image": records.load(record.photo),
                   "tags": tags_k.astype(np.uint8), "has_tags": record.tags is not None}
        for part in parts:
            value = getattr(record, part)
            example[part] = b"" if value is None else records.load(value)
            example[f"has_{part}"] = value is not None
        yield index, example


def _shards(found: tuple[Record, ...]) -> list[tuple[Record, ...]]:
    """The records cut into shards of at most SHARD_BYTES (or one record), order kept."""
    shards, size = [[]], 0
    for record in found:
        images = (record.photo, record.label, record.saliency, record.context)
        more = sum(_bytes(image) for image in images if image is not None)
        if shards[-1] and size + more > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(record)
        size += more
    return [tuple(shard) for shard in shards]


def _bytes(image) -> int:
    return len(image) if isinstance(image, bytes) else image.stat().st_size
