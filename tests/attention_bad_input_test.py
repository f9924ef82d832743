"""What `ringwise attention` refuses: one line that names the argument, what it was and what it may
be, before anything is computed or written, on threads and under mpirun.
"""

import json
import os
import struct

import safetensors.torch
import torch

import support

BATCH, Q_LEN, K_LEN, HEADS, KV_HEADS, HEAD_DIM, VALUE_DIM = 2, 4, 5, 4, 2, 8, 6
FAILED, BAD_USAGE = 1, 2


def good_tensors():
    return {
        "q": torch.zeros(BATCH, Q_LEN, HEADS, HEAD_DIM),
        "k": torch.zeros(BATCH, K_LEN, KV_HEADS, HEAD_DIM),
        "v": torch.zeros(BATCH, K_LEN, KV_HEADS, VALUE_DIM),
        "bias": torch.zeros(1, HEADS, Q_LEN, K_LEN),
        "sinks": torch.zeros(HEADS),
        "q_segment_ids": torch.zeros(BATCH, Q_LEN, dtype=torch.int32),
        "k_segment_ids": torch.zeros(BATCH, K_LEN, dtype=torch.int32),
        "dout": torch.zeros(BATCH, Q_LEN, HEADS, VALUE_DIM),
        "dlogsumexp": torch.zeros(BATCH, HEADS, Q_LEN),
    }


# What the line says, beside the tensors that are wrong. None: left out.
BAD_TENSORS = [
    (["'q' must be F32 or BF16, found F64"], {"q": torch.zeros(2, 4, 4, 8).double()}),
    (["'q' must be [batch, length, heads, head_dim], found [4, 4, 8]"],
     {"q": torch.zeros(4, 4, 8)}),
    (["no tensor 'v'", "it holds 'bias', 'dlogsumexp'"], {"v": None}),
    (["'k' must be [2, 5, 2, 8] (batch and head_dim of q), found [2, 5, 2, 7]"],
     {"k": torch.zeros(2, 5, 2, 7)}),
    (["'k' must be [2, 5, 2, 8]", "found [3, 5, 2, 8]"], {"k": torch.zeros(3, 5, 2, 8)}),
    (["'v' must be [2, 5, 2, 6] (batch, k_len and kv_heads of k), found [2, 6, 2, 6]"],
     {"v": torch.zeros(2, 6, 2, 6)}),
    (["'v' must be", "found [2, 5, 4, 6]"], {"v": torch.zeros(2, 5, 4, 6)}),
    (["'k' has 3 heads, which do not divide the 4 heads of q"],
     {"k": torch.zeros(2, 5, 3, 8), "v": torch.zeros(2, 5, 3, 6)}),
    (["'v' is BF16, but 'q' is F32: all must have one type"],
     {"v": torch.zeros(2, 5, 2, 6).bfloat16()}),
    (["'dout' is BF16, but 'q' is F32"], {"dout": torch.zeros(2, 4, 4, 6).bfloat16()}),
    (["'q': head_dim must be 1 to 256, found 257"],
     {"q": torch.zeros(2, 4, 4, 257), "k": torch.zeros(2, 5, 2, 257)}),
    (["'v': value_dim must be 1 to 256, found 300"], {"v": torch.zeros(2, 5, 2, 300)}),
    (["'bias' must be F32, found BF16"], {"bias": torch.zeros(1, 4, 4, 5).bfloat16()}),
    (["'bias' must be [1 or 2, 1 or 4, 1 or 4, 5] (1 or batch, 1 or heads, 1 or q_len, k_len), "
      "found [1, 2, 4, 5]"], {"bias": torch.zeros(1, 2, 4, 5)}),
    (["'bias' must be", "found [1, 1, 4, 4]"], {"bias": torch.zeros(1, 1, 4, 4)}),
    (["'bias' must be", "found [1, 1, 4, 1]"], {"bias": torch.zeros(1, 1, 4, 1)}),
    (["'bias' must be", "found [4, 5]"], {"bias": torch.zeros(4, 5)}),
    (["'sinks' must be [4] (heads of q), found [2]"], {"sinks": torch.zeros(2)}),
    (["'sinks' must be F32, found F64"], {"sinks": torch.zeros(4).double()}),
    (["'q_segment_ids' must be I32, found I64"],
     {"q_segment_ids": torch.zeros(2, 4, dtype=torch.int64)}),
    (["'k_segment_ids' must be I32, found F32"], {"k_segment_ids": torch.zeros(2, 5)}),
    (["'q_segment_ids' must be [2, 4] (batch, q_len), found [2, 5]"],
     {"q_segment_ids": torch.zeros(2, 5, dtype=torch.int32)}),
    (["'k_segment_ids' must be [2, 5] (batch, k_len), found [5]"],
     {"k_segment_ids": torch.zeros(5, dtype=torch.int32)}),
    (["'q_segment_ids' in ", "is without 'k_segment_ids': give both, or neither"],
     {"k_segment_ids": None}),
    (["'k_segment_ids' in ", "is without 'q_segment_ids': give both, or neither"],
     {"q_segment_ids": None}),
    (["'dout' must be [2, 4, 4, 6] (as the output), found [2, 4, 4, 8]"],
     {"dout": torch.zeros(2, 4, 4, 8)}),
    (["'dlogsumexp' must be [2, 4, 4] (batch, heads, q_len), found [2, 4, 5]"],
     {"dlogsumexp": torch.zeros(2, 4, 5)}),
    (["'dlogsumexp' must be F32 or BF16, found I32"],
     {"dlogsumexp": torch.zeros(2, 4, 4, dtype=torch.int32)}),
    (["'dlogsumexp' in ", "is without 'dout'"], {"dout": None}),
    (["'mask' in ", "is not known", "expected q, k, v and perhaps"],
     {"mask": torch.zeros(2, 5, 4, 8)}),
    (["'biass' in ", "did you mean 'bias'?"], {"biass": torch.zeros(1)}),
    ([r"'a\x1b[2J'"], {"a\x1b[2J": torch.zeros(1)}),
]

