"""JAX ringattention, the paper's own program: devices of one process."""

import os
import sys

# Read once, when JAX starts.
ranks = sys.argv[sys.argv.index("--ranks") + 1]
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={ranks}"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_TRACEBACK_FILTERING"] = "off"  # so that an error ends with what it says

import functools  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy  # noqa: E402
import worker  # noqa: E402
from jax.experimental.shard_map import shard_map  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402
from ringattention import ringattention_jax  # noqa: E402

SHARDED = PartitionSpec(None, "ring", None, None)


class RingAttention(worker.Rival):
    packages = ("jax", "ringattention")
    cannot = (RuntimeError,)  # XLA has no bf16 product for some shapes of few rows

    def __init__(self, options):
        super().__init__(options)
        self.dtype = {"f32": jnp.float32, "bf16": jnp.bfloat16}[options.dtype]
        self.mesh = Mesh(numpy.array(jax.devices()[: options.ranks]), ("ring",))
        self.calls = {}

    def ways(self, tokens):
        part = tokens // self.options.ranks
        pairs = [(256, 256), (512, 512), (512, 1024), (1024, 1024), (2048, 2048)]
        pairs = [pair for pair in pairs if max(pair) <= part] or [(part // 2, part // 2)]
        wide = [False] if self.options.dtype == "f32" else [False, True]
        return [
            {"query_chunk_size": query, "key_chunk_size": key, "float32_logits": float32}
            for query, key in pairs
            for float32 in wide
        ]

    def compiled(self, way):
        """(forward, forward_backward) of the whole ring."""
        key = tuple(way.values())
        if key in self.calls:
            return self.calls[key]
        blockwise = {
            "causal_block_size": 1,
            "query_chunk_size": way["query_chunk_size"],
            "key_chunk_size": way["key_chunk_size"],
            "deterministic": True,
            "dropout_rng": None,
            "attn_pdrop": 0.0,
            "dtype": self.dtype,
            "policy": jax.checkpoint_policies.nothing_saveable,
            "precision": None,
            "prevent_cse": False,
        }

        @functools.partial(
            shard_map, mesh=self.mesh, in_specs=(SHARDED,) * 3, out_specs=SHARDED, check_rep=False
        )
        def attend(query, key, value):
            return ringattention_jax(
                query, key, value, None, None, None, "ring", way["float32_logits"], blockwise
            )

        def with_gradients(query, key, value, output_gradient):
            output, pullback = jax.vjp(attend, query, key, value)
            return [output, *pullback(output_gradient)]

        self.calls[key] = jax.jit(lambda *inputs: [attend(*inputs)]), jax.jit(with_gradients)
        return self.calls[key]

    def load(self, way, *arrays):
        sharding = NamedSharding(self.mesh, SHARDED)
        self.inputs = [
            jax.device_put(jnp.asarray(array[None], self.dtype), sharding) for array in arrays
        ]
        self.way = way

    def forward(self):
        return jax.block_until_ready(self.compiled(self.way)[0](*self.inputs[:3]))

    def forward_backward(self):
        return jax.block_until_ready(self.compiled(self.way)[1](*self.inputs))

    def as_numpy(self, result):
        return numpy.asarray(result.astype(jnp.float32))[0]


if __name__ == "__main__":
    worker.serve(RingAttention)
