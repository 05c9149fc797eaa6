"""Models of other runtimes and toolkits, in and out."""
