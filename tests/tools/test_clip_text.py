"""Text features against transformers on a vocabulary of a few pairs, and bad files in one line."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import jax
import ml_collections
import numpy as np
import pytest
import safetensors.numpy

from wsssjax.cam import text_features
from wsssjax.core import weights
from wsssjax.models import clip, registry

tokenizers = pytest.importorskip("tokenizers")
ROOT = pathlib.Path(__file__).parents[2]
PAIRS = ("f o", "o x</w>", "fo x</w>", "o w", "ow l</w>", "a n</w>", "c l", "cl e", "e l",
         "el k</w>", "cle an</w>", "o r", "or i", "l e", "i g", "ig a", "t h</w>", "w i",
         "wi th</w>")
TEXTS = ("a clean origami fox.", "a  Clean\torigami OWL's!?", "12 owls, 3 foxes; it's \u00e9lk",
         "person with clothes,people,human", "")


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tool():
    return load("clip_text")


def characters():
    """GPT-2's letters for the 256 bytes, as its published table has them."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    return [chr(b) for b in shown] + [chr(256 + i) for i in range(len(hidden))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """vocab.json and merges.txt in CLIP's order: bytes, bytes that end words, pairs, marks."""
    out = tmp_path_factory.mktemp("tokenizer")
    letters = characters()
    entries = [*letters, *(c + "</w>" for c in letters), *(p.replace(" ", "") for p in PAIRS),
               "<|startoftext|>", "<|endoftext|>"]
    assert len(set(entries)) == len(entries)
    (out / "vocab.json").write_text(json.dumps({e: i for i, e in enumerate(entries)}))
    (out / "merges.txt").write_text("#version: 0.2\n" + "\n".join(PAIRS) + "\n")
    return out


@pytest.fixture(scope="module")
def model(folder, tmp_path_factory):
    """(transformers' model of random weights, its file)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    vocabulary = len(json.loads((folder / "vocab.json").read_text()))
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "vocab_size": vocabulary,
                     "max_position_embeddings": 40, "eos_token_id": vocabulary - 1,
                     "bos_token_id": vocabulary - 2},
        vision_config={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 4,
                       "num_attention_heads": 1, "image_size": 32, "patch_size": 16},
        projection_dim=24)
    torch.manual_seed(0)
    found = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.05 * torch.randn_like(p))
    path = tmp_path_factory.mktemp("clip") / "model.safetensors"
    safetensors.numpy.save_file({n: x.numpy() for n, x in found.state_dict().items()}, path)
    return found, path


def theirs(folder):
    transformers = pytest.importorskip("transformers")
    return transformers.CLIPTokenizer.from_pretrained(str(folder))


def test_tokens_match_transformers(tool, folder, tmp_path):
    """From the two files, and from the one that transformers writes."""
    reference = theirs(folder)
    reference.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").is_file()
    for place in (folder, tmp_path):
        encode = tool.read_tokenizer(str(place))
        for text in TEXTS:
            assert encode(text) == reference(text)["input_ids"], text
    fox = json.loads((folder / "vocab.json").read_text())["fox</w>"]
    assert fox in encode("a clean origami fox.")


def test_features_match_transformers(tool, folder, model):
    """Two prompts: unit vectors, their mean, a unit vector again."""
    import torch
    reference, path = model
    names, prompts = ("fox", "bird", "sky"), ("a clean origami {}.", "one {} with {an owl")
    got = tool.features(str(path), str(folder), names, prompts=prompts)
    assert got.classes == names and got.words == ("fox", "bird avian", "sky")
    assert len(got.backgrounds) == 24 and "sky" not in got.backgrounds
    assert got.scale == pytest.approx(reference.logit_scale.exp().item())
    tokenize = theirs(folder)
    for row, word in zip(got.features_te, (*got.words, *got.backgrounds), strict=True):
        parts = []
        for prompt in prompts:
            ids = torch.tensor([tokenize(prompt.replace("{}", word))["input_ids"]])
            with torch.no_grad():
                v = reference.text_projection(reference.text_model(ids).pooler_output)[0]
            parts.append(v / v.norm())
        want = torch.stack(parts).mean(0)
        np.testing.assert_allclose(row, (want / want.norm()).numpy(), atol=2e-6, err_msg=word)


