"""CLIP-ES on VOC 2012: class maps without any training, from a network that knows words.

Two files of openai/clip-vit-base-patch16 on Hugging Face are wanted, model.safetensors and
tokenizer.json, here in the folder `clip`:

    pip install -e '.[clip]'
    python tools/convert_weights.py --arch=clip_vit_b16 --src=clip/model.safetensors --out=clip_b16
    python tools/clip_text.py --weights=clip/model.safetensors --tokenizer=clip --classes=voc \\
        --out=clip_voc.safetensors
    python -m wsssjax.cam --config=configs/cam_voc_clip.py --weights=clip_b16 \\
        --config.model.text=clip_voc.safetensors --images=JPEGImages --tags=tags.csv --out=clip_cams
    python -m wsssjax.refine --method=crf --cams=clip_cams --images=JPEGImages --preset=deeplab \\
        --alpha=1 --min_confidence=0.95 --out=clip_labels

Published (mIoU on VOC train): 70.8 of the maps, 75.0 with the CRF, whose background is 1 - max.
CLIP has learnt from 400 million photos with captions: that supervision is to be named beside tags.
For other classes: --classes=FILE to both commands, and in --words what to say for each of them.
Argument: none.
"""

import ml_collections


def get_config(arg=""):
    """Config of the method; as many lines as it has settings."""
    if arg:
        raise ValueError(f"config argument {arg!r}: this config takes none")
    c = ml_collections.ConfigDict()
    c.method = "clip"
    c.seed = 0  # unused, as the next two: nothing is trained
    c.log_steps = 1
    c.save_steps = 1
    c.dtype = "float32"  # of matmuls: float32 or bfloat16 (published: float16 on a GPU)
    c.classes = "voc"  # voc, coco or a file with one class name a line

    c.data = ml_collections.ConfigDict()
    c.data.mean = (0.48145466, 0.4578275, 0.40821073)  # of RGB in 0..1, as CLIP was trained with
    c.data.std = (0.26862954, 0.26130258, 0.27577711)

    c.model = ml_collections.ConfigDict()
    c.model.encoder = "clip_vit_b16"
    c.model.encoder_weights = ""  # unused: --weights names them
    c.model.text = ""  # file that tools/clip_text.py wrote; must be given
    c.model.dtype = c.get_ref("dtype")
    c.model.clip = ml_collections.ConfigDict()
    c.model.clip.positions = "bilinear"  # resize of the position table; bicubic as Hugging Face

    c.infer = ml_collections.ConfigDict()  # fields not told here are told in wsssjax/cam/infer.py
    c.infer.scales = (1.0,)
    c.infer.flip = False
    # Each size of a photo, up to multiples of 16, compiles a program: VOC has some dozens. grid:
    # photos bend to multiples of infer.grid pixels, and programs are fewer.
    c.infer.canvas = "exact"
    c.infer.grid = 64  # pixels, for canvas = grid
    c.infer.side = 512  # pixels, for canvas = square
    c.infer.multiple = 16  # pixels: a patch
    c.infer.align = 1  # pixels
    c.infer.batch = 1  # photos of one canvas per call
    c.infer.normalise = "none"  # the method's maps end at 0 and 1 by themselves
    c.infer.background = "threshold"
    c.infer.threshold = 0.4  # score of the background in label maps without the CRF, 0..1; ours
    c.infer.gradcam_pool = "patches"  # whose embedding meets the words: patches, their mean; class
    c.infer.attention_blocks = 8  # last blocks whose attention is averaged
    c.infer.attention_rounds = 3  # of making columns and rows sum to 1
    c.infer.attention_squarings = 1  # of the symmetric affinity
    c.infer.box_threshold = 0.4  # share of a map's maximum; boxes go around what is above
    return c
