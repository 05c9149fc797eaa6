"""The acoustic models, Deep Speech 1 and 2, and the folders that they are kept in."""
