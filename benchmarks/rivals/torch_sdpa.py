"""PyTorch's scaled_dot_product_attention on the CPU, which takes its own flash attention."""

import torch
import worker


class ScaledDotProductAttention(worker.Rival):
    packages = ("torch",)

    def __init__(self, options):
        super().__init__(options)
        torch.set_num_threads(options.threads)
        self.dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[options.dtype]

    def ways(self, tokens):
        # As a projection leaves them, or each head's rows together.
        return [{"memory": "tokens, heads"}, {"memory": "heads, tokens"}]

    def load(self, way, *arrays):
        tensors = [torch.from_numpy(array).to(self.dtype)[None].transpose(1, 2) for array in arrays]
        if way["memory"] == "heads, tokens":
            tensors = [tensor.contiguous() for tensor in tensors]
        self.inputs, self.output_gradient = tensors[:3], tensors[3]

    def forward(self):
        with torch.inference_mode():
            return [torch.nn.functional.scaled_dot_product_attention(*self.inputs, is_causal=True)]

    def forward_backward(self):
        inputs = [tensor.detach().requires_grad_() for tensor in self.inputs]
        output = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=True)
        return [output, *torch.autograd.grad(output, inputs, self.output_gradient)]

    def as_numpy(self, result):
        return result.detach()[0].transpose(0, 1).float().numpy()


if __name__ == "__main__":
    worker.serve(ScaledDotProductAttention)
