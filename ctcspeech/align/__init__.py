"""Where the words of a known text are in a recording; utterances cut out by them for training."""
