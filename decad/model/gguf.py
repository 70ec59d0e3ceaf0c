"""A GGUF file -> a Hugging Face directory with plain, trainable weights."""

from __future__ import annotations

import importlib.util
import io
from contextlib import redirect_stderr
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from decad.errors import ModelError, OperatorError, first_line
from decad.model.output import new_directory, write_config, write_weights
from decad.model.quiet import quiet_transformers
from decad.model.trainable import TrainableModel

_MAGIC = b"GGUF"


def import_gguf(file: Path, out_dir: Path, dtype: torch.dtype = torch.float32) -> None:
    """Convert ``file``, quantised or not, to a Hugging Face directory in ``dtype``; load it to be sure.

    Raises OperatorError when the packages of ``decad[gguf]`` are missing or ``out_dir`` is in use, ModelError
    when the file is not a GGUF model that decad can train. ``out_dir`` appears complete or not at all.
    """
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise OperatorError(
            f"reading GGUF files needs the Python packages {' and '.join(missing)}. "
            "Install them with: pip install 'decad[gguf]'"
        )
    _check_magic(file)
    quiet_transformers()
    with new_directory(out_dir) as partial:
        source = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
        try:
            with redirect_stderr(io.StringIO()):  # a progress bar that no setting turns off
                module = AutoModelForCausalLM.from_pretrained(file.parent, dtype=dtype, **source)
                tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
        except Exception as error:  # see decad.model.loading
            raise ModelError(
                f"{file} cannot be read as a GGUF model: {first_line(error)}. The file may be damaged, or "
                "its architecture or quantisation unknown to transformers: try the model's safetensors."
            ) from error
        # module.save_pretrained would keep the quantisation, which no longer applies, and a local path.
        config = {key: value for key, value in module.config.to_diff_dict().items() if key[0] != "_"}
        write_config(partial, config | {"architectures": [type(module).__name__]})
        write_weights(partial, ((name, p.data) for name, p in module.named_parameters()))
        module.generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        TrainableModel.load(partial, torch.device("cpu"), dtype)


def _check_magic(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            magic = opened.read(len(_MAGIC))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}. Give the path of a .gguf file.") from None
    if magic != _MAGIC:
        raise ModelError(
            f"{file} is not a GGUF file (it begins with {magic!r}). Give the path of a .gguf file."
        )
