"""Embeddings to figures: both rankings (`ranking.py`), verification of pairs, and a table of queries."""
