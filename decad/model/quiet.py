"""transformers reports loading in log lines and progress bars; decad says what matters in its own words."""

from __future__ import annotations

from transformers.utils import logging


def quiet_transformers() -> None:
    """Show transformers' errors only, and none of its progress bars. Idempotent, for the whole process."""
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers types it in part
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # as above
