"""Make the word lists of this folder from Debian's package `wordnet-base`, in the format wndb(5WN).

python -m ants_lightning.assets.make_wordnet /usr/share/wordnet
"""

import lzma
import re
import sys
from pathlib import Path

# Names of the lexicographer files by their number, lexnames(5WN), without "noun." and "adj.".
FILES = {
    0: "all",
    1: "pert",
    3: "Tops",
    4: "act",
    5: "animal",
    6: "artifact",
    7: "attribute",
    8: "body",
    9: "cognition",
    10: "communication",
    11: "event",
    12: "feeling",
    13: "food",
    14: "group",
    15: "location",
    16: "motive",
    17: "object",
    18: "person",
    19: "phenomenon",
    20: "plant",
    21: "possession",
    22: "process",
    23: "quantity",
    24: "relation",
    25: "shape",
    26: "state",
    27: "substance",
    28: "time",
    44: "ppl",
}


def synset_lines(data: str, index: str) -> list[str]:
    r"""Each synset's file and synonyms, with tabs between.

    A "~" stands before those that mean something else in the first place.

    >>> data = "  licence\n00000011 06 n 03 motor_car 0 auto 0 machine 0 000 | a gloss"
    >>> index = "auto n 1 0 1 0 00000011\nmotor_car n 1 0 1 0 00000011\nmachine n 2 0 2 0 00000099 00000011"
    >>> synset_lines(data, index)
    ['artifact\tmotor car\tauto\t~machine']
    >>> synset_lines("00000011 00 s 01 out_of_reach(p) 0 000 | a gloss", "out_of_reach a 1 0 1 0 00000011")
    ['all\tout of reach']
    """
    first = {}
    for line in index.splitlines():
        if not line.startswith("  "):  # the licence
            lemma, _, senses, *rest = line.split()
            first[lemma] = rest[len(rest) - int(senses)]
    lines = []
    for line in data.splitlines():
        if not line.startswith("  "):
            offset, file, _, count, *rest = line.split(" ")
            # Where an adjective may stand
            words = [re.sub(r"\((a|p|ip)\)$", "", word) for word in rest[: 2 * int(count, 16) : 2]]
            synonyms = [word if first[word.lower()] == offset else f"~{word}" for word in words]
            lines.append("\t".join([FILES[int(file)], *synonyms]).replace("_", " "))
    return lines


if __name__ == "__main__":
    for name, part in (("nouns", "noun"), ("adjectives", "adj")):
        files = [(Path(sys.argv[1]) / f"{kind}.{part}").read_text("latin-1") for kind in ("data", "index")]
        packed = lzma.compress("\n".join(synset_lines(*files)).encode(), preset=9)
        (Path(__file__).parent / f"wordnet_{name}.txt.xz").write_bytes(packed)
