"""Make `wordnet_nouns.txt.xz` from the files of Debian's package `wordnet-base`, format wndb(5WN).

python -m ants_lightning.assets.make_wordnet /usr/share/wordnet
"""

import lzma
import sys
from pathlib import Path


def synset_lines(data: str, index: str) -> list[str]:
    r"""The synonyms of each synset, tabs between; after an empty one those that mean something else in the first place.

    >>> data = "  licence\n00000011 03 n 03 motor_car 0 auto 0 machine 0 000 | a gloss"
    >>> synset_lines(data, "auto n 1 0 1 0 00000011\nmotor_car n 1 0 1 0 00000011\nmachine n 2 0 2 0 00000099 00000011")
    ['motor car\tauto\t\tmachine']
    """
    first = {}
    for line in index.splitlines():
        if not line.startswith("  "):  # the licence
            lemma, _, senses, *rest = line.split()
            first[lemma] = rest[len(rest) - int(senses)]
    lines = []
    for line in data.splitlines():
        if not line.startswith("  "):
            offset, _, _, count, *rest = line.split(" ")
            words = rest[: 2 * int(count, 16) : 2]
            meant = [word for word in words if first[word.lower()] == offset]
            others = [word for word in words if word not in meant]
            lines.append("\t".join([*meant, "", *others] if others else meant).replace("_", " "))
    return lines


if __name__ == "__main__":
    files = [(Path(sys.argv[1]) / name).read_text("latin-1") for name in ("data.noun", "index.noun")]
    packed = lzma.compress("\n".join(synset_lines(*files)).encode(), preset=9)
    (Path(__file__).parent / "wordnet_nouns.txt.xz").write_bytes(packed)
