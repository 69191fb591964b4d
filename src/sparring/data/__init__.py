"""Samples, what is wrong with them, and the order in which training sees them.

base            the contract of a data set, and the wrappers that keep it
datasets        every data set by name: `build_dataset`
analytic        sets with a known answer, and that answer (`.truth`)
images          folders, parquet files and Hugging Face data sets
transforms      resize, crop, flip, ranges
dirt            dirt to practise on: `Contaminated`, `training_data`, the kinds and the manifest
audit           which images of a set are dirty, and how; duplicates and sizes
shards          images in shards; tar_shards and table_shards read them, shard_order is their order
batches         which sample stands where in the stream: `make_loader`
"""
