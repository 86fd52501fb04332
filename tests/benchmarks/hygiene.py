"""Which names a bound on the cosine with the ID classes drops, with real CLIP ViT-B/32 text features.

python tests/benchmarks/hygiene.py ../shared/data/clip_vitb32_features.npz

ID: ImageNet-1k. Names of LVIS, OpenImages and Objects365, in two kinds: those that are an ID class name by
spelling, plural or synonym (`hygiene.forms`), and the others. A good bound drops many of the first and few of
the second kind.
"""

import sys

import numpy as np
import open_clip
import torch
import torch.nn.functional as F

from ants_lightning.adapt.hygiene import fold, forms

with np.load(sys.argv[1]) as file:
    text = {
        key: F.normalize(torch.from_numpy(file[key]).float(), dim=1) for key in file.files if "_text" in key
    }
    names = {key: [str(name) for name in file[key]] for key in file.files if key.endswith("_names")}
known = set().union(*map(forms, open_clip.IMAGENET_CLASSNAMES))
cosine = torch.cat(
    [(text[f"{source}_text"] @ text["imagenet_text_b"].T).amax(1) for source in ("lvis", "oid", "o365")]
)
others = [name for source in ("lvis", "oid", "o365") for name in names[f"{source}_names"]]
is_name = torch.tensor([fold(name) in known for name in others])
print(f"{len(others)} names, {int(is_name.sum())} of them names of ImageNet classes\n")
print("| bound | ID names dropped | others dropped |\n|---|---|---|")
for bound in (0.9, 0.95, 0.97):
    dropped = (cosine > bound).float()
    print(f"| {bound} | {100 * dropped[is_name].mean():.0f} % | {100 * dropped[~is_name].mean():.0f} % |")
