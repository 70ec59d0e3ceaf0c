from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter, TokenType
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel

from decad.errors import ModelError, OperatorError
from decad.model.gguf import import_gguf
from decad.model.trainable import TrainableModel

HIDDEN, VOCAB = 32, 258
_PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_k": "self_attn.k_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q": "self_attn.q_proj",
    "attn_v": "self_attn.v_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


@pytest.fixture
def gguf_file(tmp_path: Path, tied_dir: Path) -> Path:
    """The tiny tied Llama as an unquantised GGUF file."""
    path = tmp_path / "tiny.gguf"
    writer: Any = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(ByteLevel.alphabet()), "<|endoftext|>", "ab"])
    writer.add_token_types([TokenType.NORMAL] * 256 + [TokenType.CONTROL, TokenType.NORMAL])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(256)
    state = load_file(tied_dir / "model.safetensors")
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    for layer in range(2):
        for theirs, ours in _PARTS.items():
            values = state[f"model.layers.{layer}.{ours}.weight"].numpy()
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_and_its_tokenizer_come_through(
    gguf_file: Path, tied_dir: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    import_gguf(gguf_file, tmp_path / "out", dtype)
    model = TrainableModel.load(tmp_path / "out", torch.device("cpu"), torch.float32)
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {dtype}
    original = TrainableModel.load(tied_dir, torch.device("cpu"), torch.float32)
    assert torch.equal(model.block(0), original.block(0).to(dtype).float())
    assert model.plan.fingerprint == original.plan.fingerprint
    text = "héllo wörld\n"
    assert model.tokenizer.decode(model.tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    config = (tmp_path / "out" / "config.json").read_text()
    assert "quantization" not in config
    assert str(tmp_path) not in config
    assert '"LlamaForCausalLM"' in config


def test_the_import_is_silent(gguf_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import_gguf(gguf_file, tmp_path / "out")
    assert capfd.readouterr() == ("", "")


def test_a_missing_extra_is_named(gguf_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(
        OperatorError, match=r"packages gguf\. Install them with: pip install 'decad\[gguf\]'"
    ):
        import_gguf(gguf_file, tmp_path / "out")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf cannot be read: No such file"):
        import_gguf(tmp_path / "nowhere.gguf", tmp_path / "out")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.gguf").write_text("hello")
    with pytest.raises(ModelError, match=r"is not a GGUF file \(it begins with b'hell'\)"):
        import_gguf(tmp_path / "notes.gguf", tmp_path / "out")


@pytest.mark.parametrize("kept", [0.0001, 0.02, 0.5, 0.98])
def test_a_cut_off_file_leaves_nothing_behind(gguf_file: Path, tmp_path: Path, kept: float) -> None:
    whole = gguf_file.read_bytes()
    gguf_file.write_bytes(whole[: max(4, int(kept * len(whole)))])
    with pytest.raises(ModelError, match="cannot be read as a GGUF model"):
        import_gguf(gguf_file, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [gguf_file]


def test_a_directory_in_use_is_refused(gguf_file: Path, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="exists and is not empty"):
        import_gguf(gguf_file, tmp_path)
