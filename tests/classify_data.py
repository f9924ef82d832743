"""Small data sets for classification in the layouts of the real ones, of made-up words that tell
the class. Everything is a function of the seed."""

import random
import tarfile

FILLER = [a + b for a in ["ba", "ke", "li", "mo", "nu", "sa"] for b in ["ra", "te", "ni", "po", "du"]]
TELLING = {"pos": ["glad", "fine"], "neg": ["dull", "grim"], "gold": ["ore", "vein"],
           "grain": ["wheat", "field"], "ship": ["port", "keel"], "rare": ["once"]}
TOPICS = {"gold": 40, "grain": 25, "ship": 30, "rare": 9}  # of rare ones too few to stay


def text(generator, label, words):
    """Mostly filler; about one word in six tells the class."""
    found = [generator.choice(TELLING[label] if generator.random() < 1 / 6 else FILLER)
             for _ in range(words)]
    found[generator.randrange(words)] = generator.choice(TELLING[label])
    return " ".join(found)


def write_imdb(folder, seed, reviews=24):
    """aclImdb with so many reviews of each class and split, of 4 to 40 words."""
    generator = random.Random(seed)
    for split in ["train", "test"]:
        for label in ["neg", "pos"]:
            (folder / split / label).mkdir(parents=True)
            for index in range(reviews):
                review = text(generator, label, generator.randint(4, 40))
                (folder / split / label / f"{index}_{2 if label == 'neg' else 9}.txt").write_text(
                    review + "<br /><br />The end.")
    return folder


def write_reuters(folder, seed, topics=None):
    """reuters21578: 22 files over which the topics' newswires are spread, of 4 to 60 words."""
    generator = random.Random(seed)
    labels = [label for label, count in (topics or TOPICS).items() for _ in range(count)] + [""] * 22
    generator.shuffle(labels)
    files = [[] for _ in range(22)]
    for number, label in enumerate(labels, 1):
        tags = f"<D>{label}</D><D>other</D>" if label else ""
        body = text(generator, label or "rare", generator.randint(4, 60))
        files[number % 22].append(
            f'<REUTERS TOPICS="YES" OLDID="{number}" NEWID="{number}">\n<TOPICS>{tags}</TOPICS>\n'
            f"<TEXT>&#2;\n<TITLE>NEWS {number}</TITLE>\n<BODY>{body}\n&#3;</BODY></TEXT>\n"
            "</REUTERS>\n")
    folder.mkdir(parents=True)
    for index, newswires in enumerate(files):
        (folder / f"reut2-{index:03}.sgm").write_text(
            '<!DOCTYPE lewis SYSTEM "lewis.dtd">\n' + "".join(newswires), encoding="latin-1")
    return folder


def archive(folder, path, name):
    """The folder as an archive whose files stand below `name`."""
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, arcname=name)
    return path
