"""The main job: `python -m wsssjax.train --config=…` trains one model, or runs a whole recipe."""

from __future__ import annotations

import pathlib
import time

import jax

from wsssjax.cam import bao, cam, clip, dino, eps, transcam
from wsssjax.core import checkpoint, cli, files, parallel, record
from wsssjax.core import config as configs
from wsssjax.core.progress import Progress
from wsssjax.refine import affinity, difference
from wsssjax.semi import fixmatch, mars, probe, ssdd, supervised, unimatch, unimatch_v2

METHODS = {
    "affinity": affinity.build,
    "bao": bao.build,
    "cam": cam.build,
    "clip": clip.build,
    "dino": dino.build,
    "eps": eps.build,
    "fixmatch": fixmatch.build,
    "mars": mars.build,
    "probe": probe.build,
    "probe_supervised": probe.build_supervised,
    "ssdd": ssdd.build,
    "ssdd_static": difference.build,
    "supervised": supervised.build,
    "transcam": transcam.build,
    "unimatch": unimatch.build,
    "unimatch_v2": unimatch_v2.build,
}
EXAMPLE = "python -m wsssjax.train --config=configs/quickstart.py:tiny --workdir=runs/tiny"


def train(config, workdir) -> None:
    """Trains what `config` describes and leaves the weights of the last step in `workdir`.

    Leaves `weights.safetensors` (student), `weights_ema.safetensors` (teacher, where the method
    has one), `metrics.jsonl` and `checkpoints/`; with a validation list also `scores.json`,
    `weights_best.safetensors` and `weights_ema_best.safetensors`. Called again, it goes on from the
    last checkpoint and gives the same bits as without the stop.
    """
    # Config and seed.
    check_steps(config)
    workdir = pathlib.Path(workdir)
    key = jax.random.key(config.seed)
    method = configs.choose(METHODS, config.method, "config.method")(config)

    # Data.
    loader = method.loader()

    # Init.
    init_key, step_key = jax.random.split(key)
    state = method.init(init_key)

    # Restore.
    found = checkpoint.restore(workdir / "checkpoints", state)
    if found:
        state, position = found
        loader.set_state(position)
    first = int(state.step)
    _check_resumable(workdir, method, first)
    _say_what_follows(config, method, state)
    state = parallel.replicate(state, backend=config.parallel)

    # Compile, on the first step; timed apart.
    step_fn = parallel.compile_step(method.step, backend=config.parallel)
    notes = record.Record(workdir, first, tensorboard=config.tensorboard,
                          scored=method.validate is not None)
    clock = time.monotonic()
    with Progress(method.total_steps, config.method, done=first, unit="steps") as progress:
        for step in range(first + 1, method.total_steps + 1):
            batch = next(loader)
            batch.pop("name", None)
            state, metrics = step_fn(state, batch, step_key)
            notes.add(metrics)
            progress.advance()

            last = step == method.total_steps
            if step == first + 1:
                _write_hardware(workdir, config, method, state, time.monotonic() - clock)
            if last or step % config.log_steps == 0:
                notes.write(step)
            if method.validate and (last or step % method.eval_steps == 0):
                notes.check(step)
                epoch = step / method.eval_steps * config.eval_epochs
                notes.score(step, epoch, method.validate(state), state)
            # Log, then save: a restart drops the lines after the checkpoint it starts from.
            if last or step % config.save_steps == 0:
                checkpoint.save(workdir / "checkpoints", state, loader.get_state())
    loader.close()

    # Export.
    notes.finish(state)


def _say_what_follows(config, method, state) -> None:
    """Prints what results depend on and what the state weighs."""
    if "accumulate" not in config or parallel.process()[0]:
        return
    devices, groups = parallel.device_count() * parallel.process()[1], config.accumulate
    rows = devices * groups * config.device_batch
    parts = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in state.size().items() if size)
    layout = f"devices {devices} x groups {groups} x batch {config.device_batch}"
    total = sum(state.size().values()) / 1e9
    print(f"{config.method}: {method.total_steps:,} steps of {rows} photos of each list "
          f"({layout}); state {parts}, in all {total:.3f} GB", flush=True)


def check_steps(config) -> None:
    """Refuses a save between two logs: a restart from it would average over other steps."""
    if config.log_steps < 1 or config.save_steps < 1 or config.save_steps % config.log_steps:
        raise ValueError(f"config.save_steps={config.save_steps}: want a multiple of "
                         f"config.log_steps={config.log_steps}, both 1 or more")


def _write_hardware(workdir: pathlib.Path, config, method, state, first_step_s: float) -> None:
    """What results depend on beside the config, and what compiling cost."""
    if parallel.process()[0]:
        return
    files.write_json(workdir / "hardware.json", {
        "devices": parallel.device_count(), "hosts": parallel.process()[1],
        "device_batch": config.device_batch, "total_steps": method.total_steps,
        "platform": jax.default_backend(), "first_step_s": round(first_step_s, 2),
        "state_bytes": state.size()})


def _check_same_run(config, workdir: pathlib.Path) -> None:
    """Refuses to go on from a checkpoint that another config made; else writes this one down."""
    path = workdir / "config.json"
    resolved = configs.to_dict(config)
    if path.is_file() and checkpoint.steps(workdir / "checkpoints"):
        changed = configs.differences(files.read_json(path), resolved)
        if changed:
            raise ValueError(f"{path}: this folder holds a run with another config "
                             f"({changed[0]}); use another --workdir, or remove it")
    files.write_json(path, resolved)


def _check_resumable(workdir: pathlib.Path, method, first: int) -> None:
    """Refuses hosts that do not see one checkpoint, and a training whose length would change."""
    parallel.check_equal(first, f"step of the newest checkpoint in {workdir}")
    path = workdir / "hardware.json"
    then = files.read_json(path).get("total_steps") if first and path.is_file() else None
    if then not in (None, method.total_steps):
        raise ValueError(f"{path}: this run has {then} steps; it would have {method.total_steps} "
                         "on these devices; keep devices x config.accumulate as they were")


def main(arguments: list[str]) -> None:
    parser = cli.parser("python -m wsssjax.train", __doc__, EXAMPLE)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="what to train")
    parser.add_argument("--workdir", default="", help="run folder (default: runs/<config name>)")
    parser.add_argument("--redo", default="", metavar="STEP,…",
                        help="recipe steps to make again, with all that follow from them")
    plain, overrides = cli.split_overrides(arguments)
    flags = parser.parse_args(plain)
    config = configs.load(flags.config, overrides)
    name = flags.config.replace(":", "_")
    workdir = pathlib.Path(flags.workdir or pathlib.Path("runs") / pathlib.Path(name).stem)
    parallel.start()
    if "arms" in config:  # a recipe; imported here, since it calls this file
        from wsssjax.steps import check, order

        if config.check:
            check.run(config)
            return
        order.run_recipe(config, workdir, redo=tuple(s for s in flags.redo.split(",") if s))
        return
    if flags.redo:
        raise ValueError(f"--redo={flags.redo}: {flags.config} is one training, not a recipe; "
                         "remove its workdir instead")
    workdir.mkdir(parents=True, exist_ok=True)
    writes = parallel.process()[0] == 0
    if writes:
        files.sweep(workdir)
        _check_same_run(config, workdir)
    train(config, workdir)
    if writes:
        print(f"weights: {workdir / 'weights.safetensors'}")


if __name__ == "__main__":
    cli.run(main)
