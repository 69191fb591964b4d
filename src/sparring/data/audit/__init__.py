"""What is wrong with the images of a set, measured without labels and without training.

contract        what a detector is: statistics of an image, and a rule that reads them
detectors       one file for each detector, found by walking the folder (registry)
table           what was found, a row per image: read by people, corrected, handed back
audit           the look at a whole set

Images are looked at as training reads them, after resizing and cropping, on the [0, 1] scale.
"""
