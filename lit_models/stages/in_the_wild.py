"""Make all-in-focus images of photographs by a trained DeblurNet, as shards to train on."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from genrefocus.backbone import Backbone
from genrefocus.network import weights_name
from genrefocus.preparation.gates import Gates
from genrefocus.preparation.item import Source
from genrefocus.preparation.ledger import LEDGER_NAME, read_summary
from genrefocus.preparation.runner import prepare
from genrefocus.preparation.sources import CaptionedSource
from lit_models.flow_matching import FlowMatching
from lit_models.ranks import Ranks
from lit_models.stages.stage import CONSOLE, Stage


class PrepareInTheWild(Stage):
    """Deblur the photographs and write them, with depth, focus and K, to shards.

    Args:
        network: DeblurNet with its LoRA file.
        route, source: what makes samples with it, and of which photographs.
        captions: of the photographs, see ``preparation.sources.captions``; empty for none.
        gates: thresholds on measures of a sample, see ``preparation.gates``.
        prepare: further arguments of ``runner.prepare``.
        out: folder of the shards.
        place: see :class:`Stage`.
    """

    def __init__(
        self,
        *,
        network: DictConfig,
        route: DictConfig,
        source: DictConfig,
        captions: DictConfig,
        gates: DictConfig,
        prepare: DictConfig,
        out: str,
        **place: Any,
    ) -> None:
        super().__init__(**place)
        self.network, self.route = network, route
        self.source, self.captions = source, captions
        self.gates, self.prepare, self.out = gates, prepare, Path(out)

    def prompts(self) -> set[str]:
        said = {item.caption for item in self._photographs().items()} if self.captions else set()
        return {self.network.prompt, *(caption for caption in said if caption)}

    def run(self, backbone: Backbone, ranks: Ranks) -> None:
        """The ranks divide the shards among them; which of them makes one does not show."""
        started = time.monotonic()
        with ranks.together(self.name):
            module: FlowMatching = instantiate(self.network)(backbone).ready_on(ranks.device)
            route = instantiate(self.route)(
                deblur=module.network, deblur_name=weights_name(self.network.init_lora)
            )
            thresholds: Any = OmegaConf.to_container(self.gates)
            prepare(
                route,
                self._photographs(),
                self.out,
                gates=Gates(thresholds),
                **OmegaConf.to_container(self.prepare),  # type: ignore[arg-type]
                job=ranks.rank,
                jobs=ranks.world,
                progress=ranks.rank == 0,
            )
            backbone.meet()
        if ranks.rank == 0:
            made = read_summary(self.out)
            CONSOLE.print(_account(made, self.out), soft_wrap=True, markup=False, highlight=False)
            self.record.write_summary(
                seconds=round(time.monotonic() - started, 1),
                shards=str(self.out).removeprefix(f"{self.folder.parent}/"),
                photographs={name: made[name] for name in ("found", "written", "rejected")},
                reblurred=made.get("reblurred"),
            )
        ranks.barrier()

    def _photographs(self) -> Source:
        source: Source = instantiate(self.source)
        return CaptionedSource(source, instantiate(self.captions)) if self.captions else source


def _account(made: Mapping[str, Any], out: Path) -> str:
    """What came of the photographs, in lines."""
    written = made["written"]
    lines = [f"photographs    {', '.join(f'{written[split]} to {split}' for split in written)}"]
    if away := made["rejected"]:
        reasons = ", ".join(f"{count} {reason}" for reason, count in away.items())
        lines.append(f"rejected       {reasons}; see {out / LEDGER_NAME}")
    if (measured := made.get("reblurred")) and "restored_radius" in measured:
        lines.append(
            f"re-blurring    {measured['photographs']} photographs show that DeblurNet restores "
            f"up to {measured['restored_radius']:.2f} px of blur radius"
        )
    elif measured:
        lines.append(f"re-blurring    does not tell what is restored: {measured['rejected']}")
    if empty := [split for split in ("val", "test") if not written.get(split)]:
        lines.append(f"empty          {', '.join(empty)}: the run goes on without")
    return "\n".join(lines)
