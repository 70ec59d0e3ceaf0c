"""Experiments with many peers in one process, and what is told of them."""
