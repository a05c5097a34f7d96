"""A training step of UniMatch V2 on DINOv2, ours beside the same step in PyTorch.

    python tools/bench/train_step.py --sizes=s --modes=frozen,trainable --dtypes=float32 --repeats=5

Every line of the table is a process of its own, run one after the other: a peak of memory is then
that of one program alone. A step counts as 2 x batch photos, the labelled and the unlabelled ones;
of each unlabelled one it runs three views, so that networks see 4 x batch images. Speeds are the
median of the repeats, with the slowest and the fastest. On a machine that others use too, compare
the CPU time of a step over all cores instead.

compile: first call less a usual one; all caches are off.  memory: on a GPU the peak that the
library's allocator reports. On a CPU it is what XLA's program needs (arguments and temporaries),
or, for PyTorch, by how much the process grew; the latter is in --json for both.  TFLOP/s: of the
model, see `step_flops`; work that a program saves or repeats does not count.
PyTorch runs as it is fastest: channels last, fused optimizer, TF32 on a GPU, where XLA uses it too.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from wsssjax.core import cli

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "semi_voc_unimatch_v2.py"
NAMES = {"s": "small", "b": "base", "l": "large", "g": "giant"}
HEAD_WIDTHS = {"s": 64, "b": 128, "l": 256, "g": 384}
MODES, DTYPES = ("frozen", "trainable"), ("float32", "bfloat16")
TORCH = ("eager", "compile")
CLASSES = 21
WARM_UP = 2
MIB = 2**20

# ---- floating-point operations of the model ----------------------------------------------------


def encoder_flops(width: int, depth: int, crop: int, hidden_products: int = 8) -> int:
    """Multiplications and additions of one image's forward pass through the encoder.

    Matrix products alone: patch embedding, qkv, scores, mixed values, projection, MLP.
    hidden_products: of the MLP, in width² per token: 8 for d → 4 d → d, 8 for SwiGLU as well.
    """
    patches = (crop // 14) ** 2
    tokens = patches + 1
    block = (4 + hidden_products) * tokens * width**2 + 2 * tokens**2 * width
    return 2 * (patches * 3 * 14**2 * width + depth * block)


def head_flops(width_in: int, width: int, channels: tuple[int, ...], crop: int) -> int:
    """The same for the DPT head, as published (its 1x1 convolutions after the resizes)."""
    side = crop // 14
    n, coarse = side**2, ((side - 1) // 2 + 1) ** 2
    areas = (16 * n, 4 * n, n, coarse)
    total = n * width_in * sum(channels)
    total += n * (16 * channels[0] ** 2 + 4 * channels[1] ** 2) + coarse * 9 * channels[3] ** 2
    for area, next_area, c, units in zip(areas, (64 * n, *areas), channels, (2, 2, 2, 1),
                                         strict=False):
        total += area * 9 * c * width  # to the head's width
        total += area * units * 2 * 9 * width**2 + next_area * width**2
    return 2 * (total + 64 * n * (9 * width**2 + width * CLASSES))


def step_flops(size: str, crop: int, batch: int, frozen: bool) -> int:
    """Operations that one step of the method asks for, matrix products and convolutions alone.

    The teacher runs forward on `batch` images, the student on three times as many; a backward pass
    counts as two forward passes, and a frozen encoder has none.
    """
    from wsssjax.models import dpt, vit

    own, head_width = vit.SIZES[size], HEAD_WIDTHS[size]
    encoder = encoder_flops(own.width, own.depth, crop)
    head = head_flops(own.width, head_width, dpt.channels(head_width), crop)
    return batch * ((1 + 3 * (1 if frozen else 3)) * encoder + (1 + 3 * 3) * head)


# ---- the measured programs, each in a process of its own ---------------------------------------


def synthetic(batch: int, crop: int) -> dict[str, np.ndarray]:
    """Noise under the keys of a batch, [b,h,w,...], with padding, boxes and ignored pixels."""
    rng = np.random.default_rng(0)
    shape = (batch, crop, crop)
    arrays = {name: rng.standard_normal((*shape, 3), dtype=np.float32)
              for name in ("image", "weak", "strong1", "strong2")}
    arrays["label"] = rng.integers(0, CLASSES, shape).astype(np.int32)
    arrays["label"][:, :8] = 255
    arrays["valid"] = np.ones(shape, bool)
    arrays["valid"][0, :, -crop // 8:] = False
    for name in ("cut1", "cut2"):
        arrays[name] = np.zeros(shape, bool)
        arrays[name][0, crop // 4:crop // 2, crop // 4:] = True
    return arrays


def jax_program(job: dict) -> tuple[Callable, Callable]:
    """(step, peak) of ours: step() → loss, peak() → bytes."""
    import jax

    from wsssjax.core import config as configs
    from wsssjax.core import parallel
    from wsssjax.semi import unimatch_v2

    config = configs.load(f"{CONFIG}:{NAMES[job['size']]}")
    config.model.freeze_encoder = job["mode"] == "frozen"
    config.dtype, config.device_batch = job["dtype"], job["batch"]
    config.data.crop, config.total_steps = job["crop"], 1000
    config.precision = "default"  # TF32 on a GPU, as PyTorch is told to
    method = unimatch_v2.build(config)
    state = [parallel.replicate(method.init(jax.random.key(0)), devices=1)]
    compiled = parallel.compile_step(method.step, devices=1)
    arrays, key = synthetic(job["batch"], job["crop"]), jax.random.key(1)

    def step():
        state[0], metrics = compiled(state[0], arrays, key)
        return float(jax.block_until_ready((state[0], metrics))[1]["loss"])

    def peak():
        device = jax.local_devices()[0]
        stats = device.memory_stats()
        if stats:
            return stats["peak_bytes_in_use"]
        programs = (x.get_compiled_memory_stats() for x in device.client.live_executables())
        return max(p.temp_size_in_bytes + p.argument_size_in_bytes for p in programs)

    return step, peak


def torch_program(job: dict) -> tuple[Callable, Callable]:
    """The same of PyTorch's."""
    import torch
    import torch_reference as reference  # beside this file

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    model = reference.build(NAMES[job["size"]], CLASSES)
    model = model.to(device, memory_format=torch.channels_last)
    half = torch.bfloat16 if job["dtype"] == "bfloat16" else None
    settings = reference.Settings(total_steps=1000, autocast=half,
                                  freeze_encoder=job["mode"] == "frozen")
    losses = reference.unimatch_losses
    run = reference.start(model, settings,
                          torch.compile(losses) if job["library"] == "compile" else losses)
    generator = torch.Generator().manual_seed(0)
    width = model.head.projects[0].in_channels
    batch = {}
    for name, x in synthetic(job["batch"], job["crop"]).items():
        x = torch.from_numpy(x)
        batch[name] = x.permute(0, 3, 1, 2) if x.ndim == 4 else x
    batch["label"] = batch["label"].long()
    batch["kept"] = torch.rand(job["batch"], width, generator=generator) < 0.5
    batch["whole"] = torch.arange(job["batch"]) < job["batch"] // 2

    def step():
        moved = {name: x.to(device) for name, x in batch.items()}
        metrics = {name: float(x) for name, x in reference.train_step(run, moved).items()}
        if device == "cuda":
            torch.cuda.synchronize()
        return metrics["loss"]

    def peak():
        return torch.cuda.max_memory_allocated() if device == "cuda" else None

    return step, peak


