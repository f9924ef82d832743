"""`ringwise attention` with every option against PyTorch: autograd in float64 on random cases, and
scaled_dot_product_attention and flex_attention where they have the option.

RINGWISE_CASES=1000 in the environment draws so many, an eighth of them in bf16.
"""

import json
import os
import random

import safetensors.torch
import torch
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

import attention_reference as contract
import support

SEED = 20240917
CASES = int(os.environ.get("RINGWISE_CASES", "80"))
BF16_CASES = CASES // 8
F32_CASES = CASES - BF16_CASES

FORWARD_BOUND, BACKWARD_BOUND = 1e-5, 2e-6
CANCELS = ("dq", "dk", "dbias", "dsinks")  # measured by their sums of absolute terms


def magnitude(tensor):
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def plain_case(**changes):
    """A case without options, to which `changes` are made."""
    case = {
        "batch": 2, "q_len": 40, "k_len": 40, "heads": 4, "kv_heads": 2, "head_dim": 16,
        "value_dim": 16, "gradients": True, "documents": 0, "bias": None, "sinks": False,
        "dlogsumexp": False, "dtype": "f32", "ring": 3, "layout": "zigzag", "key_layout": None,
        "threads": 1, "options": {"causal": False},
    }
    case.update(changes)
    return case


class AttentionCommand(support.TestCase):
    def attend(self, case, tensors, ranks=None, name="case"):
        inputs = self.folder / f"{name}.safetensors"
        options = self.folder / f"{name}.json"
        out = self.folder / f"{name}.out.safetensors"
        safetensors.torch.save_file(tensors, inputs)
        options.write_text(json.dumps(case["options"]))
        mesh = () if ranks else ("--ring", case["ring"])
        key_layout = ("--key-layout", case["key_layout"]) if case["key_layout"] else ()
        support.ringwise(
            "attention", "--inputs", inputs, "--options", options, "--out", out, *mesh,
            "--layout", case["layout"], *key_layout, "--threads", case["threads"], ranks=ranks,
            check=True,
        )
        # Copies: what is loaded looks into the file, which the next call writes anew.
        results = {name: t.clone() for name, t in safetensors.torch.load_file(out).items()}
        dropout_mask = results.pop("dropout_mask", None)
        self.check_shapes(case, results, dropout_mask)
        return results, dropout_mask

    def check_shapes(self, case, results, dropout_mask):
        batch, heads, q_len, k_len = (case[name] for name in ("batch", "heads", "q_len", "k_len"))
        expected = {"out": (batch, q_len, heads, case["value_dim"]),
                    "logsumexp": (batch, heads, q_len)}
        if case["gradients"]:
            expected["dq"] = (batch, q_len, heads, case["head_dim"])
            expected["dk"] = (batch, k_len, case["kv_heads"], case["head_dim"])
            expected["dv"] = (batch, k_len, case["kv_heads"], case["value_dim"])
            if case["bias"] is not None:
                expected["dbias"] = tuple(
                    extent if axis in case["bias"] else 1
                    for axis, extent in zip("bhq", (batch, heads, q_len))) + (k_len,)
            if case["sinks"]:
                expected["dsinks"] = (heads,)
        self.assertEqual({name: tuple(tensor.shape) for name, tensor in results.items()}, expected)
        for tensor in results.values():
            self.assertEqual(tensor.dtype, torch.float32)
        self.assertEqual(dropout_mask is not None, "dump_dropout_mask" in case["options"])
        if dropout_mask is not None:
            self.assertEqual(dropout_mask.dtype, torch.uint8)
            self.assertEqual(tuple(dropout_mask.shape), (batch, heads, q_len, k_len))

    def check_f32(self, case, tensors, results, dropout_mask):
        terms = (contract.absolute_terms(case, tensors, dropout_mask) if case["gradients"] else {})
        for name, tensor in contract.reference(case, tensors, dropout_mask).items():
            if tensor.numel() == 0:
                continue
            scale = magnitude(terms[name] if name in CANCELS else tensor)
            bound = BACKWARD_BOUND if name in CANCELS else FORWARD_BOUND
            error = support.largest_error(results[name], tensor, scale=scale)
            self.assertLessEqual(error, bound, name)

    def test_f32_cases_against_float64(self):
        generator = random.Random(SEED)
        print(f"seed {SEED}")
        for index in range(F32_CASES):
            case = contract.random_case(generator, "f32")
            tensors = contract.random_tensors(case, index)
            with self.subTest(index=index, case=case):
                self.check_f32(case, tensors, *self.attend(case, tensors))

    def test_bf16_cases_against_the_plain_formula(self):
        generator = random.Random(SEED + 1)
        for index in range(BF16_CASES):
            case = contract.random_case(generator, "bf16") | {"gradients": True}
            tensors = contract.random_tensors(case, index)
            with self.subTest(index=index, case=case):
                results, dropout_mask = self.attend(case, tensors)
                expected = contract.reference(case, tensors, dropout_mask)
                terms = contract.absolute_terms(case, tensors, dropout_mask)
                for name, plain in contract.plain_bf16(case, tensors, dropout_mask).items():
                    self.check_bf16(name, results[name], expected[name], plain, terms[name])
                self.assertLessEqual(
                    support.largest_error(results["logsumexp"], expected["logsumexp"]), 1e-5)

    def check_bf16(self, name, actual, exact, plain, terms):
        """As tests of the library do: see src/ring/ring_proof.h."""
        scale = magnitude(terms)
        if support.largest_error(actual, exact, scale=scale) <= BACKWARD_BOUND:
            return
        self.assertLessEqual(support.largest_error(actual, exact, scale=scale), 2**-7, name)
        if exact.numel() < 1000:
            return
        self.assertLessEqual(support.rms_error(actual, exact),
                             1.1 * support.rms_error(plain, exact), name)
        self.assertLessEqual(support.largest_error(actual, exact),
                             2 * support.largest_error(plain, exact), name)

    def test_mpirun_gives_the_bits_of_threads(self):
        generator = random.Random(SEED + 2)
        for ranks in (2, 3):
            case = contract.random_case(generator, "f32")
            case |= {"q_len": 113, "k_len": 113, "gradients": True, "ring": ranks, "threads": 1,
                     "bias": "hq", "sinks": True, "dlogsumexp": True}
            case["options"] = {"causal": True, "softcap": 3, "window": [40, None],
                               "dropout": {"p": 0.2, "seed": 5}, "dump_dropout_mask": True}
            tensors = contract.random_tensors(case, ranks)
            with self.subTest(ranks=ranks):
                threads, _ = self.attend(case, tensors)
                processes, dropout_mask = self.attend(case, tensors, ranks=ranks, name="mpi")
                self.check_f32(case, tensors, processes, dropout_mask)
                for name, tensor in threads.items():
                    self.assertTrue(torch.equal(tensor, processes[name]), name)

    def test_dtype_flag_rounds_the_inputs(self):
        case = plain_case(options={"causal": True})
        tensors = contract.random_tensors(case, 0)
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

    def test_dropout_is_a_function_of_the_seed(self):
        case = plain_case(q_len=64, k_len=70, gradients=False)
        case["options"] |= {"dropout": {"p": 0.3, "seed": 11}, "dump_dropout_mask": True}
        tensors = contract.random_tensors(case, 0)
        _, mask = self.attend(case, tensors)
        kept, deviation = 0.7, (0.7 * 0.3) ** 0.5
        for part in (mask, *mask.unbind(0), *mask.unbind(1)):
            bound = 5 * deviation / part.numel() ** 0.5
            self.assertLessEqual(abs(float(part.double().mean()) - kept), bound)
        planes = mask.flatten(0, 1)
        for first in range(len(planes)):
            for second in range(first):
                same = float((planes[first] == planes[second]).double().mean())
                self.assertLessEqual(abs(same - (0.7**2 + 0.3**2)), 0.05)
        for changes in ({"ring": 1}, {"ring": 5, "layout": "striped"}):
            self.assertTrue(torch.equal(self.attend(case | changes, tensors)[1], mask))
        case["options"] |= {"dropout": {"p": 0.3, "seed": 12}}
        self.assertFalse(torch.equal(self.attend(case, tensors)[1], mask))

    def sdpa(self, tensors, **options):
        """Output and gradients of torch's own attention in float64."""
        names = [name for name in ("q", "k", "v", "bias") if name in tensors]
        leaves = {name: tensors[name].double().requires_grad_() for name in names}
        q, k, v = (leaves[name].transpose(1, 2) for name in "qkv")
        if "bias" in leaves:
            options["attn_mask"] = leaves["bias"].expand(
                q.shape[0], q.shape[1], q.shape[2], k.shape[2])
        out = scaled_dot_product_attention(q, k, v, enable_gqa=True, **options).transpose(1, 2)
        gradients = torch.autograd.grad(out, list(leaves.values()), tensors["dout"].double())
        results = {f"d{name}": gradient for name, gradient in zip(names, gradients)}
        return {"out": out.detach(), **results}

    def test_scaled_dot_product_attention(self):
        causal = {"causal": True}
        documents = {"documents": 3}
        slices = [{"q": [0, 25], "k": [3, 40], "type": "causal"},
                  {"head": 1, "q": [20, 40], "k": [0, 30], "type": "inverse_causal"},
                  {"q": [0, 40], "k": [0, 2], "type": "full"}]
        cases = {
            "full": ({}, {}, False),
            "causal": ({"options": causal}, {"is_causal": True}, False),
            "scale": ({"options": causal | {"scale": 0.3}},
                      {"is_causal": True, "scale": 0.3}, False),
            "value dim": ({"value_dim": 24, "options": causal}, {"is_causal": True}, False),
            "multi query": ({"kv_heads": 1, "options": causal}, {"is_causal": True}, False),
            "cross": ({"q_len": 23, "k_len": 57, "key_layout": "striped"}, {}, False),
            "bias": ({"bias": "bhq"}, {}, False),
            "bias of a row": ({"bias": "h"}, {}, False),
            "window": ({"options": causal | {"window": [7, None]}}, {}, True),
            "block": ({"options": {"causal": False, "causal_block": 6}}, {}, True),
            "slices": ({"options": {"causal": False, "slices": slices}}, {}, True),
            "documents": (documents | {"options": causal}, {}, True),
        }
        for index, (name, (changes, options, masked)) in enumerate(cases.items()):
            with self.subTest(name):
                case = plain_case(**changes)
                tensors = contract.random_tensors(case, index)
                if masked:
                    options = {"attn_mask": contract.visible_of(case, tensors)}
                results, _ = self.attend(case, tensors)
                terms = contract.absolute_terms(case, tensors)
                for result, expected in self.sdpa(tensors, **options).items():
                    scale = magnitude(terms[result] if result in CANCELS else expected)
                    bound = BACKWARD_BOUND if result in CANCELS else FORWARD_BOUND
                    self.assert_close(results[result], expected, bound, scale, result)

    def test_flex_attention(self):
        slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
        ids = torch.tensor([0] * 13 + [1] * 20 + [2] * 7)
        bias = torch.randn(2, 4, 40, 40, generator=torch.Generator().manual_seed(1))

        def causal(b, h, i, j):
            return i >= j

        def window(b, h, i, j):
            return (i >= j) & (i - j <= 9)

        def document(b, h, i, j):
            return (i >= j) & (ids[i] == ids[j])

        def alibi(score, b, h, i, j):
            return score - slopes.to(score.dtype)[h] * (i - j).abs()

        def softcap(score, b, h, i, j):
            return 2 * torch.tanh(score / 2)

        def everything(score, b, h, i, j):
            return alibi(softcap(score, b, h, i, j), b, h, i, j) + bias.to(score.dtype)[b, h, i, j]

        segment_ids = ids.to(torch.int32).expand(2, 40).contiguous()
        segments = {"q_segment_ids": segment_ids, "k_segment_ids": segment_ids.clone()}
        of_alibi, of_softcap = {"alibi_slopes": slopes.tolist()}, {"softcap": 2}
        cases = {
            "causal": ({}, {}, causal, None),
            "window": ({"window": [9, None]}, {}, window, None),
            "documents": ({}, segments, document, None),
            "ALiBi": (of_alibi, {}, causal, alibi),
            "softcap": (of_softcap, {}, causal, softcap),
            "everything": (of_alibi | of_softcap, segments | {"bias": bias}, document, everything),
        }
        for index, (name, (options, given, mask_mod, score_mod)) in enumerate(cases.items()):
            with self.subTest(name):
                case = plain_case(gradients=False, options={"causal": True} | options,
                                  bias="bhq" if "bias" in given else None)
                tensors = contract.random_tensors(case, index) | given
                results, _ = self.attend(case, tensors)
                q, k, v = (tensors[x].double().transpose(1, 2) for x in "qkv")
                block_mask = create_block_mask(mask_mod, None, None, 40, 40, device="cpu")
                out, aux = flex_attention(
                    q, k, v, score_mod=score_mod, block_mask=block_mask, enable_gqa=True,
                    return_aux=AuxRequest(lse=True))
                self.assert_close(results["out"], out.transpose(1, 2), FORWARD_BOUND)
                self.assert_close(results["logsumexp"], aux.lse, FORWARD_BOUND)


if __name__ == "__main__":
    support.main()
