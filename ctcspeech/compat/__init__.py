"""The interfaces of other packages' decoders, over `ctcspeech.BeamDecoder`: a program that uses
those packages changes its import and nothing else."""

__all__ = ["pyctcdecode", "torchaudio"]
