"""CLIP's towers against `transformers` on random weights, which both public layouts bring."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsssjax.core import weights
from wsssjax.models import clip, clip_names

SMALL = clip.Size(128, 5, 16, 4, 48)
SMALL_TEXT = clip.TextSize(128, 3, 60, 20, 48)


@functools.cache
def reference(size=SMALL, text=SMALL_TEXT):
    """transformers' model with random weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig(
        vision_config={"hidden_size": size.width, "intermediate_size": 4 * size.width,
                       "num_hidden_layers": size.depth, "num_attention_heads": size.width // 64,
                       "image_size": size.grid * size.patch, "patch_size": size.patch},
        text_config={"hidden_size": text.width, "intermediate_size": 4 * text.width,
                     "num_hidden_layers": text.depth, "num_attention_heads": text.width // 64,
                     "vocab_size": text.vocabulary, "max_position_embeddings": text.context,
                     "eos_token_id": text.vocabulary - 1, "bos_token_id": text.vocabulary - 2},
        projection_dim=size.embed)
    config._attn_implementation = "eager"  # the only one that shows its attention
    torch.manual_seed(0)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for p in model.parameters():  # biases and norms too must tell themselves apart
            p.add_(0.05 * torch.randn_like(p))
    return model


def state_dict(model):
    return {name: x.numpy() for name, x in model.state_dict().items()}


