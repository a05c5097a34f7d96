"""The paper's recipe on your own photos, with their tags: → label maps, a segmenter, a report.

    photos/images/0001.jpg …   photos/tags.csv   (id,tags: 0001,cat;sofa)   photos/classes.txt

    python -m wsssjax.train --config=configs/paper_folder.py:tiny --workdir=runs/try \\
        --config.select.quota_spec='{"cat": 20, "sofa": 20}' --config.data.test=train
    python -m wsssjax.train --config=configs/paper_folder.py:lite --workdir=runs/photos \\
        --config.select.quota_spec='{"cat": 20, "sofa": 20}' --config.data.test=train

Photos elsewhere: --config.data.root=FOLDER --config.classes=FOLDER/classes.txt. --config.check=true
looks at every input and runs nothing. docs/your_photos.ipynb goes through it all.

Lists: train.txt and test.txt of ids, in photos/. Without any list all photos are `train`, and
--config.data.test=train has the segmenter draw the label maps of those. True masks are not
needed: photos/masks/<id>.png of some test photos score the segmenter, those of all training photos
the labels, and nothing learns from them.
Quota: images of each class whose labels are trusted. The paper's best took a fifth of the photos; a
class that is left out comes in as company of others alone.
Lengths are VOC's, of 10,582 photos; with fewer lower --config.cam_b.total_steps (20,000).
Argument: nothing for the steps of paper_voc.py, which want a GPU and under weights/ the files
dinov2_b, conformer_small, resnet38, resnet101 and sam_vit_h_4b8939.pth; lite for those of
paper_voc_lite.py, which run on a CPU and want `efficientnet_lite0` alone; scratch for those of
quickstart.py, a small network that knows nothing but your photos: for drawings and the like; tiny,
in a minute, to see that photos and installation are right: its labels and scores mean nothing.
"""

from wsssjax.core.config import stage

RECIPES = {"": ("paper_voc.py", ""), "lite": ("paper_voc_lite.py", ""),
           "scratch": ("quickstart.py", ""), "tiny": ("paper_voc.py", "tiny")}


def get_config(arg=""):
    """A recipe of VOC, where a folder of photos differs."""
    if arg not in RECIPES:
        raise ValueError(f"config argument {arg!r}: want nothing, 'lite', 'scratch' or 'tiny'")
    c = stage(__file__, *RECIPES[arg])
    c.title = "From tags to a segmenter on my photos"
    c.classes = "photos/classes.txt"     # one name a line, without the background
    c.data.kind, c.data.root = "image_folder", "photos"
    c.data.train, c.data.test = "train", "test"  # lists: photos/train.txt, photos/test.txt
    c.saliency.source = "mbd"            # data: maps lie in photos/saliency
    c.arms = ("S",)                      # M and ALL beside it tell what the selection is worth
    c.given.cam_a = c.given.cam_b = ""   # both classifiers learn your classes
    c.cam_b.eps.background_classes = ()  # tags that no saliency shows; selection predefined alone
    c.select.quota_spec = ""             # must be given
    if not arg:
        c.cam_a.init_weights = ""
        c.cam_a.model.encoder_weights = "weights/conformer_small"
    return c