WHOLE = {"q": [0, 4], "k": [0, 5], "type": "full"}
BAD_OPTIONS = [
    (["'casual'", "did you mean 'causal'?", "scale, causal, query_offset, window"],
     {"casual": True}),
    (["'windows'", "did you mean 'window'?"], {"windows": [1, 2]}),
    (["'causal'", "true or false", "'1'"], {"causal": 1}),
    (["'scale'", "that f32 holds", "\"big\""], {"scale": "big"}),
    (["'scale'", "that f32 holds", "1e+300"], {"scale": 1e300}),
    (["'query_offset'", "whole number from -2^60 to 2^60", "0.5"], {"query_offset": 0.5}),
    (["from -2^60 to 2^60"], {"query_offset": 2**64 - 1}),
    (["from -2^60 to 2^60"], {"query_offset": 2**63 - 1}),
    (["from -2^60 to 2^60"], {"query_offset": -(2**60) - 1}),
    (["'window'", "[left, right]", "'3'"], {"window": 3}),
    (["'window'", "[left, right]", "'[3]'"], {"window": [3]}),
    (["'window[0]'", "from 0 to 2^60, or null", "'-1'"], {"window": [-1, 0]}),
    (["'window[1]'", "from 0 to 2^60, or null", "'-2'"], {"window": [None, -2]}),
    (["'window[1]'", "1.5"], {"window": [1, 1.5]}),
    (["'window[0]'"], {"window": [2**63, 0]}),
    (["'causal_block'", "from 1 to 2^60, or 0 for none", "'-4'"], {"causal_block": -4}),
    (["'causal_block'", "true"], {"causal_block": True}),
    (["'softcap'", "from 1.2e-38 to 3.4e38, or 0 for none", "'-30.0'"], {"softcap": -30.0}),
    (["'softcap'"], {"softcap": 1e-300}),
    (["'softcap'"], {"softcap": [50]}),
    (["'alibi_slopes'", "a list of 4 numbers", "'[1,2]'"], {"alibi_slopes": [1, 2]}),
    (["'alibi_slopes'", "a list of 4 numbers", "'0.5'"], {"alibi_slopes": 0.5}),
    (["'alibi_slopes[3]'", "1e+39"], {"alibi_slopes": [1, 2, 3, 1e39]}),
    (["'alibi_slopes[0]'", "null"], {"alibi_slopes": [None, 2, 3, 4]}),
    (["'dropout'", "an object such as {\"p\": 0.1, \"seed\": 7}", "'0.1'"], {"dropout": 0.1}),
    (["'dropout'", "an object such as"], {"dropout": {"seed": 1}}),
    (["'dropout.p'", "0 or more and below 1", "'1'"], {"dropout": {"p": 1}}),
    (["'dropout.p'", "0 or more and below 1", "'-0.1'"], {"dropout": {"p": -0.1}}),
    (["'dropout.p'", "\"half\""], {"dropout": {"p": "half"}}),
    (["'dropout.seed'", "from 0 to 2^64 - 1", "'-1'"], {"dropout": {"p": 0.1, "seed": -1}}),
    (["'rate' of 'dropout'", "may be p, seed"], {"dropout": {"p": 0.1, "rate": 1}}),
    (["'slices'", "a list of slices; [] shows nothing"], {"slices": WHOLE}),
    (["'slices[1]'", "an object such as", "'7'"], {"slices": [WHOLE, 7]}),
    (["'slices[0]'", "an object such as"], {"slices": [{"q": [0, 4], "k": [0, 5]}]}),
    (["'slices[0].q'", "0 <= begin <= end <= 4", "'[0,5]'"], {"slices": [WHOLE | {"q": [0, 5]}]}),
    (["'slices[0].q'", "'[-1,3]'"], {"slices": [WHOLE | {"q": [-1, 3]}]}),
    (["'slices[0].k'", "0 <= begin <= end <= 5", "'[0,6]'"], {"slices": [WHOLE | {"k": [0, 6]}]}),
    (["'slices[0].k'", "'[3,2]'"], {"slices": [WHOLE | {"k": [3, 2]}]}),
    (["'slices[0].k'", "'[0]'"], {"slices": [WHOLE | {"k": [0]}]}),
    (["'slices[1].head'", "from 0 to 3", "'4'"], {"slices": [WHOLE, WHOLE | {"head": 4}]}),
    (["'slices[0].head'", "'-1'"], {"slices": [WHOLE | {"head": -1}]}),
    (["'slices[0].type'", '"full" or "causal" or "inverse_causal" or "both"', '"diagonal"'],
     {"slices": [WHOLE | {"type": "diagonal"}]}),
    (["'heads' of 'slices[0]'", "did you mean 'head'?"], {"slices": [WHOLE | {"heads": 1}]}),
    (["'dump_stats'", "true or false"], {"dump_stats": "yes"}),
    (["'dump_dropout_mask'", "true or false"], {"dump_dropout_mask": 1}),
]


