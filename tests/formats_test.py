"""The files against the packages that others read them with: safetensors, transformers."""

import json
import random

import safetensors.torch
import torch
import transformers

import support


class Formats(support.TestCase):
    def out(self):
        folder = self.folder / "out"
        folder.mkdir(exist_ok=True)
        return folder

    def config(self, kind=transformers.LlamaConfig, **changes):
        fields = {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "intermediate_size": 80,
            "vocab_size": 257,
            "max_position_embeddings": 4096,
            "rope_theta": 123456.5,
            "rms_norm_eps": 3e-6,
            "tie_word_embeddings": True,
        }
        return kind(**{**fields, **changes})

    def convert(self, config=None, **fields):
        """Lets the program read a config and write it again."""
        (config or self.config()).save_pretrained(self.folder)
        path = self.folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return support.run("formats_probe", "config", self.folder, self.out())

    def test_tensors(self):
        torch.manual_seed(3)
        types = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]
        tensors = {f"t.{i} é": torch.randn(3, i + 1).to(types[i]) for i in range(len(types))}
        tensors |= {"none": torch.zeros(0, 4), "scalar": torch.tensor(1.5)}
        source, target = self.folder / "a.safetensors", self.folder / "b.safetensors"
        safetensors.torch.save_file(tensors, source, metadata={"format": "pt"})
        support.run("formats_probe", "tensors", source, target, check=True)
        copied = safetensors.torch.load_file(target)
        self.assertEqual(set(copied), set(tensors))
        for name, tensor in tensors.items():
            self.assertEqual(copied[name].dtype, tensor.dtype)
            self.assertTrue(torch.equal(copied[name], tensor), name)
        with safetensors.safe_open(target, "pt") as file:
            self.assertEqual(file.metadata(), {"format": "pt"})

    def test_config(self):
        for changes in ({}, {"tie_word_embeddings": False, "head_dim": 12, "rope_theta": 1e4}):
            source = self.config(**changes)
            result = self.convert(source)
            self.assertEqual(result.returncode, 0, result.stderr)
            written = transformers.AutoConfig.from_pretrained(self.out())
            for field in (
                "model_type hidden_size num_hidden_layers num_attention_heads num_key_value_heads "
                "head_dim intermediate_size vocab_size max_position_embeddings rope_theta "
                "rms_norm_eps tie_word_embeddings hidden_act attention_bias mlp_bias rope_scaling"
            ).split():
                self.assertEqual(getattr(written, field), getattr(source, field), field)
            self.assertEqual(written.eos_token_id, 256)
            self.assertEqual(written.architectures, ["LlamaForCausalLM"])
            self.assertEqual(written.dtype, torch.float32)

    def test_a_window_is_mistrals(self):
        for window in (1, 100, None):
            source = self.config(transformers.MistralConfig, sliding_window=window,
                                 attention_dropout=0.25)
            source.architectures = ["MistralForCausalLM"]
            result = self.convert(source)
            self.assertEqual(result.returncode, 0, result.stderr)
            written = transformers.AutoConfig.from_pretrained(self.out())
            # Without a window the two families are one.
            family = "Llama" if window is None else "Mistral"
            self.assertEqual(written.architectures, [family + "ForCausalLM"])
            self.assertEqual(written.model_type, family.lower())
            self.assertEqual(getattr(written, "sliding_window", None), window)
            self.assertEqual(written.attention_dropout, 0.25)
            self.assertEqual(written.head_dim, 16)
        # A Llama has none, whatever its file says.
        self.assertEqual(self.convert(sliding_window=7).returncode, 0)
        written = transformers.AutoConfig.from_pretrained(self.out())
        self.assertFalse(hasattr(written, "sliding_window"))

    def test_old_config_without_newer_fields(self):
        old = {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "vocab_size": 300,
        }
        fields = "num_key_value_heads head_dim rope_theta rms_norm_eps max_position_embeddings"
        mistral = {**old, "architectures": ["MistralForCausalLM"], "model_type": "mistral",
                   "num_attention_heads": 16}
        for config, kind, more in ((old, transformers.LlamaConfig, ""),
                                   (mistral, transformers.MistralConfig, " sliding_window")):
            (self.folder / "config.json").write_text(json.dumps(config))
            expected = kind.from_pretrained(self.folder)
            support.run("formats_probe", "config", self.folder, self.out(), check=True)
            written = transformers.AutoConfig.from_pretrained(self.out())
            for field in (fields + more).split():
                value = getattr(expected, field)
                if field == "head_dim":
                    value = value or 64 // config["num_attention_heads"]
                self.assertEqual(getattr(written, field), value, field)

    def test_config_that_cannot_be_run(self):
        def refused(*words, **fields):
            self.assert_one_line_error(self.convert(**fields), 1, "config.json", *words)

        refused("GemmaForCausalLM", "only LlamaForCausalLM and MistralForCausalLM",
                architectures=["GemmaForCausalLM"])
        refused("gemma", architectures=None, model_type="gemma")
        for window in (0, -3):
            refused("sliding_window", "null or above 0", str(window), model_type="mistral",
                    architectures=["MistralForCausalLM"], sliding_window=window)
        refused("sliding_window must be an integer", model_type="mistral", sliding_window="wide",
                architectures=["MistralForCausalLM"])
        refused("attention_dropout", "[0, 1)", attention_dropout=1.5)
        refused("architectures", architectures=None, model_type=None)
        refused("rope_scaling", "llama3", rope_scaling={"rope_type": "llama3", "factor": 8.0})
        refused("rope_scaling", "linear", rope_scaling={"type": "linear", "factor": 2.0})
        refused("attention_bias", attention_bias=True)
        refused("mlp_bias", mlp_bias=True)
        refused("hidden_act", "gelu", hidden_act="gelu")
        refused("quantization_config", quantization_config={"bits": 4})
        refused("no field hidden_size", hidden_size=None)
        refused("hidden_size must be an integer", hidden_size="64")
        refused("hidden_size must be an integer", hidden_size=64.5)
        refused("smaller", hidden_size=2**64 - 1)
        refused("heads", num_key_value_heads=3)
        refused("head_dim", head_dim=15)
        refused("layers", num_hidden_layers=-1)
        refused("rope_theta", rope_theta=0)
        refused("tie_word_embeddings", tie_word_embeddings="yes")

        def damaged(text, *words):
            (self.folder / "config.json").write_bytes(text)
            result = support.run("formats_probe", "config", self.folder, self.out())
            self.assert_one_line_error(result, 1, "config.json", *words)

        damaged(b"", "not JSON")
        damaged(b'{"hidden_size": 64', "not JSON")
        damaged(b'{"hidden_size\xff": 64}', "not JSON")
        damaged(b"[]", "object")
        damaged(b'{"hidden_size": 1e999}', "out of range")
        (self.folder / "config.json").unlink()
        result = support.run("formats_probe", "config", self.folder, self.out())
        self.assert_one_line_error(result, 1, "config.json", "No such file")

    def test_tokenizer(self):
        self.assertEqual(self.convert().returncode, 0)
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.out())
        self.assertEqual(len(tokenizer), 257)
        self.assertEqual(tokenizer.eos_token_id, 256)
        self.assertEqual(tokenizer.bos_token_id, 256)
        seed = 5
        print(f"seed {seed}")
        generator = random.Random(seed)
        every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
        texts = ["", " ", "  two  spaces\n\n\tand\r\nlines ", "int main() { return 0; }", "don't"]
        texts += ["naïve café, 東京 🙂👩‍👩‍👧", "<|separator|>", "a<|separator|>b", "\0\x01\x7f", "".join(every[:3000])]
        texts += ["".join(generator.choices(every, k=200)) for _ in range(50)]
        texts += ["".join(generator.choices("ab \n\t'.0é", k=400)) for _ in range(50)]
        for text in texts:
            tokens = tokenizer(text)["input_ids"]
            self.assertEqual(tokens, list(text.encode()), text)
            self.assertEqual(tokenizer.decode(tokens), text)
        self.assertEqual(
            tokenizer.decode([104, 105, 256, 33], skip_special_tokens=True), "hi!"
        )


if __name__ == "__main__":
    support.main()
