"""The contract of `ringwise attention` in PyTorch: random cases, and what they must give.

The formula is docs/attention.md's, written with whole matrices. Gradients come from autograd
in float64; only the scales they are measured on, and bf16 as plainly computed, are written out.
"""

import math

import torch


def random_case(generator, dtype):
    """Shapes, options and ring of one case; bf16 cases are large, for an RMS to mean something."""
    small = dtype == "f32"
    kv_heads = generator.choice([1, 2, 3] if small else [1, 2])
    lengths = [0, 1, 2, 3, 5, 17, 33, 64, 113] if small else [150, 257, 300]
    dims = [1, 3, 16, 64, 80, 128, 256] if small else [32, 64, 100]
    k_len = generator.choice(lengths)
    case = {
        "batch": generator.choice([1, 2]),
        "q_len": k_len if generator.random() < 0.6 else generator.choice(lengths),
        "k_len": k_len,
        "heads": kv_heads * generator.choice([1, 2, 3]),
        "kv_heads": kv_heads,
        "head_dim": generator.choice(dims),
        "gradients": generator.random() < 0.85,
        "documents": generator.choice([0, 0, 0, 1, 4]),
        "bias": generator.choice([None, None, "", "b", "h", "q", "bh", "bhq", "bhq"]),
        "sinks": generator.random() < 0.25,
        "dlogsumexp": generator.random() < 0.4,
        "dtype": dtype,
        "ring": generator.randrange(1, 7),
        "layout": generator.choice(["contiguous", "striped", "zigzag"]),
        "key_layout": generator.choice(["contiguous", "striped", "zigzag", None]),
        "threads": generator.choice([1, 2]),
    }
    case["value_dim"] = case["head_dim"] if generator.random() < 0.6 else generator.choice(dims)
    case["options"] = random_options(generator, case)
    return case


