"""Photos padded into one batch give what each gives alone, layer by layer as far as the head."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from wsssjax.cam import infer
from wsssjax.models import padded, registry
from wsssjax.models.classifier import Classifier
from wsssjax.models.resnet38 import ResNet38

CONFIG = ml_collections.ConfigDict({
    "encoder": "any", "output_stride": 16, "dtype": "float32", "clip": {"positions": "bilinear"},
    "conformer": {"drop_path": 0.0, "norm": "batch"},
    "vit": {"positions": "auto", "scan": True, "remat": False, "attention": "auto"},
    "resnet": {"dilation": "none", "norm": "stored", "freeze_below": "", "layout": "torchvision"}})
MASKED = {"resnet38", "resnet50", "resnet101", "vgg16"}  # encoders that can leave padding out
SIZES = [(41, 66), (64, 95), (1, 1)]
WHOLE = (64, 96)


def drawn(module, seed=0):
    """Variables with norms that are far from the identity, so that padding would show."""
    variables = module.init(jax.random.key(seed), jnp.zeros((1, 32, 32, 3)), train=False)
    rng = np.random.default_rng(seed)

    def change(path, x):
        name = path[-1].key
        if name in ("bias", "mean"):
            return jnp.asarray(rng.normal(0, 0.5, x.shape), x.dtype)
        if name in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype)
        return x

    return jax.tree_util.tree_map_with_path(change, variables)


@pytest.fixture(scope="module")
def network():
    module = Classifier(ResNet38(width=1 / 32), 5)
    variables = drawn(module)
    return jax.jit(lambda x: module.apply(variables, x, train=False)[1]["maps"])


def photos():
    rng = np.random.default_rng(3)
    return [rng.standard_normal((h, w, 3)).astype(np.float32) for h, w in SIZES]


def in_one_batch(images):
    whole = [np.pad(x, ((0, WHOLE[0] - x.shape[0]), (0, WHOLE[1] - x.shape[1]), (0, 0)))
             for x in images]
    return np.stack(whole), np.int32([x.shape[:2] for x in images])


def test_a_mean_in_bfloat16_is_that_in_float32_rounded():
    """The pixels of a photo are too many to be counted in bfloat16."""
    x_bhwc = np.random.default_rng(0).uniform(1, 2, (3, *WHOLE, 4)).astype(jnp.bfloat16)
    with padded.inside(jnp.int32(SIZES), WHOLE):
        got = padded.mean(jnp.asarray(x_bhwc))
    assert got.dtype == jnp.bfloat16 and got.shape == (3, 1, 1, 4)
    for row, (h, w) in enumerate(SIZES):
        want = x_bhwc[row, :h, :w].astype(np.float32).mean((0, 1)).astype(jnp.bfloat16)
        np.testing.assert_array_equal(got[row, 0, 0].astype(np.float32), want.astype(np.float32))


def test_padded_photos_equal_each_photo_alone(network):
    image_bhwc, size_b2 = in_one_batch(photos())

    @jax.jit
    def together(image_bhwc, size_b2):
        with padded.inside(size_b2, WHOLE):
            return network.__wrapped__(image_bhwc)

    maps_bpqk = together(image_bhwc, size_b2)
    unmasked = network(image_bhwc)
    worst = 0.0
    for row, image in enumerate(photos()):
        alone = network(image[None])[0]
        p, q = alone.shape[:2]
        assert (p, q) == tuple(-(-n // 8) for n in image.shape[:2])
        np.testing.assert_allclose(maps_bpqk[row, :p, :q], alone, atol=2e-5 * np.abs(alone).max())
        worst = max(worst, float(np.abs(unmasked[row, :p, :q] - alone).max()))
    assert worst > 0.05  # without the masks the padding is seen


def test_a_batch_without_padding_is_not_changed(network):
    image_bhwc = np.random.default_rng(4).standard_normal((3, *WHOLE, 3)).astype(np.float32)
    want = network(image_bhwc)

    @jax.jit
    def inside(image_bhwc):
        with padded.inside(jnp.int32([WHOLE] * 3), WHOLE):
            return network.__wrapped__(image_bhwc)

    np.testing.assert_allclose(inside(image_bhwc), want, atol=1e-6 * float(jnp.abs(want).max()))
    # Outside of `inside` nothing is left of it.
    np.testing.assert_array_equal(jax.jit(network.__wrapped__)(image_bhwc), want)


@pytest.mark.parametrize("name", registry.ENCODERS)
def test_encoders_that_see_the_padding_are_refused(name):
    encoder = registry.ENCODERS[name].module(CONFIG.copy_and_resolve_references(), jnp.float32)
    bucket = ml_collections.ConfigDict({
        "model": {"encoder": name}, "infer": {"canvas": "bucket", "background": "threshold"}})
    if name in MASKED:
        infer.check_method(bucket, encoder)
        return
    with pytest.raises(ValueError, match=f"bucket': encoder '{name}' would see the padding"):
        infer.check_method(bucket, encoder)


@pytest.mark.parametrize("name, layout", [
    ("resnet50", "torchvision"), ("resnet50", "caffe"), ("vgg16", "")])
def test_encoders_that_mask_give_what_each_photo_gives_alone(name, layout):
    config = CONFIG.copy_and_resolve_references()
    config.resnet.layout = layout
    encoder = registry.ENCODERS[name].module(config, jnp.float32).clone(width=1 / 32)
    variables = drawn(encoder)

    def features(image_bhwc):
        return encoder.apply(variables, image_bhwc, train=False)[1]["features"]

    @jax.jit
    def together(image_bhwc, size_b2):
        with padded.inside(size_b2, WHOLE, encoder.own_side):
            found_bpqd = features(image_bhwc)
            return found_bpqd, padded.own_size(found_bpqd.shape[1:3])

    image_bhwc, size_b2 = in_one_batch(photos())
    found_bpqd, own_b2 = together(image_bhwc, size_b2)
    for row, image in enumerate(photos()):
        alone = jax.jit(features)(image[None])[0]
        p, q = own_b2[row]
        assert alone.shape[:2] == (p, q)
        np.testing.assert_allclose(found_bpqd[row, :p, :q], alone,
                                   atol=2e-5 * np.abs(alone).max())
