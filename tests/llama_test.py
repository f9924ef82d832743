"""The model against transformers' LlamaForCausalLM, and with a window MistralForCausalLM, with the
same weights: logits, loss, and the gradient of every parameter, through folders that
save_pretrained wrote."""

import itertools
import pathlib
import tempfile

import safetensors.numpy
import safetensors.torch
import support
import torch
import transformers

SEED = 20260
# Relative to each tensor's largest magnitude: the project's bound for a model in f32.
BOUND = 1e-4

SHAPES = {
    "grouped queries, odd feed-forward": dict(
        hidden_size=48, intermediate_size=77, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, vocab_size=131,
    ),
    "one key/value head, tied": dict(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=1, vocab_size=257, tie_word_embeddings=True,
    ),
    "heads wider than hidden / heads": dict(
        hidden_size=40, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=32, vocab_size=50, rope_theta=500000.0,
    ),
    "a window": dict(
        hidden_size=48, intermediate_size=77, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=10, vocab_size=131, sliding_window=19,
    ),
}


class Case:
    """A random model, its folder and inputs, and what PyTorch computes from them."""

    def __init__(self, folder, sizes, batch=2, seq=83):
        self.folder = pathlib.Path(folder)
        torch.manual_seed(SEED)
        family = "Mistral" if "sliding_window" in sizes else "Llama"
        config = getattr(transformers, f"{family}Config")(
            max_position_embeddings=512, rms_norm_eps=1e-5, attn_implementation="eager", **sizes
        )
        model = getattr(transformers, f"{family}ForCausalLM")(config).float()
        with torch.no_grad():
            # Away from the usual start, so that every term of every gradient matters.
            for name, parameter in model.named_parameters():
                if "norm" in name:
                    parameter.normal_(1, 0.3)
                else:
                    parameter.normal_(0, 0.12)
        model.save_pretrained(self.folder)
        self.tokens = torch.randint(0, config.vocab_size, (batch, seq))
        self.targets = torch.randint(0, config.vocab_size, (batch, seq))
        self.targets[:, ::5] = -100
        self.inputs = self.folder / "inputs.safetensors"
        safetensors.torch.save_file(
            {"tokens": self.tokens.int(), "targets": self.targets.int()}, self.inputs
        )
        self.expected = self.torch_pass(model)
        self.expected_bf16 = self.torch_pass(model.bfloat16())

    def torch_pass(self, model):
        model.zero_grad()
        logits = model(self.tokens).logits.float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), self.targets.flatten())
        loss.backward()
        values = {"loss": loss.detach().reshape(1), "logits": logits.detach().clone()}
        for name, parameter in model.named_parameters():
            values[name] = parameter.grad.float().clone()
        return values

    def probe(self, ring=1, layout="contiguous", recompute="attention", dtype="f32", threads=1):
        out = self.folder / "out.safetensors"
        support.run("llama_probe", self.folder, self.inputs, out, ring, layout, recompute, dtype,
                    threads, check=True)
        return safetensors.numpy.load_file(out)


class Llama(support.TestCase):
    @classmethod
    def setUpClass(cls):
        print("seed", SEED)
        cls.temporary = tempfile.TemporaryDirectory()
        cls.cases = {}
        for index, (name, sizes) in enumerate(SHAPES.items()):
            folder = pathlib.Path(cls.temporary.name) / str(index)
            cls.cases[name] = Case(folder, sizes)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def compare(self, actual, expected):
        self.assertEqual(set(actual), set(expected))
        for name, reference in expected.items():
            error = support.largest_error(actual[name], reference)
            self.assertLessEqual(error, BOUND, name)

    def test_every_shape_and_recomputation(self):
        for (name, case), recompute in itertools.product(
            self.cases.items(), ["none", "attention", "block"]
        ):
            with self.subTest(shape=name, recompute=recompute):
                self.compare(case.probe(recompute=recompute, threads=2), case.expected)

    def test_every_ring_and_layout(self):
        for name, ring, layout in itertools.product(
            ["grouped queries, odd feed-forward", "a window"], [2, 3],
            ["contiguous", "striped", "zigzag"]
        ):
            case = self.cases[name]
            with self.subTest(shape=name, ring=ring, layout=layout):
                self.compare(case.probe(ring=ring, layout=layout), case.expected)

    def test_bf16_is_as_near_as_pytorch_in_bf16(self):
        """Both round weights, activations and gradients to bf16 in slightly different places, so
        their errors against f32 have the same size: root mean square within a factor of 1.5."""
        for name, case in self.cases.items():
            actual = case.probe(dtype="bf16", ring=2, layout="striped")
            self.assertEqual(set(actual), set(case.expected))
            for tensor, reference in case.expected.items():
                with self.subTest(shape=name, tensor=tensor):
                    if tensor == "loss":
                        self.assertLess(abs(actual[tensor][0] - reference.item()),
                                        0.01 * reference.item())
                        continue
                    reference = reference.double()
                    theirs = (case.expected_bf16[tensor].double() - reference).square().mean()
                    ours = (torch.from_numpy(actual[tensor]).double() - reference).square().mean()
                    self.assertTrue(torch.isfinite(ours))
                    self.assertLess(ours.sqrt().item(), 1.5 * theirs.sqrt().item())


if __name__ == "__main__":
    support.main()
