"""Manifests, corpora, and what is made of them for training: datasets, batches, augmentation."""
