"""Command: saliency maps of photos, by a network in an ONNX file.

u2net, u2netp, silueta   320 x 320 pixels
isnet, birefnet          1024 x 1024 pixels

Another network needs --recipe, a JSON object:
  {"side": 320, "resample": "lanczos", "scale": "max", "mean": [0.485, 0.456, 0.406],
   "std": [0.229, 0.224, 0.225], "output": 0, "finish": "minmax"}
side      pixels of the square that photos are squashed to
resample  bilinear, bicubic or lanczos
scale     pixels are divided by 255, or by the photo's largest value (max); then mean and std
output    which of the network's outputs, from 0
finish    how values become 0..1: minmax (within a photo) or sigmoid

Needs pip install 'wsssjax[saliency]'; `python -m wsssjax.cam.saliency` needs neither that nor
weights. EPS takes the folder as --config.data.saliency, or as `saliency/` of the data set.
"""

from __future__ import annotations

import time

from wsssjax.cam import saliency_onnx
from wsssjax.core import cli, files
from wsssjax.core.config import choose


def parser():
    """The command's flags."""
    p = cli.parser("python tools/make_saliency.py", __doc__,
                   "python tools/make_saliency.py --model=u2netp --weights=u2netp.onnx "
                   "--images=JPEGImages --out=saliency")
    add = p.add_argument
    add("--model", metavar="NAME", help=f"of {', '.join(saliency_onnx.RECIPES)}")
    add("--recipe", metavar="JSON", help="in place of --model: file or text, see above")
    add("--weights", required=True, metavar="F", help="ONNX file of the network")
    add("--images", required=True, metavar="I", help="folder of photos, or a list file")
    add("--out", required=True, metavar="O", help="folder for <id>.png, 0..255, as large as the "
        "photos; what is there already and was made in the same way is kept")
    add("--batch", type=int, metavar="N", help="photos in one call (default: what the network was "
        "made for, or 1); more pays on a GPU alone")
    add("--threads", type=int, metavar="N", help="calls beside each other (default: one a core)")
    add("--provider", default=saliency_onnx.CPU, metavar="P", help="of onnxruntime, "
        "CUDAExecutionProvider for instance (default: CPUExecutionProvider)")
    add("--json", metavar="PATH", help="write counts and seconds here")
    return p


def main(arguments: list[str]) -> None:
    """Runs the command."""
    flags = parser().parse_args(arguments)
    if bool(flags.model) == bool(flags.recipe):
        raise ValueError("--model: want it or --recipe, one of the two; models are "
                         + ", ".join(saliency_onnx.RECIPES))
    recipe = (choose(saliency_onnx.RECIPES, flags.model, "--model") if flags.model
              else saliency_onnx.read_recipe(flags.recipe))
    start = time.monotonic()
    written, kept = saliency_onnx.saliency_folder(
        flags.images, flags.out, flags.weights, recipe, batch=flags.batch, workers=flags.threads,
        provider=flags.provider)
    seconds = time.monotonic() - start
    if flags.json:
        files.write_json(flags.json, {"written": written, "already_there": kept,
                                      "seconds": round(seconds, 3)})
    print(f"{written + kept} saliency maps in {flags.out}, {kept} of them already there "
          f"({seconds:.1f} s)")


if __name__ == "__main__":
    cli.run(main)
