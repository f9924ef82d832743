#!/usr/bin/env python3
"""Training tokens a second of Ringwise and of PyTorch + transformers, the same model side by side.

    build/venv/bin/python benchmarks/compare_training.py [--dtype f32 bf16] [--context 8192]

Both train a Llama (hidden 512, 8 layers, 8 heads of 64 and as many kv_heads, feed-forward 1408, 257
tokens, the head apart from the embedding) of the same number of parameters, on one sequence a step with AdamW and clipping, on all cores, in turns, so that both meet the same machine.
PyTorch runs LlamaForCausalLM with scaled_dot_product_attention; for bf16 once with the parameters
in bf16 and once with autocast, and the faster counts. Neither recomputes activations. Reports the
median of each and the ratio of the medians, with the ratio of every round as its spread.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

# Forced core types slow OpenBLAS-based builds of PyTorch: a win must be honest.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)

import torch  # noqa: E402
import transformers  # noqa: E402

import training_run  # noqa: E402

# Flag of `ringwise train` -> the same in LlamaConfig, and its value for both.
SHAPE = {
    "hidden": ("hidden_size", 512),
    "layers": ("num_hidden_layers", 8),
    "heads": ("num_attention_heads", 8),
    "kv-heads": ("num_key_value_heads", 8),
    "ffn": ("intermediate_size", 1408),
    "vocab": ("vocab_size", 257),
}


class TorchTrainer:
    """A model and its optimizer; each call is one step and returns its seconds."""

    def __init__(self, context, dtype, autocast):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            **dict(SHAPE.values()),
            tie_word_embeddings=False,
            max_position_embeddings=context,
            attn_implementation="sdpa",
            use_cache=False,
        )
        self.autocast = autocast
        self.model = transformers.LlamaForCausalLM(config)
        if dtype == "bf16" and not autocast:
            self.model = self.model.to(torch.bfloat16)
        self.model.train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.1)
        self.tokens = torch.randint(0, 256, (1, context))

    def parameters(self):
        return sum(parameter.numel() for parameter in self.model.parameters())

    def __call__(self):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.model(input_ids=self.tokens, labels=self.tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - begin
        if not torch.isfinite(loss):
            sys.exit("PyTorch's loss is not finite")
        return seconds


def fastest_torch(context, dtype):
    """(trainer, name) of the faster way to train in `dtype`, warmed up."""
    ways = {"f32": {"f32": False}, "bf16": {"bf16 parameters": False, "autocast": True}}[dtype]
    found = []
    for name, autocast in ways.items():
        trainer = TorchTrainer(context, dtype, autocast)
        trainer()
        found.append((trainer() if len(ways) > 1 else 0, name, trainer))
        del trainer
    _, name, trainer = min(found, key=lambda item: item[0])
    return trainer, name


def compare(options, dtype, folder, data):
    trainer, way = fastest_torch(options.context, dtype)
    torch_rates, our_rates, ratios = [], [], []
    for _ in range(options.rounds):
        torch_round = [options.context / trainer() for _ in range(options.steps)]
        records = training_run.train(
            options.build, folder / "run", data, "--dtype", dtype, "--recompute",
            options.recompute, "--context", options.context, "--batch", 1,
            "--steps", options.steps + 1, "--threads", options.threads,
            *(word for flag, (_, value) in SHAPE.items() for word in (f"--{flag}", value)),
        )  # fmt: skip
        ours, theirs = training_run.parameters(folder / "run"), trainer.parameters()
        if ours != theirs:
            sys.exit(f"not the same model: {ours} parameters here, {theirs} in PyTorch's")
        our_round = [record["tokens_per_second"] for record in records[1:]]  # the first warms up
        torch_rates += torch_round
        our_rates += our_round
        ratios.append(statistics.median(our_round) / statistics.median(torch_round))
    return {
        "dtype": dtype,
        "context": options.context,
        "threads": options.threads,
        "recompute": options.recompute,
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
        "torch_way": way,
        "torch_tokens_per_second": statistics.median(torch_rates),
        "tokens_per_second": statistics.median(our_rates),
        "ratio": statistics.median(our_rates) / statistics.median(torch_rates),
        "ratios_of_rounds": ratios,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    training_run.parse_build(parser)
    parser.add_argument("--dtype", nargs="+", default=["f32", "bf16"], choices=["f32", "bf16"])
    parser.add_argument("--context", type=int, default=8192, metavar="TOKENS")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--steps", type=int, default=2, help="steps timed a round")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--recompute", default="none", choices=["none", "attention", "block"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        data = training_run.write_text(folder)
        for dtype in options.dtype:
            result = compare(options, dtype, folder, data)
            if options.json:
                print(json.dumps(result), flush=True)
                continue
            rounds = ", ".join(f"{ratio:.2f}" for ratio in result["ratios_of_rounds"])
            print(
                f"{dtype}, context {result['context']}, {result['threads']} threads: "
                f"Ringwise {result['tokens_per_second']:.0f} tokens/s, "
                f"PyTorch {result['torch_tokens_per_second']:.0f} ({result['torch_way']}), "
                f"ratio {result['ratio']:.2f} (rounds: {rounds})",
                flush=True,
            )


if __name__ == "__main__":
    main()
