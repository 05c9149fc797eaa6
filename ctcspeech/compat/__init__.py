"""The interfaces of other packages' decoders and language models, over ours: a program that uses
those packages changes its import and nothing else."""

__all__ = ["kenlm", "pyctcdecode", "torchaudio"]
