"""The detectors: a file holds one class, a `Detector`, known by the name of the file.

A new detector is a new file here. Files whose names begin with an underscore are what several of
them share.
"""