def random_options(generator, case):
    q_len, k_len, heads = case["q_len"], case["k_len"], case["heads"]

    def chance(probability):
        return generator.random() < probability

    options = {"causal": chance(0.5)}
    if chance(0.3):
        options["scale"] = generator.choice([0, 0.05, 0.3, -0.2])
    if chance(0.3):
        options["query_offset"] = generator.randrange(-k_len - 2, k_len + 3)
    if chance(0.3):
        options["window"] = [
            None if chance(0.3) else generator.randrange(k_len // 2 + 2) for _ in range(2)
        ]
    if chance(0.15):
        options["causal_block"] = generator.randrange(1, k_len // 2 + 3)
    if chance(0.2):
        options["slices"] = [
            random_slice(generator, q_len, k_len, heads) for _ in range(generator.randrange(6))
        ]
    if chance(0.25):
        options["softcap"] = generator.choice([0.5, 3, 30])
    if chance(0.25):
        furthest = 3 * (q_len + k_len + 1)
        options["alibi_slopes"] = [generator.uniform(-5, 10) / furthest for _ in range(heads)]
    if chance(0.25):
        options["dropout"] = {
            "p": generator.choice([0.1, 0.5, 0.9]), "seed": generator.randrange(2**31)}
        options["dump_dropout_mask"] = True
    return options


def random_slice(generator, q_len, k_len, heads):
    def interval(length):
        begin = generator.randrange(length + 1)
        return [begin, generator.randrange(begin, length + 1)]

    drawn = {
        "q": interval(q_len),
        "k": interval(k_len),
        "type": generator.choice(["full", "causal", "inverse_causal", "both"]),
    }
    if generator.random() < 0.4:
        drawn["head"] = generator.randrange(heads)
    return drawn


def random_ids(generator, batch, length, documents):
    """Documents of random lengths; ids come again, and -1 is padding."""
    rows = []
    for _ in range(batch):
        row = []
        while len(row) < length:
            run = 1 + int(torch.randint(0, 1 + length // documents, (1,), generator=generator))
            row += [int(torch.randint(-1, documents, (1,), generator=generator))] * run
        rows.append(row[:length])
    return torch.tensor(rows, dtype=torch.int32).reshape(batch, length)


def random_tensors(case, seed):
    """The input file's tensors. Where results have few elements numbers are positive: all of them
    may else happen to cancel, and then be no scale of their own error."""
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float32 if case["dtype"] == "f32" else torch.bfloat16
    batch, heads = case["batch"], case["heads"]
    few = batch * min(case["q_len"] * heads, case["k_len"]) * case["value_dim"] < 128

    def normal(*shape, dtype=torch.float32):
        drawn = torch.randn(shape, generator=generator)
        return (drawn.abs() if few else drawn).to(dtype)

    tensors = {
        "q": normal(batch, case["q_len"], heads, case["head_dim"], dtype=dtype),
        "k": normal(batch, case["k_len"], case["kv_heads"], case["head_dim"], dtype=dtype),
        "v": normal(batch, case["k_len"], case["kv_heads"], case["value_dim"], dtype=dtype),
    }
    if case["gradients"]:
        tensors["dout"] = normal(batch, case["q_len"], heads, case["value_dim"], dtype=dtype)
        if case["dlogsumexp"]:
            tensors["dlogsumexp"] = normal(batch, heads, case["q_len"])
    if case["bias"] is not None:
        extents = [extent if axis in case["bias"] else 1
                   for axis, extent in zip("bhq", (batch, heads, case["q_len"]))]
        bias = normal(*extents, case["k_len"])
        bias[torch.rand(bias.shape, generator=generator) < 0.05] = -math.inf
        tensors["bias"] = bias
    if case["sinks"]:
        tensors["sinks"] = normal(heads)
    if case["documents"]:
        tensors["k_segment_ids"] = random_ids(generator, batch, case["k_len"], case["documents"])
        tensors["q_segment_ids"] = (
            tensors["k_segment_ids"].clone() if case["q_len"] == case["k_len"]
            else random_ids(generator, batch, case["q_len"], case["documents"]))
    return tensors


def scale_of(case):
    return case["options"].get("scale", case["head_dim"] ** -0.5)


def positions_of(case):
    """Those of queries as a column, those of keys as a row."""
    offset = case["options"].get("query_offset", case["k_len"] - case["q_len"])
    return torch.arange(case["q_len"])[:, None] + offset, torch.arange(case["k_len"])[None, :]


def slice_visible(drawn, q_len, k_len):
    i, j = torch.arange(q_len)[:, None], torch.arange(k_len)[None, :]
    (q0, q1), (k0, k1) = drawn["q"], drawn["k"]
    visible = (i >= q0) & (i < q1) & (j >= k0) & (j < k1)
    if drawn["type"] in ("causal", "both"):
        visible &= j - k1 <= i - q1
    if drawn["type"] in ("inverse_causal", "both"):
        visible &= j - k0 >= i - q0
    return visible


def visible_of(case, tensors):
    """[batch, heads, q_len, k_len]: which keys a query sees."""
    options = case["options"]
    i, j = positions_of(case)
    shape = (case["batch"], case["heads"], case["q_len"], case["k_len"])
    visible = torch.ones(shape, dtype=torch.bool)
    if options["causal"]:
        visible &= j <= i
    left, right = options.get("window", (None, None))
    if left is not None:
        visible &= j >= i - left
    if right is not None:
        visible &= j <= i + right
    if "causal_block" in options:
        block = options["causal_block"]
        visible &= (torch.div(j, block, rounding_mode="floor")
                    <= torch.div(i, block, rounding_mode="floor"))
    if "q_segment_ids" in tensors:
        q_ids, k_ids = tensors["q_segment_ids"][:, :, None], tensors["k_segment_ids"][:, None, :]
        visible &= ((q_ids == k_ids) & (q_ids >= 0))[:, None]
    if "slices" in options:
        union = torch.zeros(shape, dtype=torch.bool)
        for drawn in options["slices"]:
            heads = slice(drawn["head"], drawn["head"] + 1) if "head" in drawn else slice(None)
            union[:, heads] |= slice_visible(drawn, case["q_len"], case["k_len"])
        visible &= union
    return visible


def by_head(tensor, heads):
    """[batch, length, heads, head_dim] -> [batch, heads, length, head_dim], heads repeated."""
    tensor = tensor.transpose(1, 2)
    return tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def scores_of(case, products, bias):
    """The scores before the mask, of products scale q.k."""
    options = case["options"]
    scores = products
    if options.get("softcap"):
        scores = options["softcap"] * torch.tanh(scores / options["softcap"])
    if "alibi_slopes" in options:
        i, j = positions_of(case)
        # As f32, in which the program holds them.
        slopes = torch.tensor(options["alibi_slopes"], dtype=torch.float32).to(scores.dtype)
        scores = scores - slopes[:, None, None] * (i - j).abs()
    return scores if bias is None else scores + bias


def softmax(scores, visible, sinks):
    """Probabilities of the keys and logsumexp; rows that see nothing give 0 and -inf."""
    sink = torch.full(scores.shape[:-1] + (1,), -math.inf, dtype=scores.dtype)
    if sinks is not None:
        sink = sinks[:, None, None].expand(sink.shape)
    scores = torch.cat([scores.masked_fill(~visible, -math.inf), sink], dim=-1)
    empty = scores.isneginf().all(-1, keepdim=True)
    scores = scores.masked_fill(empty, 0.0)
    p = torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)
    return p[..., :-1], torch.logsumexp(scores, dim=-1).masked_fill(empty[..., 0], -math.inf)


def dropout_factors(case, dropout_mask, dtype):
    if dropout_mask is None:
        return torch.ones((), dtype=dtype)
    return dropout_mask.to(dtype) / (1 - case["options"]["dropout"]["p"])


def reference(case, tensors, dropout_mask=None):
    """Results in float64 by autograd."""
    names = [name for name in ("q", "k", "v", "bias", "sinks") if name in tensors]
    leaves = {name: tensors[name].double().requires_grad_() for name in names}
    heads = case["heads"]
    products = scale_of(case) * by_head(leaves["q"], heads) @ by_head(
        leaves["k"], heads).transpose(2, 3)
    p, logsumexp = softmax(scores_of(case, products, leaves.get("bias")),
                           visible_of(case, tensors), leaves.get("sinks"))
    dropped = p * dropout_factors(case, dropout_mask, p.dtype)
    out = (dropped @ by_head(leaves["v"], heads)).transpose(1, 2)
    results = {"out": out.detach(), "logsumexp": logsumexp.detach()}
    if not case["gradients"]:
        return results
    loss = (out * tensors["dout"].double()).sum()
    if "dlogsumexp" in tensors:
        seen = logsumexp.masked_fill(logsumexp.isneginf(), 0.0)
        loss = loss + (seen * tensors["dlogsumexp"].double()).sum()
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients):
        results[f"d{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return results


def of_kv_heads(case, tensor):
    """Sums over the heads that share one: [batch, heads, ...] -> [batch, length, kv_heads, ...]."""
    kv_heads = case["kv_heads"]
    return tensor.unflatten(1, (kv_heads, case["heads"] // kv_heads)).sum(2).transpose(1, 2)


def summed_as(tensor, shape):
    """Sums over the axes along which a tensor of that shape is broadcast."""
    axes = [axis for axis in range(3) if shape[axis] == 1]
    return tensor.sum(dim=axes, keepdim=True) if axes else tensor


class WrittenOut:
    """Forward and backward without autograd, in `dtype`, operands of products made by `operand`."""

    def __init__(self, case, tensors, dropout_mask, dtype, operand):
        heads = case["heads"]
        self.case, self.operand, self.tensors = case, operand, tensors
        self.q, self.k, self.v, self.dout = (
            by_head(tensors[name].to(dtype), heads) for name in ("q", "k", "v", "dout"))
        bias, sinks = (tensors[name].to(dtype) if name in tensors else None
                       for name in ("bias", "sinks"))
        products = scale_of(case) * (self.q @ self.k.transpose(2, 3))
        visible = visible_of(case, tensors)
        self.p, self.logsumexp = softmax(scores_of(case, products, bias), visible, sinks)
        self.sink_p = None
        if sinks is not None:
            self.sink_p = torch.exp(sinks[:, None] - self.logsumexp)
        softcap = case["options"].get("softcap")
        self.slope = 1 / torch.cosh(products / softcap) ** 2 if softcap else torch.ones_like(products)
        self.dropout = dropout_factors(case, dropout_mask, dtype)
        self.dp = self.dropout * (self.dout @ self.v.transpose(2, 3))
        self.dlogsumexp = torch.zeros_like(self.logsumexp)
        if "dlogsumexp" in tensors:
            self.dlogsumexp = tensors["dlogsumexp"].to(dtype)

    def results(self):
        weights = self.operand(self.p * self.dropout)
        delta = (self.p * self.dp).sum(-1) - self.dlogsumexp
        results = self._gradients(self.p * (self.dp - delta[..., None]), scale_of(self.case),
                                  self.q, self.k, -delta)
        results["out"] = (weights @ self.v).transpose(1, 2)
        results["dv"] = of_kv_heads(self.case, weights.transpose(2, 3) @ self.dout)
        return results

    def terms(self):
        """Sums of absolute terms: what gradients come to if nothing cancels."""
        row = (self.p * self.dp.abs()).sum(-1) + self.dlogsumexp.abs()
        terms = self._gradients(self.p * (self.dp.abs() + row[..., None]), abs(scale_of(self.case)),
                                self.q.abs(), self.k.abs(), row)
        weights = self.p * self.dropout
        terms["out"] = (weights @ self.v.abs()).transpose(1, 2)
        terms["dv"] = of_kv_heads(self.case, weights.transpose(2, 3) @ self.dout.abs())
        return terms

    def _gradients(self, ds, scale, q, k, of_sink):
        products = self.operand(ds * self.slope)
        results = {
            "dq": (scale * (products @ k)).transpose(1, 2),
            "dk": of_kv_heads(self.case, scale * (products.transpose(2, 3) @ q)),
        }
        if "bias" in self.tensors:
            results["dbias"] = summed_as(ds, self.tensors["bias"].shape)
        if self.sink_p is not None:
            results["dsinks"] = (self.sink_p * of_sink).sum((0, 2))
        return results


def absolute_terms(case, tensors, dropout_mask=None):
    return WrittenOut(case, tensors, dropout_mask, torch.float64, lambda tensor: tensor).terms()


def plain_bf16(case, tensors, dropout_mask=None):
    """The formula as plainly computed: bf16 operands, float32 sums, one rounding at the end."""

    def rounded(tensor):
        return tensor.bfloat16().float()

    results = WrittenOut(case, tensors, dropout_mask, torch.float32, rounded).results()
    return {name: rounded(tensor) for name, tensor in results.items()}
