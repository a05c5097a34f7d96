"""Two CPU devices, no silent rank broadcasting, and one place that knows where real data lies."""

import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = pathlib.Path(
    os.environ.get("WSSSJAX_SHARED", pathlib.Path(__file__).parents[2] / "shared")
)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Folder with real photos, masks and reference numbers; without it the test is skipped."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data: {SHARED} is absent (set WSSSJAX_SHARED)")
    return SHARED
