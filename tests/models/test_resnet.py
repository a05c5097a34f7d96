"""ResNet-50 and -101 against torchvision's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import registry, resnet

THIN = 1 / 16


@pytest.fixture(scope="module")
def torchvision():
    return pytest.importorskip("torchvision")


def shaken(model, seed=0):
    """The model with norms that are not near the identity."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for name, low in (("weight", 0.4), ("bias", -0.3), ("running_mean", -0.3),
                              ("running_var", 0.5)):
                values = torch.rand(module.num_features, generator=generator)
                getattr(module, name).data.copy_(low + values * 0.6)
    return model.eval()


def state_dict(model):
    return {name: x.detach().numpy() for name, x in model.state_dict().items()}


def restored(net, tensors, side=33):
    template = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, side, side, 3)),
                                               train=False))
    flat = registry.place_norms(resnet.from_torch(tensors), template)
    return weights.restore(template, flat)


@functools.partial(jax.jit, static_argnums=0)
def apply(net, variables, image):
    return net.apply(variables, image, train=False)


def torch_taps(model, image_bhwc):
    import torch

    x, taps = torch.tensor(image_bhwc.transpose(0, 3, 1, 2)), []
    with torch.no_grad():
        x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        for stage in resnet.STAGES:
            x = getattr(model, stage)(x)
            taps.append(x.numpy().transpose(0, 2, 3, 1))
    return taps


@pytest.mark.parametrize("depth, norm, stride, dilation", [
    (50, "batch", 32, "none"), (50, "stored", 8, "late"), (101, "frozen", 16, "late")])
def test_full_network_equals_torchvision(torchvision, depth, norm, stride, dilation):
    replaced = {32: (False, False, False), 16: (False, False, True), 8: (False, True, True)}[stride]
    model = shaken(getattr(torchvision.models, f"resnet{depth}")(
        replace_stride_with_dilation=replaced))
    image = np.random.default_rng(1).standard_normal((1, 49, 70, 3)).astype(np.float32)
    net = resnet.ResNet(depth, stride, dilation, norm)
    pooled, aux = apply(net, restored(net, state_dict(model)), image)
    wanted = torch_taps(model, image)
    for index, want in enumerate(wanted):
        got = aux[f"tap{index}"]
        assert got.shape == want.shape and want.shape[-1] == net.tap_widths[index]
        assert -(-49 // net.tap_strides[index]) == want.shape[1]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5 * np.abs(want).max())
    np.testing.assert_array_equal(aux["features"], aux["tap3"])
    np.testing.assert_allclose(pooled, wanted[3].mean((1, 2)), rtol=1e-4, atol=1e-4)
