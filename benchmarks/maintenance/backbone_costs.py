"""`python -m robustft.benchmarks.maintenance.backbone_costs`: measures every model of the installed open_clip anew.

The table spares `robustft list backbones` the minutes that building them all would take; nothing is computed with it.
"""

import json

from ...backbones import architectures, cost
from ...backbones.clip import installed


def main() -> None:
    """Writes `backbones/open_clip_costs.json`, a line for each model that is a backbone."""
    cost.KEPT.unlink(missing_ok=True)  # or what it has would be taken from it
    rows = []
    for model, config in installed().items():
        if architectures.classify(model, config).tier != "C":
            rows.append(f"{json.dumps(model)}: {json.dumps(cost.entry(model, config))}")
            print(model, flush=True)
    cost.KEPT.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
