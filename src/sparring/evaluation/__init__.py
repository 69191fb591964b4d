"""Figures: how near a model's samples are to clean data, and how sure that is.

evaluate     all of it for one model's samples
metrics      distances between two sets of features, each a function of two arrays
networks/    what looks at samples: extractors, judges of captions, LPIPS
studies/     mismatch while sampling, robustness under attack, the denoiser as a field, cleaning
store/       the reference read once, saved features, what is kept in the cache
memorization copies of training images
analytic     exact errors where the truth is known
cmmd         the distance of two sets of images to CLIP
leftover_noise    noise left in pixels that clean images leave empty, and in quiet directions
protocol     what must be alike for two figures to be compared
resampling   intervals
"""