class BadInput(support.TestCase):
    def setUp(self):
        super().setUp()
        self.inputs = self.folder / "in.safetensors"
        self.options = self.folder / "options.json"
        self.out = self.folder / "out.safetensors"
        self.options.write_text("{}")
        safetensors.torch.save_file(good_tensors(), self.inputs)

    def attend(self, *arguments, ranks=None):
        mesh = () if ranks else ("--ring", 2)
        return support.ringwise(
            "attention", "--inputs", self.inputs, "--options", self.options, "--out", self.out,
            "--threads", 1, *mesh, *arguments, ranks=ranks, timeout=60)

    def write_tensors(self, changes):
        tensors = {name: tensor for name, tensor in (good_tensors() | changes).items()
                   if tensor is not None}
        safetensors.torch.save_file(tensors, self.inputs)

    def refused(self, code, says, *arguments):
        with self.subTest(says=says):
            self.assert_one_line_error(self.attend(*arguments), code, *says)
            self.assertFalse(self.out.exists())

    def refused_by_mpi(self, code, says):
        """One of two processes says it, once, and the job ends with the code."""
        with self.subTest(says=says):
            result = self.attend(ranks=2)
            self.assertEqual(result.returncode, code, result.stderr)
            said = [line for line in result.stderr.splitlines() if "ringwise:" in line]
            self.assertEqual(len(said), 1, result.stderr)
            for text in says:
                self.assertIn(text, said[0])
            self.assertFalse(self.out.exists())

    def test_the_good_call_works(self):
        self.options.write_text(json.dumps(
            {"window": [None, 3], "slices": [WHOLE | {"head": 3}], "causal_block": 0,
             "softcap": 0, "dropout": None, "scale": 0, "alibi_slopes": [1, 2, 3, 4]}))
        self.assertEqual(self.attend().returncode, 0)

    def test_tensors(self):
        for says, changes in BAD_TENSORS:
            self.write_tensors(changes)
            self.refused(FAILED, says)

    def test_options(self):
        for says, options in BAD_OPTIONS:
            self.options.write_text(json.dumps(options))
            self.refused(BAD_USAGE, ["options.json", *says])

    def test_under_mpirun(self):
        for says, changes in BAD_TENSORS[3::9]:
            self.write_tensors(changes)
            self.refused_by_mpi(FAILED, says)
        self.write_tensors({})
        for says, options in BAD_OPTIONS[::9]:
            self.options.write_text(json.dumps(options))
            self.refused_by_mpi(BAD_USAGE, says)
        result = self.attend("--ring", "-1", ranks=2)
        said = [line for line in result.stderr.splitlines() if "ringwise:" in line]
        self.assertEqual(said, ["ringwise: --ring: must be 0 or more, found -1"])

    def test_options_files(self):
        for text, code, says in (
            ("causal", FAILED, "not JSON at byte 1"),
            ('{"scale": 1e400}', FAILED, "a number too large"),
            ("[true]", FAILED, "expected a JSON object"),
            ('{"causal": true, "causal": false}', BAD_USAGE, "'causal' in "),
            ('{"dropout": {"p": 0.1, "p": 0.2}}', BAD_USAGE, "'p' in "),
            ('{"slices": [{"q": [0, 1], "q": [0, 2]}]}', BAD_USAGE, "'q' in "),
            ('{"slices": ' + "[" * 200_000 + "]" * 200_000 + "}", FAILED, "nest more than 16 deep"),
        ):
            self.options.write_text(text)
            self.refused(code, ["options.json", says])
        for missing in (self.folder, self.folder / "none.json"):
            result = support.ringwise("attention", "--inputs", self.inputs, "--out", self.out,
                                      "--options", missing)
            self.assert_one_line_error(result, FAILED, missing)

    def test_flags(self):
        layouts = "must be contiguous, striped or zigzag"
        whole = "must be a whole number"
        for flag, value, may_be in (
            ("--layout", "spiral", layouts), ("--key-layout", "spiral", layouts),
            ("--ring", "-1", "must be 0 or more"), ("--ring", "nan", whole),
            ("--ring", "1.5", whole), ("--ring", "9" * 30, whole), ("--dtype", "f16", "f32"),
            ("--threads", "-2", "must be 0 or more"), ("--threads", "two", whole),
            ("--timeout", "0", "must be above 0"), ("--timeout", "soon", "must be a number"),
        ):
            result = support.ringwise("attention", "--inputs", self.inputs, "--out", self.out,
                                      flag, value)
            self.assert_one_line_error(result, BAD_USAGE, flag + ":", may_be, value)
        result = support.ringwise("attention", "--inputs", "none.st", "--out", self.out)
        self.assert_one_line_error(result, FAILED, "none.st")

    def test_dropout_masks_too_large_to_dump(self):
        length = 2**14 + 1
        safetensors.torch.save_file({name: torch.zeros(1, length, 1, 1) for name in "qkv"},
                                    self.inputs)
        self.options.write_text('{"dump_dropout_mask": true}')
        self.refused(BAD_USAGE, ["'dump_dropout_mask'", "at most 2^28", str(length**2)])

    def test_named_pipes(self):
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        arguments = ("attention", "--inputs", self.inputs, "--threads", 1)
        for given in (
            ("--out", self.out, "--options", pipe),
            ("--out", self.out, "--config", pipe),
            ("--out", pipe),
        ):
            result = support.ringwise(*arguments, *given, timeout=60)
            self.assert_one_line_error(result, FAILED, pipe, "not a regular file")

    def test_sizes_that_no_byte_backs(self):
        """A small file can claim any extents for tensors that are empty."""
        huge = 2**40
        for shape in (
            [0, huge, 2, 8], [1, huge, 0, 8], [1, huge, 2, 0], [1, 0, huge, 8], [huge, 0, 2, 8],
            [2**30, 0, 2**30, 8],
        ):
            entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
            header = json.dumps({name: entry for name in "qkv"}).encode()
            self.inputs.write_bytes(struct.pack("<Q", len(header)) + header)
            self.refused(FAILED, ["'q'", str(shape), "1 or more"])


if __name__ == "__main__":
    support.main()
