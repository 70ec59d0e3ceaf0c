"""Experiments: many peers in one process on the code that the daemon runs, the methods it is compared with, reports."""