def measure(job: dict) -> dict:
    """The job with what was measured: seconds and CPU seconds of each step, compile_s, memory."""
    make = jax_program if job["library"] == "ours" else torch_program
    start_bytes = _resident()
    step, peak = make(job)
    warm, seconds, cpu, losses = [], [], [], []
    for _ in range(WARM_UP + job["repeats"]):
        start, start_cpu = time.perf_counter(), time.process_time()
        losses.append(step())
        (warm if len(warm) < WARM_UP else seconds).append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - start_bytes
    usual = float(np.median(seconds))
    compile_s = max(sum(warm) - len(warm) * usual, 0.0)
    return job | {"seconds": seconds, "cpu": cpu[WARM_UP:], "compile_s": compile_s,
                  "memory": peak() or growth, "growth": growth, "losses": losses}


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# ---- the table ---------------------------------------------------------------------------------


def run_job(job: dict) -> dict:
    """`measure` in a process of its own; an "error" instead of numbers where that failed."""
    caches_off = {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1", "JAX_ENABLE_COMPILATION_CACHE": "0",
                  "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, __file__, f"--job={json.dumps(job)}"], text=True,
                          capture_output=True, env=os.environ | caches_off)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        tail = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return job | {"error": tail}
    return json.loads(lines[-1])


def line(result: dict, flops: int) -> str:
    """One line of the table."""
    name = result["library"]
    head = f"{result['size']} {result['mode']:9s} {result['dtype']:8s} " + \
        f"{name if name == 'ours' else f'torch {name}':13s} "
    if "error" in result:
        return head + f"failed: {result['error'][:100]}"
    seconds = np.array(result["seconds"])
    rates = 2 * result["batch"] / seconds
    return head + (f"{np.median(rates):8.3f} ({rates.min():.3f} … {rates.max():.3f}) images/s  "
                   f"{np.median(result['cpu']):6.2f} CPU s  {result['compile_s']:6.1f} s  "
                   f"{result['memory'] / MIB:7.0f} MiB  "
                   f"{flops / np.median(seconds) / 1e12:7.3f} TFLOP/s")


