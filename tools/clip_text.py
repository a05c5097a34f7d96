"""Command: class names → text features of CLIP, which configs/cam_voc_clip.py compares photos with.

    python tools/clip_text.py --weights=clip/model.safetensors --tokenizer=clip --classes=voc \\
        --out=clip_voc.safetensors

--weights: a public CLIP vision transformer, both towers in one file, by Hugging Face's or OpenAI's
names: .safetensors, .npz, or .bin and .pth (needs torch). OpenAI's own ViT-B-16.pt is a program and
is not read; openai/clip-vit-base-patch16 on Hugging Face has the same weights, and the tokenizer.
--tokenizer: a folder with tokenizer.json, or with vocab.json and merges.txt; needs
pip install 'wsssjax[clip]'.

As CLIP-ES (CVPR 2023) has it, a class is the mean over the prompts of its unit vectors, brought to
length 1 again; there is one prompt, and four names of VOC are said in richer words (WORDS; other
words by --words). A background word that is itself a class is left out.
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from wsssjax.bridge import torch_weights
from wsssjax.cam import text_features
from wsssjax.core import cli, weights
from wsssjax.data import classes
from wsssjax.models import clip, clip_names

PROMPT = "a clean origami {}."
WORDS = {"bird": "bird avian", "chair": "chair seat", "person": "person with clothes,people,human",
         "tvmonitor": "tvmonitor screen"}
BACKGROUNDS = (
    "ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea",
    "railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road",
    "rock", "street", "valley", "bridge", "sign")
START, END = "<|startoftext|>", "<|endoftext|>"
TORCH_SUFFIXES = (".pth", ".pt", ".bin")
# What CLIP calls a word: a shortened verb, letters, one digit, or any other marks.
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def main(arguments: list[str]) -> None:
    """Nothing; writes the file of --out."""
    parser = cli.parser(
        "python tools/clip_text.py", __doc__,
        "python tools/clip_text.py --weights=clip/model.safetensors --tokenizer=clip \\\n"
        "    --classes=voc --out=clip_voc.safetensors")
    parser.add_argument("--weights", required=True, help="a public CLIP, both towers in one file")
    parser.add_argument("--tokenizer", required=True, metavar="FOLDER",
                        help="holds tokenizer.json, or vocab.json and merges.txt")
    parser.add_argument("--classes", default="voc", help="voc (default), coco or a file")
    parser.add_argument("--prompt", action="append", metavar="P", help=f"text with {{}} in the "
                        f"place of the name; may be given more than once (default: {PROMPT!r})")
    parser.add_argument("--words", metavar="FILE",
                        help="lines `class=words`, what to say for a class")
    parser.add_argument("--backgrounds", metavar="FILE",
                        help="one word a line (default: the 25 of CLIP-ES)")
    parser.add_argument("--out", required=True, help="the file to write (.safetensors)")
    flags = parser.parse_args(arguments)
    names = classes.need_background(classes.read_class_names(flags.classes), "--classes")[1:]
    text = features(flags.weights, flags.tokenizer, names, prompts=flags.prompt or [PROMPT],
                    words=read_words(flags.words, names) if flags.words else WORDS,
                    backgrounds=_lines(flags.backgrounds) if flags.backgrounds else BACKGROUNDS)
    text_features.write(flags.out, text)
    print(f"{flags.out}: {len(text.classes)} classes, {len(text.backgrounds)} backgrounds, vectors "
          f"of {text.features_te.shape[1]} numbers")


def features(source: str, tokenizer: str, names: Sequence[str], *,
             prompts: Sequence[str] = (PROMPT,), words: dict[str, str] = WORDS,
             backgrounds: Sequence[str] = BACKGROUNDS) -> text_features.TextFeatures:
    """Text features of classes and backgrounds.

    source: file of CLIP's weights.  tokenizer: folder.  names: classes without the background.
    words: what to say for a class in the place of its name.
    """
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise ValueError(f"--prompt={prompt!r}: want one {{}} in the place of the name")
    tower, variables, scale = read_tower(source)
    encode = read_tokenizer(tokenizer)
    said = [words.get(name, name) for name in names]
    scenery = [word for word in backgrounds if word not in (*names, *said)]
    texts = [prompt.replace("{}", word) for word in (*said, *scenery) for prompt in prompts]
    rows_ne = embed(tower, variables, [encode(text) for text in texts], texts)
    rows_ne = rows_ne.reshape(len(said) + len(scenery), len(prompts), -1)
    rows_te = _unit(_unit(rows_ne).mean(1)).astype(np.float32)
    return text_features.TextFeatures(rows_te, scale, tuple(names), tuple(said), tuple(scenery),
                                      tuple(prompts))


def read_tower(source: str):
    """(text tower, its variables, scale of the logits) from a public file; sizes are its own."""
    suffix = pathlib.Path(source).suffix
    tensors = torch_weights.read(source) if suffix in TORCH_SUFFIXES else weights.load(source)
    try:
        flat = clip_names.text_tower(tensors)
        size = clip_names.text_size(flat)
        if "logit_scale" not in tensors:
            raise ValueError("missing logit_scale")
        tower = clip.TextTower(size)
        shapes = jax.eval_shape(lambda: tower.init(
            jax.random.key(0), np.zeros((1, 2), np.int32), np.ones(1, np.int32)))
        variables = weights.restore(shapes, flat)
    except ValueError as error:
        raise ValueError(f"{source}, as the text tower of a CLIP: {error}") from None
    return tower, variables, float(np.exp(np.float64(tensors["logit_scale"])))


def read_tokenizer(folder: str):
    """text → numbers, marks of start and end included, of the tokenizer in a folder."""
    try:
        import tokenizers
    except ImportError:
        raise ValueError(f"{folder}: reading it needs tokenizers; pip install 'wsssjax[clip]'"
                         ) from None
    folder = pathlib.Path(folder)
    whole, parts = folder / "tokenizer.json", [folder / "vocab.json", folder / "merges.txt"]
    if not whole.is_file() and not all(part.is_file() for part in parts):
        raise ValueError(f"{folder}: holds no tokenizer; want tokenizer.json, or vocab.json and "
                         "merges.txt")
    try:
        found = (tokenizers.Tokenizer.from_file(str(whole)) if whole.is_file()
                 else _from_parts(tokenizers, *map(str, parts)))
    except Exception as error:  # the library raises plain Exceptions for every kind of bad file
        raise ValueError(f"{folder}: damaged tokenizer ({error}); copy it again") from None
    start, end = found.token_to_id(START), found.token_to_id(END)
    if start is None or end is None:
        raise ValueError(f"{folder}: a tokenizer without {START} and {END}; want CLIP's")

    def encode(text: str) -> list[int]:
        return [start, *found.encode(text, add_special_tokens=False).ids, end]

    found.no_padding()
    found.no_truncation()
    return encode


def _from_parts(tokenizers, vocabulary: str, merges: str):
    """CLIP's byte-pair encoding: small letters, spaces made one, words ending in </w>."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(
        vocabulary, merges, end_of_word_suffix="</w>", unk_token=END))
    normal, before = tokenizers.normalizers, tokenizers.pre_tokenizers
    found.normalizer = normal.Sequence([
        normal.NFC(), normal.Replace(tokenizers.Regex(r"\s+"), " "), normal.Lowercase()])
    found.pre_tokenizer = before.Sequence([
        before.Split(tokenizers.Regex(PATTERN), "removed", invert=True),
        before.ByteLevel(add_prefix_space=False, use_regex=False)])
    return found


