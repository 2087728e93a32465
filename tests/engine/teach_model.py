"""Teaches a small model some answers by heart: `VENV/bin/python teach_model.py MODEL LESSONS.json DIRECTORY`.

LESSONS.json: a list of {"messages": [...], "answer": "..."}, as they reach a server's chat endpoint. Greedily decoded, the model in
DIRECTORY then says each answer, in the precision that it is served in.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS, RATE = 600, 2e-3


def encoded(tokenizer, lesson):
    """Token ids of a prompt, and of its answer with the end."""
    prompt = tokenizer.apply_chat_template(lesson["messages"], add_generation_prompt=True, tokenize=False)
    answer = tokenizer(lesson["answer"], add_special_tokens=False)["input_ids"]
    return tokenizer(prompt, add_special_tokens=False)["input_ids"], [*answer, tokenizer.eos_token_id]


@torch.no_grad()
def knows(model, lessons):
    """Whether the likeliest next token is the right one at every place of every answer."""
    for prompt, answer in lessons:
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        top = logits.float().topk(2).values
        if logits.argmax(-1).tolist() != answer or (top[:, 0] - top[:, 1]).min() < 2:  # another kernel may round in another way
            return False
    return True


def main(source, lessons, directory):
    """Teaches until the answers are known."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    taught = [encoded(tokenizer, lesson) for lesson in json.loads(Path(lessons).read_text())]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    longest = max(len(prompt) + len(answer) for prompt, answer in taught)
    ids = torch.full((len(taught), longest), tokenizer.pad_token_id)
    labels = torch.full((len(taught), longest), -100)
    for i, (prompt, answer) in enumerate(taught):
        ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    for step in range(STEPS):
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19 and loss < 0.01:
            served = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
            served.load_state_dict(model.state_dict())
            if knows(served, taught):
                served.save_pretrained(directory)
                tokenizer.save_pretrained(directory)
                return
    raise SystemExit(f"not learned in {STEPS} steps: loss {loss:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
