"""Generated from proto/decad/v1 by ``python proto/generate.py``; only this file is written by hand."""
