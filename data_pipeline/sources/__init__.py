"""Where documents come from: files of several formats, plain or compressed, near or far, data sets of TFDS and Hugging Face."""
