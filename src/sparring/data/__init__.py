"""Samples, what is wrong with them, and the order in which training sees them.

base            the contract of a data set, and the wrappers that keep it
section         section data of a config; data_set is what a set says of itself
datasets        every data set by name: `build_dataset`; sets/ holds a file for each
analytic        sets with a known answer, and that answer (`.truth`)
files           images in folders and tables: which files, their classes and captions, decoding
streams         images in shards: tar files and tables, and the order in which they are read
transforms      resize, crop, flip, ranges
dirt            dirt to practise on: `Contaminated`, `training_data`, the kinds and the manifest
audit           which images of a set are dirty, and how; duplicates and sizes
trust           what each image can teach, as training is told: `Trusted`, and the controls
batches         which sample stands where in the stream: `make_loader`
"""
