"""Recordings of any length -> transcripts."""
