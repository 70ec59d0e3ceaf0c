"""decad: decentralised full-parameter fine-tuning by block-wise Adam (DECA, arXiv 2606.03209)."""

__version__ = "0.1.0"
