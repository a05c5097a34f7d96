"""What every recipe has: each starts from here and sets what is its own (paper_voc.py, …).

Not to be run: it has no classifiers, no segmenter and no data.
"""

import ml_collections


def get_config(arg=""):
    """Config with as many lines as there are settings in common."""
    if arg:
        raise ValueError(f"config argument {arg!r}: want nothing")
    c = ml_collections.ConfigDict()
    c.title = ""                         # of the report
    c.check = False                      # true: look at every input, run nothing
    c.seed = 0                           # of all that is trained; the axis `seed` of
    #                                      tools/ablate.py changes it for the arms alone
    c.classes = "voc"                    # class names: voc, coco, shapes or a file
    c.arms = ("S", "M")                  # trainings of the segmenter: ARMS of wsssjax/steps/arms.py

    c.data = ml_collections.ConfigDict()
    c.data.kind = "voc"                  # how root is laid out: voc, coco, image_folder; or shapes
    c.data.root = ""                     # folder of the photos; must be given
    c.data.train = "train"               # list of the training photos: a name, as in train.txt
    c.data.test = "test"                 # list of the test photos

    c.saliency = ml_collections.ConfigDict()
    c.saliency.source = "data"           # the maps in the data set's folder `saliency`; or mbd:
    #                                      minimum barrier distance, made here

    # Finished work instead of a step of the recipe, "" for none. Label sets: A and B are the labels
    # of two methods, A+ and B+ the same refined.
    c.given = ml_collections.ConfigDict()
    c.given.a = ""                       # folder of label maps <id>.png of all training photos
    c.given.b = ""                       # likewise
    c.given.a_plus = ""                  # likewise
    c.given.b_plus = ""                  # likewise
    c.given.cam_a = ""                   # weights of the classifier of A (file or folder)
    c.given.cam_b = ""                   # of B
    c.given.proposals = ""               # folder of proposals <id>.json.gz
    c.given.titles = ml_collections.ConfigDict()  # what tables call the sets; "" for their steps
    c.given.titles.a, c.given.titles.b = "", ""
    c.given.titles.a_plus, c.given.titles.b_plus = "", ""
    c.given.seen = ml_collections.ConfigDict()  # supervision letters of sets that are given, or of
    c.given.seen.a, c.given.seen.b = "", ""  # A's and B's classifier, such as I+S: Image tags,
    c.given.seen.a_plus, c.given.seen.b_plus = "", ""  # Saliency, A for SAM, CLIP, Full; "" for
    #                                      what steps tell

    c.finish_a = ()                      # links behind the classifier that make its labels A: crf,
    c.finish_b = ()                      # mars, sam; LINKS of wsssjax/steps/labels.py
    c.refine = ("sam",)                  # links that make A+ of A and B+ of B, in this order
    c.pair = ("A", "B+")                 # the sets that are compared; the second is the pool

    c.proposals = ml_collections.ConfigDict()
    c.proposals.backend = "felzenszwalb"  # superpixels at several scales; or sam
    c.proposals.scales = (30.0, 100.0)   # of the graph segmentation: larger means coarser
    c.proposals.sigma = 0.8              # pixels, blur before it
    c.proposals.min_part = 0.0005        # of the photo, smallest region
    c.proposals.max_part = 0.9           # of the photo, largest region
    c.proposals.merges = 0               # further joins of similar neighbours, each one more mask

    c.crf = ml_collections.ConfigDict()
    c.crf.preset = "irn"                 # of core/crf.py: hard labels, all classes
    c.crf.iterations = 10                # of the mean field
    c.crf.gt_prob = 0.7                  # probability that a label is right

    c.merge = ml_collections.ConfigDict()
    c.merge.merge = "max_iou_imp2"       # the rule of sam_merge.py that joins labels and proposals

    c.select = ml_collections.ConfigDict()
    c.select.quota_spec = ""             # images per class: voc/92 to voc/1464, JSON, LIST:FOLDER
    c.select.score = "paper"             # what ranks the labels: paper (IoU), quality or classes
    c.select.kind = ""                   # its IoU: foreground, mean, mean_bg, worst; "" its default
    c.select.min_area = 1                # pixels below which a class does not count as present
    c.select.min_iou = 0.0               # labels up to it are never taken; 0: no bound
    c.select.keep = "whole"              # what stays of a selected label: whole, classes, pixels

    c.listed = ""                        # list of the labelled images of arm L: ids, or lines
    #                                      '<photo> <label>'; {quota} in it is that of voc/92, …
    c.labelled = ml_collections.ConfigDict()  # thins the labelled images of each arm at random
    c.labelled.images = 0                # images that are left at most; 0: all
    c.labelled.pixels = 0                # labelled pixels that are reached at most; 0: all

    c.segmenter_encoder = "weights"      # where the encoder comes from: weights (those that
    #                                      segmenter.model.encoder_weights names) or cam_b, which is
    #                                      the recipe's own classifier

    c.segmenter_tags = False             # true: the segmenter knows the tags of the images that
    #                                      have no labels, and its teacher names no other class

    c.submission = ml_collections.ConfigDict()  # an archive for the VOC test server, of each arm
    c.submission.ids = ""                # file of the test ids; "" for no archive
    c.submission.photos = ""             # folder of the test photos
    c.submission.challenge = "comp6"     # or comp5: trained on VOC's photos alone

    c.report = ml_collections.ConfigDict()
    c.report.gallery = 6                 # photos in each of the report's galleries
    return c
