"""`ringwise attention` on random cases, against PyTorch autograd in float64.

RINGWISE_CASES=1000 in the environment draws so many, an eighth of them in bf16.
"""

import json
import math
import os
import random

import safetensors.torch
import torch

import support

SEED = 20240917
CASES = int(os.environ.get("RINGWISE_CASES", "68"))
BF16_CASES = CASES // 8
F32_CASES = CASES - BF16_CASES


def random_case(generator, dtype):
    """Shapes, options and ring of one case; bf16 cases are large, for an RMS to mean something."""
    small = dtype == "f32"
    kv_heads = generator.choice([1, 2, 3] if small else [1, 2])
    lengths = [0, 1, 2, 3, 5, 17, 33, 64, 113] if small else [150, 257, 300]
    kv_len = generator.choice(lengths)
    q_len = kv_len if generator.random() < 0.6 else generator.choice(lengths)
    options = {"causal": generator.random() < 0.6}
    if generator.random() < 0.3:
        options["scale"] = generator.choice([0.0, 0.3, -0.2, 1.0])
    if generator.random() < 0.3:
        options["query_offset"] = generator.randrange(-kv_len - 2, kv_len + 3)
    if not small:
        options = {"causal": options["causal"]}
    return {
        "batch": generator.choice([1, 2]),
        "q_len": q_len,
        "kv_len": kv_len,
        "heads": kv_heads * generator.choice([1, 2, 3]),
        "kv_heads": kv_heads,
        "head_dim": generator.choice([1, 3, 16, 64, 80, 128, 256] if small else [32, 64, 100]),
        "gradients": generator.random() < 0.8,
        "dtype": dtype,
        "options": options,
        "ring": generator.randrange(1, 7),
        "layout": generator.choice(["contiguous", "striped", "zigzag"]),
        "threads": generator.choice([1, 2]),
    }


def random_tensors(case, seed):
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if case["dtype"] == "f32" else torch.bfloat16

    def normal(length, heads):
        shape = (case["batch"], length, heads, case["head_dim"])
        return torch.randn(shape, generator=generator).to(dtype)

    tensors = {
        "q": normal(case["q_len"], case["heads"]),
        "k": normal(case["kv_len"], case["kv_heads"]),
        "v": normal(case["kv_len"], case["kv_heads"]),
    }
    if case["gradients"]:
        tensors["dout"] = normal(case["q_len"], case["heads"])
    return tensors


def scale_of(case):
    return case["options"].get("scale", case["head_dim"] ** -0.5)


def visible_of(case):
    offset = case["options"].get("query_offset", case["kv_len"] - case["q_len"])
    if not case["options"]["causal"]:
        return torch.ones(case["q_len"], case["kv_len"], dtype=torch.bool)
    positions = torch.arange(case["q_len"])[:, None] + offset
    return torch.arange(case["kv_len"])[None, :] <= positions


def by_head(tensor, heads):
    """[batch, length, heads, head_dim] -> [batch, heads, length, head_dim], heads repeated."""
    tensor = tensor.transpose(1, 2)
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def probabilities(scores, visible):
    """Softmax over visible keys and its logsumexp; rows that see nothing give 0 and -inf."""
    scores = scores.masked_fill(~visible, -math.inf)
    if scores.shape[-1] == 0:
        return scores, torch.full(scores.shape[:-1], -math.inf, dtype=scores.dtype)
    logsumexp = torch.logsumexp(scores, dim=-1)
    seen = torch.where(logsumexp.isinf(), torch.zeros_like(logsumexp), logsumexp)
    return torch.exp(scores - seen[..., None]), logsumexp


