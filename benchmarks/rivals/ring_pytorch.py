"""ring-attention-pytorch, its program for CPUs: processes that exchange by gloo."""

import os

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch  # noqa: E402
import torch.distributed  # noqa: E402
import worker  # noqa: E402
from ring_attention_pytorch import ring_flash_attention, ring_flash_attn  # noqa: E402

# Version 0.5.20 takes the pair (received, sent) that ring_pass returns for (dk, dv), which is wrong
# on CPUs. What was received is (dk, dv): with it the gradients are right, at the same cost.
ring_pass = ring_flash_attention.ring_pass
ring_flash_attention.ring_pass = lambda passes, dkv: ring_pass(passes, dkv)[0]


class RingFlashAttention(worker.Rival):
    packages = ("torch", "ring-attention-pytorch")

    def __init__(self, options):
        super().__init__(options)
        torch.set_num_threads(options.threads)
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{options.meet}",
            rank=options.rank,
            world_size=options.ranks,
        )

    def rows(self, tokens):
        part = tokens // self.options.ranks
        return slice(self.options.rank * part, (self.options.rank + 1) * part)

    def ways(self, tokens):
        part = tokens // self.options.ranks
        sizes = [size for size in (256, 512, 1024, 2048) if size <= part] or [part // 2]
        return [{"bucket_size": size} for size in sizes]

    def load(self, way, *arrays):
        tensors = [torch.from_numpy(array).to(self.dtype)[None] for array in arrays]
        self.inputs, self.output_gradient = tensors[:3], tensors[3]
        self.way = way

    def attend(self, inputs):
        return ring_flash_attn(
            *inputs, causal=True, ring_reduce_col=True, ring_size=self.options.ranks, **self.way
        )

    def forward(self):
        with torch.no_grad():
            return [self.attend(self.inputs)]

    def forward_backward(self):
        inputs = [tensor.detach().requires_grad_() for tensor in self.inputs]
        output = self.attend(inputs)
        return [output, *torch.autograd.grad(output, inputs, self.output_gradient)]

    def as_numpy(self, result):
        return result.detach()[0].float().numpy()

    def barrier(self):
        torch.distributed.barrier()

    def agreed(self, index):
        indices = torch.tensor([index])
        torch.distributed.broadcast(indices, 0)
        return int(indices)


if __name__ == "__main__":
    worker.serve(RingFlashAttention)
