"""Pen strokes -> frames of features: handwriting, for the same networks as speech."""

from ctcspeech.pen.features import NUM_FEATURES, SPACING, ink_features
from ctcspeech.pen.inkml import read_inkml, write_inkml
from ctcspeech.pen.strokes import Ink

__all__ = ["NUM_FEATURES", "SPACING", "Ink", "ink_features", "read_inkml", "write_inkml"]
