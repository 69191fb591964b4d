"""Samples, what is wrong with them, and the order in which training sees them.

base, data_set  the contract of samples by index, and of a set by name (datasets); sets/ has the
sets section         section data of a config analytic        sets with a known answer, and that
answer (`.truth`) files, streams  images in folders and tables; in shards, and the order in which
these are read transforms      resize, crop, flip, ranges dirt            dirt to practise on:
`Contaminated`, `training_data`, the kinds and the manifest audit           which images of a set
are dirty, and how; duplicates and sizes trust           what each image can teach, as training is
told: `Trusted`, and the controls batches         which sample stands where in the stream:
`make_loader`
"""
