"""Figures: how near a model's samples are to clean data, and how sure that is.

evaluate      all of it for one model's samples
metrics/      a metric is a file that says what it computes and how its figures are labelled
networks/     what looks at samples: extractors, judges of captions, LPIPS; their weights
studies/      mismatch while sampling, robustness under attack, the denoiser as a field, cleaning
store/        what samples are compared with, read once; what is kept in the cache
figure        how a figure is labelled
feature_sets  sets of features: chunks, moments, nearest neighbours
resampling    intervals
protocol      what must be alike for two figures to be compared
"""
