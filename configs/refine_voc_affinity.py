"""AffinityNet (PSA) on VOC 2012: class maps spread over the pixels that belong together.

    python -m wsssjax.refine --method=confidences --cams=CAMS --images=JPEGImages --out=SURE
    python -m wsssjax.train --config=configs/refine_voc_affinity.py:resnet38 --workdir=RUN \\
        --config.data.images=JPEGImages --config.data.confidences=SURE \\
        --config.model.encoder_weights=resnet38.safetensors
    python -m wsssjax.refine --method=affinity --cams=CAMS --images=JPEGImages --out=LABELS \\
        --config=configs/refine_voc_affinity.py:resnet38 --weights=RUN

CAMS is what `python -m wsssjax.cam --save=cams` writes, SURE the dense CRF's probabilities at a low
and a high power of the background. Published with ResNet-38 (mIoU of the labels on VOC train / val,
without a CRF behind the walk): class maps alone 47.7 / 47.2; after the walk 61.0 / 60.2 with powers
4, 16, 32 (low, walk, high: the defaults here), 58.1 / 57.0 with 4, 16, 24, the paper's.

Weights for ResNet-38. tools/convert_weights.py reads PSA's .pth: --arch=resnet38 its classifier, to
start from, --arch=affinity_resnet38 the whole trained network, for the last command. Those of
ImageNet are an MXNet file; of its `arrays` by name make, with wsssjax.models.resnet38 and
wsssjax.core.weights:

    flat = resnet38.from_torch(resnet38.from_mxnet(arrays))
    weights.save("resnet38.safetensors", weights.under("backbone", flat))

Pitfalls. The rate of 0.1 in the published README is for VGG-16; ResNet-38 wants 0.01. The published
code has next to no momentum (below). Start from ImageNet weights or from the classifier. The
published walk leaves the borders of a photo with few neighbours: `infer.border`. The powers suit
class maps that are low but for their peaks; broad maps want lower ones. Photos of many sizes
compile many programs: `infer.multiple`.

Arguments: `resnet38` (default), as published, or `efficientnet_lite0`, ours, for which nothing is
published: taps at strides 8, 16 and 16 are joined at stride 8. Its class maps are fat, so make SURE
with --low_alpha=1 --high_alpha=8: (1 - max)^2 is where labels of them are best. It learns in
hundreds of steps (--config.total_steps=400 --config.data.crop=224): loss 0.38, where plain SGD at
0.01 stays at 0.65 and chance is 0.69; mIoU 42.2 against 37.1 of the class maps.
"""

import ml_collections


def get_config(arg=""):
    """Config of one training and of the walk that follows; as many lines as it has settings."""
    if arg not in ("", "resnet38", "efficientnet_lite0"):
        raise ValueError(f"config argument {arg!r}: want 'resnet38' or 'efficientnet_lite0'")
    light = arg == "efficientnet_lite0"
    c = ml_collections.ConfigDict()
    c.method = "affinity"
    c.seed = 0
    c.dtype = "float32"  # of matmuls and convolutions: float32 or bfloat16
    c.parallel = "pmap"  # or shard_map
    c.device_batch = 8  # photos per device and step; published: 8 in all
    c.total_steps = 10_576  # 8 epochs of 10,582 photos at 8 a step, incomplete batches dropped
    c.log_steps = 50
    c.save_steps = 1_000
    c.tensorboard = False  # also write event files for TensorBoard

    c.data = ml_collections.ConfigDict()
    c.data.images = ""  # folder or list of photos; must be given
    c.data.confidences = ""  # folder that write_confidences filled; must be given
    c.data.ids = ""  # list file of the photos to learn from; "" for all that have confidences
    c.data.crop = 448  # pixels, a multiple of 8; smaller photos land at random on a black canvas
    c.data.flip = 0.5  # probability
    c.data.jitter = (0.3, 0.3, 0.3, 0.1)  # brightness, contrast, saturation, hue
    # Of RGB in 0..1, as the encoder was pretrained with.
    c.data.mean = (127 / 255,) * 3 if light else (0.485, 0.456, 0.406)
    c.data.std = (128 / 255,) * 3 if light else (0.229, 0.224, 0.225)
    c.data.workers = 2  # loader processes; 0 loads in the training process

    c.model = ml_collections.ConfigDict()
    c.model.encoder = "efficientnet_lite0" if light else "resnet38"
    c.model.encoder_weights = ""  # file or folder of weights, see above; "" starts random
    c.model.output_stride = 16 if light else 8  # pixels per feature of the last map; resnet38: 8
    c.model.dtype = c.get_ref("dtype")

    c.optim = ml_collections.ConfigDict()
    c.optim.name = "adamw" if light else "sgd"  # adamw: ours
    c.optim.lr = 1e-3 if light else 0.01
    # The published code hands SGD its weight decay where momentum belongs, so the 0.9 it names is
    # never used. Reproduced here; with 0.9 divide the rate by ten.
    c.optim.momentum = 5e-4
    c.optim.weight_decay = 1e-4 if light else 5e-4
    c.optim.b1, c.optim.b2, c.optim.eps = 0.9, 0.999, 1e-8  # adamw only
    c.optim.poly_power = 0.9  # lr (1 - step / total_steps) ** power
    c.optim.lag_steps = 0  # 1: each step runs on the rate of the step before
    # Pattern of parameter names, lr factor, decay factor; the first match counts. The published
    # double rate of pretrained biases finds none: there are no biases, and norms are frozen.
    c.optim.groups = ((r"^backbone/(conv1a|b2(_\d)?)/", 0.0, 0.0), ("^head/", 10.0, 1.0),
                      (".*", 1.0, 1.0))
    if light:  # ours: the new layers learn, the last blocks a little
        c.optim.groups = ((r"/bn\d/", 0.0, 0.0), ("^head/", 1.0, 1.0),
                          ("^backbone/(blocks_1[1-5]|conv_head)", 0.1, 1.0), (".*", 0.0, 0.0))

    c.infer = ml_collections.ConfigDict()
    # Power of the background's score; 5: ours, the best on a fifth of the training photos' masks.
    c.infer.alpha = 5.0 if light else 16.0
    c.infer.beta = 8.0  # power of the affinities
    c.infer.steps = 256  # of the walk: 2 ** 8
    c.infer.border = "inside"  # all pairs within the photo; psa: few at its borders, as published
    # Pixels; photos are padded to multiples. 8: as published; 64: few programs.
    c.infer.multiple = 64 if light else 8
    return c