def words(text: str, allowed: tuple[str, ...], flag: str) -> list[str]:
    """The words of a comma-separated flag; none for "none"."""
    found = [] if text == "none" else text.split(",")
    for word in found:
        if word not in allowed:
            raise ValueError(f"{flag}={text}: {word!r} is none of {', '.join(allowed)}")
    return found


def main(arguments: list[str]) -> None:
    """Prints the table, a line as soon as it is measured."""
    parser = cli.parser("python tools/bench/train_step.py", __doc__,
                        "python tools/bench/train_step.py --sizes=s --dtypes=float32")
    parser.add_argument("--sizes", default="s,b", help="of s,b,l,g")
    parser.add_argument("--modes", default="frozen,trainable")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="of matmuls and convolutions")
    parser.add_argument("--torch", default="eager,compile", help="of eager,compile, or none")
    parser.add_argument("--batch", type=int, default=2, help="labelled photos of a step")
    parser.add_argument("--crop", type=int, default=518, help="pixels, a multiple of 14")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", default="", help="file for all numbers")
    parser.add_argument("--job", default="", help="measure this one, as JSON, in this process")
    flags = parser.parse_args(arguments)
    if flags.job:
        print(json.dumps(measure(json.loads(flags.job))))
        return
    libraries = ["ours", *words(flags.torch, TORCH, "--torch")]
    print(f"{os.cpu_count()} cores, 2 x {flags.batch} photos of {flags.crop} x {flags.crop} pixels "
          "a step; images/s, CPU time of a step, compile, memory, model TFLOP/s")
    results = []
    for size in words(flags.sizes, tuple(NAMES), "--sizes"):
        for mode in words(flags.modes, MODES, "--modes"):
            flops = step_flops(size, flags.crop, flags.batch, mode == "frozen")
            for dtype in words(flags.dtypes, DTYPES, "--dtypes"):
                for library in libraries:
                    job = {"library": library, "size": size, "mode": mode, "dtype": dtype,
                           "batch": flags.batch, "crop": flags.crop, "repeats": flags.repeats}
                    results.append(run_job(job) | {"step_flops": flops})
                    print(line(results[-1], flops), flush=True)
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main)
