"""``genrefocus export``: the networks of a run as a folder for the Hugging Face Hub."""

import argparse

from genrefocus.cli.networks import cards_of
from genrefocus.hub import NOT_MERGED, README, model_card, write_networks
from genrefocus.network_card import described


def run(args: argparse.Namespace) -> int:
    if args.merge:
        raise ValueError(f"--merge: {NOT_MERGED}")
    cards = cards_of(args.runs, option="genrefocus export")
    card = model_card(cards, args.results)
    args.folder.mkdir(parents=True, exist_ok=True)
    write_networks(cards, args.folder)
    card.save(args.folder / README)
    for file in sorted(args.folder.iterdir()):
        print(file)
    missing = "" if "deblur" in cards else ", no DeblurNet: photographs are taken for sharp"
    print(f"{described(cards)}{missing}; to publish: hf upload USER/NAME {args.folder}")
    return 0
