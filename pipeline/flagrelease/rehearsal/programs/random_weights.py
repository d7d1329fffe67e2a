"""random_weights.py FOLDER: write random weights, always the same, for the config.json in FOLDER, with transformers.

The last layer is scaled up, so that one token stands out at each step and greedy answers do not depend on rounding.
With `printable` in rehearsal.json, only these tokens are ever likely, so that answers are text.
"""

import importlib
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
SCALE = 20


def main() -> None:
    # Only the base image of the rehearsal has them; the package itself imports neither.
    torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    folder = Path(sys.argv[1])
    torch.manual_seed(20261129)
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if not config.get_text_config().tie_word_embeddings:
        wanted = json.loads((folder / "rehearsal.json").read_text())["printable"]
        with torch.no_grad():
            rows = model.get_output_embeddings().weight
            rows.mul_(SCALE)
            if wanted:
                others = torch.ones(rows.shape[0], dtype=torch.bool)
                others[wanted] = False
                rows[others] = 0
    model.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)
    sys.stdout.write(f"{sum(p.numel() for p in model.parameters())} {type(model).__name__}\n")


main()
