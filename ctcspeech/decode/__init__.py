"""Emissions -> text: greedy and beam search, and what they give."""
