"""File or stream -> samples -> frames of features."""

from ctcspeech.audio.read import AudioInfo, PcmFormat, info, load, resample, stream

__all__ = ["AudioInfo", "PcmFormat", "info", "load", "resample", "stream"]
