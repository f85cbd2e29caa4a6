"""A tiny random Llama as a GGUF file."""

from pathlib import Path

import numpy as np

NAME = "tiny.gguf"
LETTERS = [chr(number) for number in range(ord("a"), ord("z") + 1)]
TOKENS = ["<unk>", "</s>", "\u0120", *LETTERS, "go"]
WIDTH, HIDDEN, LAYERS, HEADS = 16, 32, 2, 2


def save_tiny_gguf(folder: Path) -> Path:
    """Save a random 2-layer Llama, and its tokenizer of letters, as one GGUF file."""
    # Here, as it need not be installed.
    from gguf import GGUFWriter

    folder.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(folder / NAME, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token.startswith("<") else 1 for token in TOKENS])
    writer.add_token_merges(["g o"])
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(0)
    random = np.random.default_rng(0)
    attention = {f"attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    shapes = {**attention, "ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN)}
    layers = {f"blk.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in shapes.items()}
    for name, shape in {"token_embd": (len(TOKENS), WIDTH), **layers}.items():
        writer.add_tensor(f"{name}.weight", random.normal(scale=0.2, size=shape).astype(np.float32))
    norms = [f"blk.{layer}.{name}_norm" for layer in range(LAYERS) for name in ("attn", "ffn")]
    for name in [*norms, "output_norm"]:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder
