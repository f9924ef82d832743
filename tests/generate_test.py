"""`ringwise generate` and `ringwise eval` against transformers with the same weights."""

import json
import math
import pathlib
import shutil
import subprocess

import numpy
import torch
import transformers

import support

SEPARATOR = 256
SEED = 4


def make_model(folder, seed=SEED, dtype=torch.float32, shard="1GB", **changes):
    """A random Llama (a Mistral, if it has a window), its weights large enough that what it says depends on all of the prompt."""
    torch.manual_seed(seed)
    fields = {
        "vocab_size": 257,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rope_theta": 5000.0,
        "tie_word_embeddings": False,
        "initializer_range": 0.15,
        "bos_token_id": SEPARATOR,
        "eos_token_id": SEPARATOR,
    }
    family = "Mistral" if "sliding_window" in changes else "Llama"
    config = getattr(transformers, f"{family}Config")(**{**fields, **changes})
    kind = getattr(transformers, f"{family}ForCausalLM")
    kind(config).to(dtype).save_pretrained(folder, max_shard_size=shard)
    # Read back: casting the model also rounds its rotary frequencies, which no file holds.
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def continuation(model, prompt, count):
    """The greedy continuation by transformers, and the smallest lead of a winner over the next."""
    with torch.no_grad():
        result = model.generate(
            torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=SEPARATOR,
            output_scores=True,
            return_dict_in_generate=True,
        )
    tokens = result.sequences[0, len(prompt) :].tolist()
    if SEPARATOR in tokens:
        tokens = tokens[: tokens.index(SEPARATOR)]
    leads = [torch.topk(scores[0], 2).values for scores in result.scores]
    return bytes(tokens), min(float(lead[0] - lead[1]) for lead in leads)


def generate(*arguments, ranks=None):
    """stdout as bytes, for the text need not be UTF-8; and stderr."""
    line = support.command("ringwise", "generate", *arguments, ranks=ranks)
    result = subprocess.run(
        line, capture_output=True, env=support.environment(), timeout=300, check=False
    )
    if result.returncode != 0:
        raise AssertionError(f"exit {result.returncode}: {line}\n{result.stderr.decode()}")
    return result.stdout, result.stderr.decode()


RINGS = [(1, "zigzag"), (2, "zigzag"), (2, "striped"), (3, "zigzag"), (3, "contiguous")]


class Generate(support.TestCase):
    def check(self, prompt, count=40, ranks=None, rings=RINGS, **changes):
        """The greedy continuation on several rings against transformers'."""
        folder = self.folder / "model"
        for seed in range(SEED, SEED + 20):  # until no two tokens are nearly as likely
            model = make_model(folder, seed, **changes)
            # The document separator stands before an empty prompt.
            expected, lead = continuation(model, prompt or [SEPARATOR], count)
            if lead > 1e-3:
                break
        print(f"seed {seed}: {expected[:20]}..., least lead {lead:.1e}")
        self.assertGreater(lead, 1e-3)
        path = self.folder / "prompt"
        path.write_bytes(bytes(prompt))
        for ring, layout in rings:
            arguments = ["--model", folder, "--prompt-file", path, "--max-tokens", count]
            arguments += ["--dtype", "f32", "--ring", ring, "--layout", layout, "--threads", 1]
            text, figures = generate(*arguments, ranks=ring if ranks else None)
            self.assertEqual(text, expected, f"ring {ring}, {layout}")
            self.assertIn(f"prompt: {len(prompt)} tokens", figures)
            self.assertIn(f"new: {len(expected)} tokens", figures)
        return model

    def test_greedy_equals_transformers(self):
        self.check(b"The quick brown fox jumps over the lazy dog. " * 3)

    def test_under_mpirun(self):
        self.check(b"A prompt around processes", ranks=True, rings=[(2, "zigzag"), (3, "striped")])

    def test_a_window(self):
        for window in (2, 13):
            self.check(b"A prompt that is longer than the window", sliding_window=window)

    def test_tied_and_multi_query(self):
        self.check(b"int main()", tie_word_embeddings=True, num_key_value_heads=1)

    def test_without_grouping_in_half_precision_and_shards(self):
        for dtype in (torch.bfloat16, torch.float16):
            self.check(
                bytes(range(256)),
                dtype=dtype,
                shard="50KB",
                num_key_value_heads=4,
                rings=[(1, "zigzag"), (3, "zigzag")],
            )
            self.assertGreater(len(list((self.folder / "model").glob("*.safetensors"))), 2)
            shutil.rmtree(self.folder / "model")

    def test_shortest_prompts(self):
        self.check(b"x", rings=[(1, "zigzag"), (3, "zigzag")])
        self.check(b"", rings=[(1, "zigzag"), (3, "zigzag")])
        self.check(b"ab", rings=[(5, "striped")])

    def test_beyond_the_trained_context(self):
        self.check(b"abc", rings=[(2, "zigzag")], max_position_embeddings=16)
        folder = self.folder / "model"
        _, stderr = generate("--model", folder, "--prompt", "abc", "--max-tokens", 40)
        self.assertIn("43 tokens, the model was trained on 16", stderr)

    def test_stops_at_the_separator(self):
        folder = self.folder / "model"
        model = make_model(folder)
        with torch.no_grad():  # the separator wins after any text
            model.lm_head.weight[SEPARATOR] = 0
            model.lm_head.weight[:SEPARATOR] *= 0
            model.model.norm.weight[:] = 1
        model.save_pretrained(folder)
        text, _ = generate("--model", folder, "--prompt", "a", "--max-tokens", 5)
        self.assertEqual(text, b"\0" * 5)  # all equal: the first wins
        with torch.no_grad():
            for value in (1.0, -1.0):
                model.lm_head.weight[SEPARATOR] = value
                model.save_pretrained(folder)
                ids = torch.tensor([list(b"a")])
                if int(model(ids).logits[0, -1].argmax()) == SEPARATOR:
                    break
        text, stderr = generate("--model", folder, "--prompt", "a", "--max-tokens", 5)
        self.assertEqual(text, b"")
        self.assertIn("new: 0 tokens", stderr)

    def test_sampling_depends_on_the_seed_alone(self):
        make_model(self.folder / "model")
        arguments = ["--model", self.folder / "model", "--prompt", "Once", "--max-tokens", 30]
        arguments += ["--temperature", 0.7, "--top-k", 40, "--dtype", "f32", "--threads", 1]

        def sample(seed, ring):
            return generate(*arguments, "--seed", seed, "--ring", ring)[0]

        first = sample(1, 1)
        for ring in (1, 2, 3):
            self.assertEqual(sample(1, ring), first)
        self.assertNotEqual(sample(2, 1), first)

    def test_bf16_is_near(self):
        make_model(self.folder / "model")
        arguments = ["--model", self.folder / "model", "--prompt", "Once", "--max-tokens", 10]
        for ring in (1, 2):
            text, _ = generate(*arguments, "--dtype", "bf16", "--ring", ring)
            self.assertEqual(len(text), 10)

    def test_bad_input(self):
        folder = self.folder / "model"
        make_model(folder)

        def refused(code, *arguments):
            result = support.ringwise("generate", *arguments[0])
            self.assert_one_line_error(result, code, *arguments[1:])

        prompt = ["--prompt", "a"]
        refused(1, ["--model", self.folder / "absent", *prompt], "absent", "no such model folder")
        refused(1, ["--model", self.folder, *prompt], "not a model folder", "config.json")
        refused(1, ["--model", folder, "--prompt-file", self.folder / "no"], "No such file")
        refused(2, ["--model", folder], "--prompt")
        refused(2, prompt, "--model")
        refused(2, ["--model", folder, "--prompt", "a", "--prompt-file", folder], "--prompt")
        refused(2, ["--model", folder, *prompt, "--temperature", "-1"], "--temperature")
        refused(2, ["--model", folder, *prompt, "--top-k", "many"], "--top-k")
        refused(2, ["--model", folder, *prompt, "--seed", "-1"], "--seed", "0 or more, found -1")
        refused(1, ["--model", folder, "--prompt-file", ""], "cannot open")
        toml = self.folder / "config.toml"
        toml.write_text('config = "other.toml"')
        refused(2, ["--model", folder, *prompt, "--config", toml], "cannot name another")
        refused(1, ["--model", folder, *prompt, "--config", self.folder], "folder")
        toml.write_text("")  # legal, and says nothing
        refused(2, ["--config", toml, *prompt], "--model")
        refused(2, ["--model", folder, *prompt, "--topk", "3"], "did you mean '--top-k'")
        weights = folder / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[: len(whole) // 2])
        refused(1, ["--model", folder, *prompt], "model.safetensors", "truncated")
        weights.write_bytes(b"\xff" * 1000)
        refused(1, ["--model", folder, *prompt, "--ring", 3], "model.safetensors")
        weights.unlink()
        refused(1, ["--model", folder, *prompt], "neither model.safetensors nor")
        weights.write_bytes(whole)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
        refused(1, ["--model", folder, *prompt], "'model.layers.3.", "missing")
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
        refused(1, ["--model", folder, *prompt], "unexpected tensor 'model.layers.2.")
        (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
        refused(1, ["--model", folder, *prompt], "has shape [", "112", "96", "configuration needs")
        # Refused by the file's shapes, before memory is taken for what the configuration claims.
        claims = {**config, "hidden_size": 2**20, "intermediate_size": 2**20}
        (folder / "config.json").write_text(json.dumps(claims))
        refused(1, ["--model", folder, *prompt], "has shape [257, 64], the configuration needs")
        (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2**30}))
        refused(1, ["--model", folder, *prompt], "'model.layers.3.", "missing")
        make_model(self.folder / "small", vocab_size=100, bos_token_id=1, eos_token_id=2)
        refused(2, ["--model", self.folder / "small", *prompt], "vocabulary of 100")

    def test_text_that_cannot_be_written_is_an_error(self):
        make_model(self.folder / "model")
        generate_some = ["generate", "--model", self.folder / "model", "--prompt", "a"]
        for arguments, reason in (
            ([*generate_some, "--max-tokens", 3], "No space left"),
            (["info"], "No space left"),
            (["--version"], "cannot write"),
        ):
            with open("/dev/full", "wb") as full:
                result = subprocess.run(
                    support.command("ringwise", *arguments),
                    stdout=full, stderr=subprocess.PIPE, text=True,
                    env=support.environment(), timeout=300, check=False,
                )
            self.assert_one_line_error(result, 1, "stdout", reason)


def reference_loss(model, tokens, context):
    """Sum of nats over windows of `context` tokens one after another."""
    nats = 0.0
    for begin in range(0, len(tokens) - 1, context):
        window = torch.tensor(tokens[begin : begin + context + 1])
        with torch.no_grad():
            logits = model(window[None, :-1]).logits[0].double()
        nats += torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum").item()
    return nats


class Eval(support.TestCase):
    def run_eval(self, *arguments, **options):
        folder = self.folder / "model"
        common = ["--model", folder, "--dtype", "f32", "--threads", 1, "--json"]
        result = support.ringwise("eval", *common, *arguments, check=True, **options)
        return json.loads(result.stdout)

    def test_loss_equals_pytorch(self):
        model = make_model(self.folder / "model", initializer_range=0.06)
        data = self.folder / "text"
        data.write_bytes(pathlib.Path(__file__).read_bytes()[:1000])
        tokens = [*data.read_bytes(), SEPARATOR]
        for context in (7, 100, 1000, 5000):
            nats = reference_loss(model, tokens, context)
            for arguments in (
                [],
                ["--ring", 2, "--layout", "striped"],
                ["--ring", 3],
                ["--data-parallel", 2],
            ):
                record = self.run_eval("--data", data, "--context", context, *arguments)
                self.assertEqual(record["tokens"], len(tokens) - 1)
                # Every byte but the first is predicted; the separator costs but is no byte.
                bits = nats / math.log(2) / (len(tokens) - 2)
                self.assert_close(record["loss"], nats / (len(tokens) - 1), 1e-5)
                self.assert_close(record["bits_per_byte"], bits, 1e-5)

    def test_under_mpirun(self):
        make_model(self.folder / "model", initializer_range=0.06)
        data = self.folder / "text"
        data.write_bytes(b"the same numbers " * 40)
        one = self.run_eval("--data", data, "--context", 256)
        for arguments in ([], ["--ring", 1]):
            record = self.run_eval("--data", data, "--context", 256, *arguments, ranks=2)
            self.assertEqual(record["tokens"], one["tokens"])
            self.assert_close(record["loss"], one["loss"], 1e-6)

    def test_documents_limits_and_heldout(self):
        make_model(self.folder / "model", initializer_range=0.06)
        data = self.folder / "texts"
        data.mkdir()
        random = numpy.random.default_rng(SEED)
        for i in range(10):
            (data / f"{i}.txt").write_bytes(random.integers(97, 123, 50).astype("u1").tobytes())
        (data / "binary").write_bytes(b"\0" * 100)
        everything = self.run_eval("--data", data, "--context", 64)
        self.assertEqual(everything["tokens"], 10 * 51 - 1)
        self.assertEqual(everything["bytes"], 10 * 50 - 1)
        self.assertEqual(self.run_eval("--data", data)["context"], 256)
        heldout = self.run_eval("--data", data, "--context", 64, "--heldout", 0.2)
        self.assertEqual(heldout["tokens"], 2 * 51 - 1)
        limited = self.run_eval("--data", data, "--context", 64, "--max-tokens", 70)
        self.assertEqual(limited["tokens"], 70)

    def test_bad_input(self):
        make_model(self.folder / "model")
        folder, absent = self.folder / "model", self.folder / "absent"
        text = self.folder / "text"
        text.write_bytes(b"some text")
        binary = self.folder / "binary"
        binary.write_bytes(b"\0\0")

        def refused(code, arguments, *words):
            self.assert_one_line_error(support.ringwise("eval", *arguments), code, *words)

        refused(1, ["--model", absent, "--data", text], "absent", "no such model folder")
        refused(1, ["--model", folder, "--data", absent], "absent", "No such file")
        refused(1, ["--model", folder, "--data", binary], "no text", "1 binary")
        refused(2, ["--model", folder], "--data")
        refused(2, ["--model", folder, "--data", text, "--context", 0], "above 0, found 0")
        refused(2, ["--model", folder, "--data", text, "--layout", "round"], "zigzag")

    def test_a_broken_model_is_an_error(self):
        model = make_model(self.folder / "model")
        with torch.no_grad():
            model.model.norm.weight[0] = math.nan
        model.save_pretrained(self.folder / "model")
        text = self.folder / "text"
        text.write_bytes(b"some text")
        result = support.ringwise("eval", "--model", self.folder / "model", "--data", text)
        self.assert_one_line_error(result, 1, self.folder / "model", "not finite")


if __name__ == "__main__":
    support.main()
