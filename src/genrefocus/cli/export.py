"""``genrefocus export``: the networks of a run as a folder for the Hugging Face Hub."""

import argparse

from genrefocus.hub import NOT_MERGED, README, model_card, write_networks
from genrefocus.network_card import described, latest_run, networks_of


def run(args: argparse.Namespace) -> int:
    if args.merge:
        raise ValueError(f"--merge: {NOT_MERGED}")
    run = args.run
    if run == "latest":
        run = latest_run("outputs", (), option="RUN")
    if not (cards := networks_of(run)):
        raise FileNotFoundError(f"{run} has no network: no network.json with its LoRA file")
    card = model_card(cards, args.results)
    args.folder.mkdir(parents=True, exist_ok=True)
    write_networks(cards, args.folder)
    card.save(args.folder / README)
    for file in sorted(args.folder.iterdir()):
        print(file)
    print(f"{described(cards)}; to publish: hf upload USER/NAME {args.folder}")
    return 0
