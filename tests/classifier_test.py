"""Classifiers against PyTorch with the same weights: torch.nn.TransformerEncoder on one document at
a time, and the network on words seen as plain linear layers on multi-hot rows. Logits, loss, and
the gradient of every parameter, through model folders that are written here."""

import itertools
import json
import pathlib
import tempfile

import safetensors.numpy
import safetensors.torch
import support
import torch

SEED = 20261
# Relative to each tensor's largest magnitude: the project's bound for a model in f32.
BOUND = 1e-4
CLASSES = 5

ENCODER = dict(network="encoder", norm_place="after", norm_over="width", vocab_size=61, word_pairs=0, features=0,
               hidden_size=48, num_hidden_layers=3, num_attention_heads=6, intermediate_size=77,
               document_rows=0, layer_norm_eps=1e-5)
# 0 words: all of its rows.
LENGTHS = [(5, 0), (1, 0), (40, 0), (17, 0), (113, 0)]

SHAPES = {
    "norms after": (ENCODER, LENGTHS),
    # More rows than a block has.
    "norms before, long documents": (
        dict(ENCODER, norm_place="before", hidden_size=40, num_attention_heads=2,
             intermediate_size=64, num_hidden_layers=2, layer_norm_eps=1e-3),
        [(300, 0), (7, 0), (401, 0)],
    ),
    "padding that is computed": (
        dict(ENCODER, num_hidden_layers=2), [(20, 5), (20, 20), (20, 1), (33, 32)],
    ),
    "projected features": (
        dict(ENCODER, vocab_size=0, features=19, hidden_size=32, num_attention_heads=4), LENGTHS,
    ),
    "features as they are": (
        dict(ENCODER, vocab_size=0, features=24, hidden_size=24, num_hidden_layers=1,
             num_attention_heads=1), LENGTHS,
    ),
    "norms over documents": (
        dict(ENCODER, vocab_size=0, features=24, hidden_size=24, num_attention_heads=3,
             norm_over="document", document_rows=13), [(13, 0)] * 6,
    ),
    "norms over documents, before": (
        dict(ENCODER, norm_place="before", hidden_size=24, num_attention_heads=3,
             norm_over="document", document_rows=29), [(29, 11), (29, 29), (29, 1)],
    ),
    "words seen": (dict(ENCODER, network="words_seen", hidden_size=16), LENGTHS),
}


class TorchEncoder(torch.nn.Module):
    """The parameters have the names that they have in our folders."""

    def __init__(self, config):
        super().__init__()
        hidden = config["hidden_size"]
        if config["vocab_size"]:
            self.embedding = torch.nn.Embedding(config["vocab_size"], hidden)
        elif config["features"] != hidden:
            self.input = torch.nn.Linear(config["features"], hidden)

        def norm():
            over = [config["document_rows"]] if config["norm_over"] == "document" else []
            return torch.nn.LayerNorm([*over, hidden], eps=config["layer_norm_eps"])

        before = config["norm_place"] == "before"
        layer = torch.nn.TransformerEncoderLayer(
            hidden, config["num_attention_heads"], config["intermediate_size"], dropout=0.0,
            activation="relu", batch_first=True, norm_first=before)
        self.encoder = torch.nn.TransformerEncoder(
            layer, config["num_hidden_layers"], norm=norm() if before else None,
            enable_nested_tensor=False)
        for layer in self.encoder.layers:
            layer.norm1 = norm()
            layer.norm2 = norm()
        self.head = torch.nn.Linear(hidden, CLASSES)

    def forward(self, rows, words):
        """The logits of one document, whose first `words` rows count in the mean."""
        if hasattr(self, "embedding"):
            x = self.embedding(rows)
        else:
            x = rows.to(self.head.weight.dtype)
            x = self.input(x) if hasattr(self, "input") else x
        return self.head(self.encoder(x[None])[0, :words].mean(0))


