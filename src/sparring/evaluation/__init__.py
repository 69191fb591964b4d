"""Figures: how near a model's samples are to clean data, and how sure that is.

metrics      distances between two sets of features, each a function of two arrays
resampling   intervals
features     named extractors: classifier, pixels, inception, a user's own
inception    the network behind FID, and its weights
lpips        perceptual distance, and the diversity of samples by it
memorization copies of training images
statistics   the reference's features in a file
classifier   the small network behind the extractor `classifier`
analytic     exact errors where the truth is known
captions     scores of captioned samples by CLIP, PickScore, HPS v2 and the aesthetic predictor
clip         images and captions as unit vectors
open_clip    HPS v2's weights under transformers' names
aesthetic    the aesthetic predictor
cmmd         the distance of two sets of images to CLIP
proximal     samples made dirty, against the dirty training images
leftover_noise    noise left in pixels that clean images leave empty, and in quiet directions
quiet_directions  directions in which clean images vary least
protocol     what must be alike for two figures to be compared
mismatch     x_t while sampling against q(x_t), per t
evaluate     all of it for one model's samples
"""
