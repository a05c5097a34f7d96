"""Numbers that every stage must agree on; free of imports, so that loader workers start fast."""

BACKGROUND = 0
IGNORE = 255  # label value of pixels that nothing may learn from or score

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in 0..1
IMAGENET_STD = (0.229, 0.224, 0.225)