class TorchWordsSeen(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden = config["hidden_size"]
        self.words = torch.nn.Module()
        self.words.weight = torch.nn.Parameter(torch.empty(config["vocab_size"], hidden))
        self.words.bias = torch.nn.Parameter(torch.empty(hidden))
        self.second = torch.nn.Linear(hidden, hidden)
        self.head = torch.nn.Linear(hidden, CLASSES)

    def forward(self, rows, words):
        seen = torch.zeros(len(self.words.weight), dtype=self.head.weight.dtype)
        seen[rows[:words]] = 1
        seen[0] = 0
        first = torch.relu(seen @ self.words.weight + self.words.bias)
        return self.head(torch.relu(self.second(first)))


def random_rows(config, rows):
    """Tokens of one document (words seen: without those that came before), or features."""
    if not config["vocab_size"]:
        return torch.randn(rows, config["features"])
    tokens = torch.randint(1, config["vocab_size"], (rows,), dtype=torch.int32)
    if config["network"] == "words_seen":
        for i in range(1, rows):
            tokens[i] *= (tokens[:i] != tokens[i]).all()
    return tokens


class Case:
    """A random model, its folder and inputs, and what PyTorch computes from them."""

    def __init__(self, folder, config, lengths, settled=False):
        """settled: every unit of a feed-forward is on, or off, by far, for all inputs."""
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        torch.manual_seed(SEED)
        words_seen = config["network"] == "words_seen"
        model = TorchWordsSeen(config) if words_seen else TorchEncoder(config)
        with torch.no_grad():
            # Away from the usual start, so that every term of every gradient matters.
            for name, parameter in model.named_parameters():
                gain = "norm" in name and name.endswith("weight")
                parameter.normal_(1 if gain else 0, 0.3 if "norm" in name else 0.15)
                if settled and name.endswith("linear1.bias"):
                    parameter[0::2] = 6
                    parameter[1::2] = -6
        self.write_folder(config, model)
        self.documents = [random_rows(config, rows) for rows, _ in lengths]
        self.words = [words or rows for rows, words in lengths]
        self.labels = torch.randint(0, CLASSES, (len(lengths),))
        self.inputs = self.folder / "inputs.safetensors"
        rows = "tokens" if config["vocab_size"] else "features"
        safetensors.torch.save_file({
            "rows": torch.tensor([rows for rows, _ in lengths], dtype=torch.int32),
            "words": torch.tensor(self.words, dtype=torch.int32),
            "labels": self.labels.int(),
            rows: torch.cat(self.documents),
        }, self.inputs)
        self.expected_bf16 = None if words_seen else self.torch_pass(model.bfloat16())
        weights = safetensors.torch.load_file(self.folder / "model.safetensors")
        model = model.double()  # after loading, since bf16 has lost what f32 had
        model.load_state_dict(weights)
        self.expected = self.torch_pass(model)

    def write_folder(self, config, model):
        about = dict(
            config, model_type="ringwise_classifier", task="imdb", rope_theta=0.0,
            hidden_dropout=0.0, input_dropout=0.0, attention_dropout=0.0, head_dropout=0.0,
            max_words=0, keep_last_words=False, classes=[f"class {i}" for i in range(CLASSES)])
        (self.folder / "config.json").write_text(json.dumps(about))
        if config["vocab_size"]:  # padding and unknown words have no line
            words = "".join(f"word{i}\n" for i in range(config["vocab_size"] - 2))
            (self.folder / "vocabulary.txt").write_text(words)
        safetensors.torch.save_file(
            {name: value.contiguous() for name, value in model.state_dict().items()},
            self.folder / "model.safetensors")

    def torch_pass(self, model):
        model.zero_grad()
        logits = torch.stack([
            model(rows, words) for rows, words in zip(self.documents, self.words)])
        loss = torch.nn.functional.cross_entropy(
            logits.double() if logits.dtype == torch.float64 else logits.float(), self.labels)
        loss.backward()
        values = {"loss": loss.detach().reshape(1), "logits": logits.detach().double()}
        for name, parameter in model.named_parameters():
            values[name] = parameter.grad.double().clone()
        return values

    def probe(self, ring=1, layout="contiguous", dtype="f32", threads=1):
        out = self.folder / "out.safetensors"
        support.run("classifier_probe", self.folder, self.inputs, out, ring, layout, dtype, threads,
                    check=True)
        return safetensors.numpy.load_file(out)


class Classifier(support.TestCase):
    @classmethod
    def setUpClass(cls):
        print("seed", SEED)
        cls.temporary = tempfile.TemporaryDirectory()
        cls.cases = {}
        for index, (name, (config, lengths)) in enumerate(SHAPES.items()):
            folder = pathlib.Path(cls.temporary.name) / str(index)
            cls.cases[name] = Case(folder, config, lengths)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def compare(self, actual, expected):
        self.assertEqual(set(actual), set(expected))
        for name, reference in expected.items():
            self.assert_close(actual[name], reference, BOUND, message=name)

    def test_every_shape(self):
        for (name, case), threads in itertools.product(self.cases.items(), [1, 2]):
            with self.subTest(shape=name, threads=threads):
                self.compare(case.probe(threads=threads), case.expected)

    def test_every_ring_and_layout(self):
        for (name, case), ring, layout in itertools.product(
            self.cases.items(), [2, 3], ["contiguous", "striped", "zigzag"]
        ):
            with self.subTest(shape=name, ring=ring, layout=layout):
                self.compare(case.probe(ring=ring, layout=layout), case.expected)

    def test_bf16_is_as_near_as_pytorch_in_bf16(self):
        """Both round weights, activations and gradients to bf16 in slightly different places, so
        their errors against double have the same size: root mean square within a factor of 1.5. No
        rounding may turn a ReLU on or off, which would change a row's gradient at once."""
        for name, (config, lengths) in SHAPES.items():
            if config["network"] == "words_seen":  # computed in f32
                self.compare(self.cases[name].probe(dtype="bf16"), self.cases[name].expected)
                continue
            case = Case(self.folder / name, config, lengths, settled=True)
            actual = case.probe(dtype="bf16", ring=2, layout="striped")
            self.assertEqual(set(actual), set(case.expected))
            for tensor, reference in case.expected.items():
                with self.subTest(shape=name, tensor=tensor):
                    if tensor == "loss":
                        self.assert_close(actual[tensor], reference, 0.02)
                        continue
                    ours = support.rms_error(actual[tensor], reference)
                    theirs = support.rms_error(case.expected_bf16[tensor], reference)
                    self.assertLess(ours, 1.5 * theirs)


if __name__ == "__main__":
    support.main()
