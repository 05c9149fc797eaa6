"""Text as labels, as normalised words, and the errors in it."""