def openai(tensors):
    """The same weights by OpenAI's names, written down from the published tree."""
    found = {"logit_scale": tensors["logit_scale"], "context_length": np.array(20)}
    for theirs, ours in (("vision_model", "visual."), ("text_model", "")):
        head = f"{theirs}.encoder.layers."
        for name in tensors:
            if not name.startswith(head) or not name.endswith("q_proj.weight"):
                continue
            row = name.removeprefix(head).split(".")[0]
            old, new = f"{head}{row}.", f"{ours}transformer.resblocks.{row}."
            for kind in ("weight", "bias"):
                found[f"{new}attn.in_proj_{kind}"] = np.concatenate(
                    [tensors[f"{old}self_attn.{part}_proj.{kind}"] for part in "qkv"])
                for a, b in (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"),
                             ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"),
                             ("mlp.fc2", "mlp.c_proj")):
                    found[f"{new}{b}.{kind}"] = tensors[f"{old}{a}.{kind}"]
    seen = "vision_model."
    found |= {
        "visual.class_embedding": tensors[f"{seen}embeddings.class_embedding"],
        "visual.conv1.weight": tensors[f"{seen}embeddings.patch_embedding.weight"],
        "visual.positional_embedding": tensors[f"{seen}embeddings.position_embedding.weight"],
        "visual.proj": tensors["visual_projection.weight"].T,
        "token_embedding.weight": tensors["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": tensors["text_model.embeddings.position_embedding.weight"],
        "text_projection": tensors["text_projection.weight"].T}
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = tensors[f"{seen}pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = tensors[f"{seen}post_layernorm.{kind}"]
        found[f"ln_final.{kind}"] = tensors[f"text_model.final_layer_norm.{kind}"]
    return found


def shapes(network, *, text=False):
    inputs = ((jnp.zeros((1, 2), jnp.int32), jnp.ones(1, jnp.int32)) if text
              else (jnp.zeros((1, 32, 32, 3)),))
    more = {} if text else {"train": False}
    return jax.eval_shape(lambda: network.init(jax.random.key(0), *inputs, **more))


def image(*size, rows=2):
    return np.random.default_rng(1).standard_normal((rows, *size, 3)).astype(np.float32)


def error(got, want):
    return np.abs(np.asarray(got) - want).max() / np.abs(want).max()


def seen_by_transformers(model, x):
    """(embedding, input of the last block, attentions [depth, b, n, n], patches, last block's)."""
    import torch
    with torch.no_grad():
        out = model.vision_model(
            torch.tensor(x).permute(0, 3, 1, 2), output_attentions=True,
            output_hidden_states=True, interpolate_pos_encoding=True)
        attentions = torch.stack([a.mean(1) for a in out.attentions])
        patches = model.vision_model.post_layernorm(out.last_hidden_state)[:, 1:]
        return (model.visual_projection(out.pooler_output).numpy(), out.hidden_states[-2].numpy(),
                attentions.numpy(), patches.numpy(),
                [h.numpy() for h in out.hidden_states])


@pytest.mark.parametrize("side, count", [((64, 64), 1), ((48, 80), 3), ((112, 32), 5)], ids=str)
def test_image_tower_matches_transformers(side, count):
    model = reference()
    network = clip.ImageTower(SMALL, positions="bicubic", attentions=count)
    ours = weights.restore(shapes(network), clip_names.image_tower(state_dict(model)))
    x = image(*side)
    embedding, last, attentions, patches, hidden = seen_by_transformers(model, x)
    got, aux = jax.jit(lambda v, x: network.apply(v, x, train=False))(ours, x)
    errors = {
        "embedding": error(got, embedding), "last input": error(aux["last_input"], last),
        "attention": error(aux["attention"], attentions[-count:].mean(0)),
        "features": error(aux["features"].reshape(patches.shape), patches)}
    print(side, {name: f"{e:.1e}" for name, e in errors.items()})
    assert max(errors.values()) < 1e-5, errors
    import torch
    for tap, block in enumerate((0, 1, 2)):  # a quarter, a half, three quarters of five blocks
        with torch.no_grad():
            want = model.vision_model.post_layernorm(torch.tensor(hidden[block + 1]))[:, 1:]
        assert error(aux[f"tap{tap}"].reshape(want.shape), want.numpy()) < 1e-5, tap


def test_vit_b16_at_an_odd_size_matches_transformers():
    """The published shape, at a grid that is not square."""
    size = clip.SIZES["b16"]
    model = reference(size, SMALL_TEXT._replace(embed=512))
    network = clip.ImageTower(size, positions="bicubic", attentions=8)
    ours = weights.restore(shapes(network), clip_names.image_tower(state_dict(model)))
    x = image(80, 48, rows=1)
    embedding, last, attentions, _, _ = seen_by_transformers(model, x)
    got, aux = jax.jit(lambda v, x: network.apply(v, x, train=False))(ours, x)
    assert aux["features"].shape == (1, 5, 3, 768)
    assert error(got, embedding) < 1e-5 and error(aux["last_input"], last) < 1e-5
    assert error(aux["attention"], attentions[-8:].mean(0)) < 1e-5
    count = sum(x.size for x in jax.tree.leaves(ours))
    assert count == 86_192_640  # of openai/clip-vit-base-patch16: the tower and its projection


def test_text_tower_matches_transformers():
    """Rows of different lengths: what stands behind an end mark counts for nothing."""
    import torch
    model = reference()
    network = clip.TextTower(SMALL_TEXT)
    flat = clip_names.text_tower(state_dict(model))
    assert clip_names.text_size(flat) == SMALL_TEXT
    ours = weights.restore(shapes(network, text=True), flat)
    rows = [[58, 3, 59], [58, 7, 7, 1, 30, 9, 59], [58, *range(18), 59]]
    tokens = np.zeros((3, 20), np.int32)
    for filled, row in zip(tokens, rows, strict=True):
        filled[: len(row)] = row
    got = jax.jit(network.apply)(ours, tokens, np.array([len(r) - 1 for r in rows], np.int32))
    for i, row in enumerate(rows):
        with torch.no_grad():
            want = model.text_projection(model.text_model(torch.tensor([row])).pooler_output)
        assert error(got[i], want[0].numpy()) < 1e-5
    tokens[0, 3:] = 11
    np.testing.assert_array_equal(
        got[0], jax.jit(network.apply)(ours, tokens, np.array([2, 6, 19], np.int32))[0])


def test_positions_are_resized_as_torch_does():
    import torch
    table = np.random.default_rng(2).standard_normal((17, 128)).astype(np.float32)
    for name in clip.POSITIONS:
        network = clip.ImageTower(SMALL, positions=name)
        variables = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes(network))
        variables["params"]["positional_embedding"] = table
        for grid in ((4, 4), (3, 7), (9, 2)):
            got = network.apply(variables, grid, method=lambda m, grid: m._places(grid))
            want = torch.nn.functional.interpolate(
                torch.tensor(table[1:]).reshape(1, 4, 4, 128).permute(0, 3, 1, 2), grid, mode=name,
                align_corners=False)
            np.testing.assert_array_equal(got[0], table[0])
            np.testing.assert_allclose(got[1:], want.permute(0, 2, 3, 1).reshape(-1, 128),
                                       atol=2e-6)


def test_openai_and_hugging_face_give_one_network():
    hf = state_dict(reference())
    theirs = openai(hf)
    for tower in (clip_names.image_tower, clip_names.text_tower):
        one, other = tower(hf), tower(theirs)
        assert one.keys() == other.keys() and one
        for name, x in one.items():
            np.testing.assert_array_equal(x, other[name], err_msg=name)
    halves = {name: x.astype(np.float16) for name, x in theirs.items()}
    assert all(x.dtype == np.float32 for x in clip_names.image_tower(halves).values())
    # Whatever one tower does not read belongs to the other, or is named as no weight.
    left = {n for n in hf if n.startswith(("text_", "logit_scale"))}
    assert set(clip_names.passed_over(hf)) == left
    assert set(clip_names.passed_over(theirs)) == {
        n for n in theirs if not n.startswith("visual.")}


@pytest.mark.parametrize("change, message", [
    (lambda t: t.pop("vision_model.encoder.layers.2.self_attn.k_proj.bias"),
     "resblocks.2.attn.in_proj_bias is made of q, k and v; found q, v"),
    (lambda t: t.pop("vision_model.encoder.layers.1.mlp.fc1.weight"),
     "blocks/mlp/c_fc/kernel is missing in 1 of 5 blocks, the first of them 1"),
    (lambda t: t.update({"vision_model.encoder.layers.0.gate.weight": np.zeros(3)}),
     "1 name: vision_model.encoder.layers.0.gate.weight: no tensor of a CLIP"),
    (lambda t: t.update({"fc.weight": np.zeros((2, 2))}), "1 name: fc.weight: no tensor of a CLIP"),
    (lambda t: t.pop("visual_projection.weight"), "missing 1 name: params/proj"),
    (lambda t: t.update({"vision_model.embeddings.position_embedding.weight": np.zeros((10, 128))}),
     "params/positional_embedding (want [17, 128], found [10, 128])"),
])
def test_what_does_not_fit_is_named(change, message):
    tensors = state_dict(reference())
    change(tensors)
    with pytest.raises(ValueError) as raised:
        weights.restore(shapes(clip.ImageTower(SMALL)), clip_names.image_tower(tensors))
    assert message in str(raised.value)


def test_bfloat16_is_near():
    full, half = clip.ImageTower(SMALL), clip.ImageTower(SMALL, jnp.bfloat16)
    ours = weights.restore(shapes(full), clip_names.image_tower(state_dict(reference())))
    x = image(48, 64)
    want, got = (jax.jit(lambda v, n=n: n.apply(v, x, train=False)[0])(ours) for n in (full, half))
    assert got.dtype == jnp.float32 and 1e-6 < error(got, np.asarray(want)) < 0.1


def test_sides_and_names():
    with pytest.raises(ValueError, match="image of 40 x 32 pixels; want multiples of 16"):
        jax.eval_shape(lambda: clip.ImageTower(SMALL).init(
            jax.random.key(0), jnp.zeros((1, 40, 32, 3)), train=False))
    with pytest.raises(ValueError, match="config.model.clip.positions 'cubic' is unknown"):
        shapes(clip.ImageTower(SMALL, positions="cubic"))
