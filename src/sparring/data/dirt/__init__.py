"""Dirt to practise on: data made dirty on purpose, and the record of what was done to which sample.

contract        what a kind of dirt is: `Dirt`, and `Corruption` for one sample; kinds has them
options         how a kind checks its options, and draws those that are ranges
registry        a kind by its name, or from a file of the user's
contaminated    `Contaminated`, a data set of which some samples are dirty
manifest        what each sample got, written and read
as_measured     dirt as a table says that other images have it

Nothing is imported here: a config is read without torch.
"""
