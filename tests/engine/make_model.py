"""A tiny random Llama with its tokenizer in DIRECTORY, without a download: `VENV/bin/python make_model.py DIRECTORY`."""

import sys
import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TOKENS = 4096
SPECIAL = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<pad>"]
CHAT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def tokenizer():
    """Byte pairs of the standard library's sources."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    texts = (f.read_text(errors="ignore") for f in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:120])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=SPECIAL[0], pad_token=SPECIAL[-1], model_max_length=4096)
    fast.chat_template = CHAT
    return fast


def main(directory):
    """Writes config.json, model.safetensors and the tokenizer's files."""
    words = tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ids = {"eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 4}
    config = LlamaConfig(
        vocab_size=len(words), head_dim=32, max_position_embeddings=4096, tie_word_embeddings=False, dtype="bfloat16", **shape, **ids
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    words.save_pretrained(directory)


if __name__ == "__main__":
    main(sys.argv[1])
