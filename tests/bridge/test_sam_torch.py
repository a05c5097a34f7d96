"""SAM bridge: records of a generator, hostile checkpoints, and a tiny SAM where it is installed."""

import pickle

import numpy as np
import pytest
from PIL import Image

from wsssjax.refine import proposals, propose

torch = pytest.importorskip("torch")

from wsssjax.bridge import sam_torch  # noqa: E402


class Boxes:
    """Stands in for SAM's generator: two boxes, in its record format."""

    def generate(self, image):
        for left in (2, 7):
            mask = np.zeros(image.shape[:2], bool)
            mask[1:4, left:left + 3] = True
            yield {"segmentation": mask, "area": 9, "bbox": [left, 1, 2, 2],
                   "predicted_iou": 0.9, "stability_score": 0.97,
                   "point_coords": [[left + 1.0, 2.0]], "crop_box": [0, 0, 20, 10]}


def test_records_hold_masks_and_scores(tmp_path):
    image = np.zeros((10, 20, 3), np.uint8)
    records = sam_torch.propose(Boxes(), image)
    assert records[1]["bbox"] == [7, 1, 3, 3] and records[1]["area"] == 9
    assert (records[0]["score"], records[0]["stability"]) == (0.9, 0.97)
    proposals.write(tmp_path / "a.json.gz", (10, 20), records, {})
    masks = proposals.read(tmp_path, "a", (10, 20))
    assert [np.argwhere(m).min(0).tolist() for m in masks] == [[1, 2], [1, 7]]


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", pickle.dumps(Evil(), 2)],
                         ids=["empty", "cut", "evil"])
def test_hostile_checkpoints_are_named_and_never_executed(tmp_path, content, capsys):
    path = tmp_path / "sam.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"sam\.pth: not a SAM checkpoint"):
        sam_torch.load_weights(str(path))
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("weights", [{}, [1], {"image_encoder.patch_embed.proj.weight": 3},
                                     {"image_encoder.patch_embed.proj.weight": torch.zeros(7, 3)}])
def test_other_checkpoints_are_named(tmp_path, weights):
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: not a SAM checkpoint"):
        sam_torch.load_weights(str(tmp_path / "other.pth"))
    with pytest.raises(FileNotFoundError, match="missing.pth: no such checkpoint"):
        sam_torch.load_weights(str(tmp_path / "missing.pth"))


def tiny_sam(modeling):
    """A SAM of one narrow block; the registry's own take minutes on a CPU."""
    return modeling.Sam(
        image_encoder=modeling.ImageEncoderViT(
            img_size=1024, patch_size=16, embed_dim=16, depth=1, num_heads=1, out_chans=32,
            window_size=14, use_rel_pos=True),
        prompt_encoder=modeling.PromptEncoder(
            embed_dim=32, image_embedding_size=(64, 64), input_image_size=(1024, 1024),
            mask_in_chans=4),
        mask_decoder=modeling.MaskDecoder(
            transformer_dim=32, num_multimask_outputs=3, iou_head_hidden_dim=16,
            transformer=modeling.TwoWayTransformer(depth=1, embedding_dim=32, mlp_dim=16,
                                                   num_heads=2)))


def test_a_tiny_sam_runs_from_its_checkpoint_to_files(tmp_path, monkeypatch):
    pytest.importorskip("torchvision", exc_type=Exception)
    sam = pytest.importorskip("segment_anything")
    modeling = pytest.importorskip("segment_anything.modeling")
    torch.manual_seed(0)
    torch.save(tiny_sam(modeling).state_dict(), tmp_path / "tiny.pth")
    monkeypatch.setitem(sam_torch.MODELS, 16, "tiny")
    monkeypatch.setitem(sam.sam_model_registry, "tiny", lambda: tiny_sam(modeling))
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "photos" / "a.png")
    options = {"images": str(tmp_path / "photos"), "out": str(tmp_path / "out"), "backend": "sam",
               "checkpoint": str(tmp_path / "tiny.pth"), "points_per_side": 2,
               "pred_iou_thresh": -100.0, "stability_score_thresh": 0.0}
    assert propose.run(**options)["already_there"] == 0
    value = proposals.read_file(tmp_path / "out" / "a.json.gz")
    assert value["size"] == [40, 60] and value["by"]["model"] == "tiny"
    assert value["by"]["points_per_side"] == 2 and len(value["by"]["checkpoint"]) == 16
    masks = proposals.read(tmp_path / "out", "a", (40, 60))
    assert len(masks) > 0
    assert [m["area"] for m in value["masks"]] == masks.sum((1, 2)).tolist()
    assert propose.run(**options)["already_there"] == 1
    with pytest.raises(ValueError, match="'points' is no parameter of SAM's mask generator"):
        propose.run(**options | {"points": 3})