def embed(tower: clip.TextTower, variables, tokens: Sequence[Sequence[int]],
          texts: Sequence[str]) -> np.ndarray:
    """float32 [n, e], not normalised. tokens: numbers of each text, for whose words errors name."""
    _, _, vocabulary, context, _ = tower.size
    for row, text in zip(tokens, texts, strict=True):
        if len(row) > context:
            raise ValueError(f"{text!r}: {len(row)} tokens; the text tower takes {context}; "
                             "say it in fewer words")
        if max(row) >= vocabulary:
            raise ValueError(f"{text!r}: token {max(row)} of the tokenizer; the text tower knows "
                             f"{vocabulary}; take both from one CLIP")
    ends_n = np.array([len(row) - 1 for row in tokens], np.int32)
    # What fills a row up stands behind its end mark, where nothing looks.
    rows = np.zeros((len(tokens), ends_n.max() + 1), np.int32)
    for filled, row in zip(rows, tokens, strict=True):
        filled[: len(row)] = row
    return np.asarray(jax.jit(tower.apply)(variables, rows, ends_n))


def read_words(path: str, names: Sequence[str]) -> dict[str, str]:
    """{class: what to say} from lines `class=words`."""
    found = {}
    for number, line in enumerate(_lines(path), 1):
        name, equals, said = (part.strip() for part in line.partition("="))
        if not equals or not said:
            raise ValueError(f"{path}, line {number}: {line!r}; want `class=words`")
        if name not in names:
            raise ValueError(f"{path}, line {number}: {classes.unknown_class(name, ('', *names))}")
        found[name] = said
    return found


def _lines(path: str) -> list[str]:
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file") from None
    return [line.strip() for line in lines if line.strip()]


def _unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


if __name__ == "__main__":
    cli.run(main)