def reference(case, tensors):
    """Results in float64 by autograd, and the scale each is measured on."""
    q, k, v = (tensors[name].double().requires_grad_() for name in "qkv")
    heads = case["heads"]
    keys, values = by_head(k, heads), by_head(v, heads)
    scale = scale_of(case)
    p, logsumexp = probabilities(scale * by_head(q, heads) @ keys.transpose(2, 3), visible_of(case))
    out = (p @ values).transpose(1, 2)
    results = {"out": out.detach(), "logsumexp": logsumexp.detach()}
    scales = {name: magnitude(tensor) for name, tensor in results.items()}
    if case["gradients"]:
        dout = tensors["dout"].double()
        gradients = torch.autograd.grad(out, (q, k, v), dout, allow_unused=True)
        for name, gradient in zip(("dq", "dk", "dv"), gradients):
            results[name] = gradient.detach()
        with torch.no_grad():
            # The sums of absolute terms, on which gradients that cancel are measured.
            dp = (by_head(dout, heads) @ values.transpose(2, 3)).abs()
            terms = abs(scale) * p * (dp + (p * dp).sum(-1, keepdim=True))
            scales["dq"] = magnitude(terms @ keys.abs())
            dk_terms = terms.transpose(2, 3) @ by_head(q, heads).abs()
            grouped = dk_terms.unflatten(1, (case["kv_heads"], case["heads"] // case["kv_heads"]))
            scales["dk"] = magnitude(grouped.sum(2))
            scales["dv"] = magnitude(results["dv"])
    return results, scales


def plain_bf16(case, tensors):
    """The formula as plainly computed: bf16 operands, float32 sums, one rounding at the end."""

    def rounded(tensor):
        return tensor.bfloat16().float()

    heads = case["heads"]
    q, k, v = (by_head(tensors[name].float(), heads) for name in "qkv")
    scale = scale_of(case)
    p, _ = probabilities(scale * (q @ k.transpose(2, 3)), visible_of(case))
    results = {"out": (rounded(p) @ v).transpose(1, 2)}
    if case["gradients"]:
        dout = by_head(tensors["dout"].float(), heads)
        dp = dout @ v.transpose(2, 3)
        ds = rounded(p * (dp - (p * dp).sum(-1, keepdim=True)))

        def of_kv_heads(tensor):
            grouped = tensor.unflatten(1, (case["kv_heads"], heads // case["kv_heads"]))
            return grouped.sum(2).transpose(1, 2)

        results["dq"] = (scale * (ds @ k)).transpose(1, 2)
        results["dk"] = of_kv_heads(scale * (ds.transpose(2, 3) @ q))
        results["dv"] = of_kv_heads(rounded(p).transpose(2, 3) @ dout)
    return {name: rounded(tensor) for name, tensor in results.items()}


def magnitude(tensor):
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


class AttentionCommand(support.TestCase):
    def attend(self, case, tensors, ranks=None, name="case"):
        inputs = self.folder / f"{name}.safetensors"
        options = self.folder / f"{name}.json"
        out = self.folder / f"{name}.out.safetensors"
        safetensors.torch.save_file(tensors, inputs)
        options.write_text(json.dumps(case["options"]))
        mesh = () if ranks else ("--ring", case["ring"])
        support.ringwise(
            "attention", "--inputs", inputs, "--options", options, "--out", out, *mesh,
            "--layout", case["layout"], "--threads", case["threads"], ranks=ranks, check=True,
        )
        return safetensors.torch.load_file(out)

    def check_shapes(self, case, results):
        expected = {"out", "logsumexp"} | ({"dq", "dk", "dv"} if case["gradients"] else set())
        self.assertEqual(set(results), expected)
        for tensor in results.values():
            self.assertEqual(tensor.dtype, torch.float32)

    def check_f32(self, case, tensors, results):
        self.check_shapes(case, results)
        expected, scales = reference(case, tensors)
        bounds = {"out": 1e-5, "logsumexp": 1e-5, "dv": 1e-5, "dq": 2e-6, "dk": 2e-6}
        for name, tensor in expected.items():
            self.assertEqual(results[name].shape, tensor.shape, name)
            if tensor.numel() == 0:
                continue
            error = support.largest_error(results[name], tensor, scale=scales[name])
            self.assertLessEqual(error, bounds[name], f"{name} of {case}")

    def test_f32_cases_against_float64(self):
        generator = random.Random(SEED)
        print(f"seed {SEED}")
        for index in range(F32_CASES):
            case = random_case(generator, "f32")
            tensors = random_tensors(case, index)
            with self.subTest(index=index, case=case):
                self.check_f32(case, tensors, self.attend(case, tensors))

    def test_bf16_cases_against_the_plain_formula(self):
        generator = random.Random(SEED + 1)
        for index in range(BF16_CASES):
            case = random_case(generator, "bf16")
            tensors = random_tensors(case, index)
            with self.subTest(index=index, case=case):
                results = self.attend(case, tensors)
                self.check_shapes(case, results)
                expected, _ = reference(case, tensors)
                for name, plain in plain_bf16(case, tensors).items():
                    exact = expected[name]
                    self.assertLessEqual(
                        support.rms_error(results[name], exact),
                        1.1 * support.rms_error(plain, exact), name)
                    self.assertLessEqual(
                        support.largest_error(results[name], exact),
                        2 * support.largest_error(plain, exact), name)

    def test_mpirun_gives_the_bits_of_threads(self):
        generator = random.Random(SEED + 2)
        for ranks in (2, 3):
            case = random_case(generator, "f32")
            case |= {"q_len": 113, "kv_len": 113, "gradients": True, "ring": ranks, "threads": 1,
                     "options": {"causal": True}}
            tensors = random_tensors(case, ranks)
            with self.subTest(ranks=ranks):
                threads = self.attend(case, tensors)
                processes = self.attend(case, tensors, ranks=ranks, name="mpi")
                self.check_f32(case, tensors, processes)
                for name, tensor in threads.items():
                    self.assertTrue(torch.equal(tensor, processes[name]), name)

    def test_dtype_flag_rounds_the_inputs(self):
        case = random_case(random.Random(SEED + 3), "f32")
        case |= {"q_len": 20, "kv_len": 20, "options": {"causal": True}}
        tensors = random_tensors(case, 0)
        halves = {name: tensor.bfloat16() for name, tensor in tensors.items()}
        results = []
        for index, given in enumerate((tensors, halves)):
            inputs, out = self.folder / f"{index}.in", self.folder / f"{index}.out"
            safetensors.torch.save_file(given, inputs)
            support.ringwise("attention", "--inputs", inputs, "--out", out, "--dtype", "bf16",
                             "--threads", 1, check=True)
            results.append(safetensors.torch.load_file(out))
        for name, tensor in results[0].items():
            self.assertTrue(torch.equal(tensor, results[1][name]), name)


if __name__ == "__main__":
    support.main()