def test_image_tower_converts_from_the_same_file(model, tmp_path, monkeypatch):
    """convert_weights takes the image tower and names what it passed over; a training that starts
    from it may also read the public file itself."""
    monkeypatch.setitem(clip.SIZES, "b16", clip.Size(64, 4, 16, 2, 24))
    converter, public = load("convert_weights"), safetensors.numpy.load_file(model[1])
    report = converter.convert("clip_vit_b16", str(model[1]), str(tmp_path))
    assert report["skipped"] == sorted(
        n for n in public if n.startswith(("text_", "logit_scale")))
    found = weights.load(tmp_path)
    assert all(name.startswith("params/backbone/") for name in found)
    np.testing.assert_array_equal(found["params/backbone/proj"],
                                  public["visual_projection.weight"].T)
    config = ml_collections.ConfigDict({
        "encoder": "clip_vit_b16", "dtype": "float32", "clip": {"positions": "bilinear"}})
    tower = registry.build_encoder(config)
    shapes = jax.eval_shape(lambda: tower.init(jax.random.key(0), np.zeros((1, 32, 32, 3)),
                                               train=False))
    empty = {"params": {"backbone": jax.tree.map(lambda s: np.zeros(s.shape, s.dtype),
                                                 shapes["params"])}}
    for source in (tmp_path, model[1]):
        config.encoder_weights = str(source)
        got = weights.flatten(registry.load_encoder(empty, config))
        assert got.keys() == found.keys()
        for name, x in found.items():
            np.testing.assert_array_equal(got[name], x, err_msg=name)


def test_defaults_are_the_published_ones(tool):
    assert tool.PROMPT == "a clean origami {}." and len(tool.BACKGROUNDS) == 25
    assert len(set(tool.BACKGROUNDS)) == 25 and len(tool.WORDS) == 4


def call(*flags):
    return subprocess.run([sys.executable, "tools/clip_text.py", *map(str, flags)], cwd=ROOT,
                          capture_output=True, text=True)


def test_command(folder, model, tmp_path):
    (tmp_path / "classes.txt").write_text("background\nfox\nred owl\n")
    (tmp_path / "words.txt").write_text("red owl = owl with an elk\n")
    (tmp_path / "scenery.txt").write_text("sky\n\nfox\n")
    flags = (f"--weights={model[1]}", f"--tokenizer={folder}",
             f"--classes={tmp_path}/classes.txt", f"--words={tmp_path}/words.txt",
             f"--backgrounds={tmp_path}/scenery.txt", f"--out={tmp_path}/text.safetensors")
    out = call(*flags)
    assert out.returncode == 0, out.stderr
    assert "2 classes, 1 backgrounds, vectors of 24 numbers" in out.stdout
    text = text_features.read(tmp_path / "text.safetensors", ("fox", "red owl"), 24)
    assert text.words == ("fox", "owl with an elk") and text.backgrounds == ("sky",)
    assert text.prompts == ("a clean origami {}.",)
    shown = call("--help")
    assert shown.returncode == 0 and "python tools/clip_text.py --weights" in shown.stdout
    (tmp_path / "words.txt").write_text("owl = bird\n")
    bad = call(*flags)
    assert bad.returncode == 1 and bad.stderr.count("\n") == 1
    assert "words.txt, line 1: unknown class 'owl'; did you mean red owl?" in bad.stderr


def test_bad_input_is_named(tool, folder, model, tmp_path):
    def refused(message, source=None, tokenizer=None, names=("fox",), **more):
        with pytest.raises(ValueError) as error:
            tool.features(str(source or model[1]), str(tokenizer or folder), names, **more)
        assert message in str(error.value) and "\n" not in str(error.value)

    refused("--prompt='a fox': want one {} in the place", prompts=("a fox",))
    refused("the text tower takes 40; say it in fewer words", names=("zz" * 30,))
    whole = safetensors.numpy.load_file(model[1])
    path = tmp_path / "model.safetensors"
    for name, message in (
            ("logit_scale", "missing logit_scale"),
            ("text_model.embeddings.token_embedding.weight", "missing token_embedding"),
            ("text_model.final_layer_norm.bias",
             "weights do not fit the network: missing 1 name: params/ln_final/bias")):
        safetensors.numpy.save_file({n: x for n, x in whole.items() if n != name}, path)
        refused(f"{path}, as the text tower of a CLIP: {message}", path)
    small = "text_model.embeddings.token_embedding.weight"
    safetensors.numpy.save_file(whole | {small: whole[small][:50]}, path)
    refused("the text tower knows 50; take both from one CLIP", path)
    path.write_bytes(model[1].read_bytes()[:-9])
    refused(f"{path}: damaged", path)
    refused(f"{tmp_path}: holds no tokenizer; want tokenizer.json", tokenizer=tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "model')
    refused(f"{tmp_path}: damaged tokenizer (", tokenizer=tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text('{"a": 0, "<|endoftext|>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    refused(f"{tmp_path}: a tokenizer without <|startoftext|>", tokenizer=tmp_path)
