"""`train-codec`: train a small learned codec, CompressAI's scale hyperprior, and write its weights.

The result is a state dict as CompressAI writes it, with the entropy tables inside, so that
`ScaleHyperprior.from_state_dict(torch.load(file, weights_only=True))` can code at once. Without a
data set at hand it trains on generated street scenes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from latent_store.console import make_parser, run_command
from latent_store.errors import CheckpointError, LatentStoreError
from pipelines.codec_training.config import CodecTraining
from training.flags import add_flags, read_flags

COMMAND = "train-codec"
AUX_LIMIT = 1.0  # above it the hyper-latent's tables do not reach its tails


def _parser() -> argparse.ArgumentParser:
    what = "Train CompressAI's scale hyperprior (N 128, M 192) and write its weights."
    parser = make_parser(COMMAND, what)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="the state dict to write")
    state = "training state (default: OUTPUT.checkpoint); its log lies beside it"
    add("--checkpoint", type=Path, metavar="FILE", help=state)
    add("--resume", action="store_true", help="go on from the checkpoint")
    only = "write the codec from the checkpoint, no more steps"
    add("--finalize_only", action="store_true", help=only)
    add("--overwrite", action="store_true", help="start anew where a checkpoint exists")
    add_flags(parser, CodecTraining, "training")
    return parser


def _run(args: argparse.Namespace) -> int:
    # They load torch, which parsing needs not.
    import torch

    from latent_store.codec import stock
    from pipelines.codec_training import publishing
    from pipelines.codec_training.images import held_out_scenes
    from pipelines.codec_training.training import CodecTrainer, TrainingCheckpoint, new_codec

    training = read_flags(args, CodecTraining)
    path = args.checkpoint or args.output.with_name(args.output.name + ".checkpoint")
    overwrite = args.overwrite and not args.resume
    checkpoint = TrainingCheckpoint(path, training, overwrite=overwrite)
    model = new_codec(training.seed)
    if checkpoint.holds_run() and not (args.resume or args.finalize_only):
        raise LatentStoreError(
            f"there is a training checkpoint {path}; give --resume to go on from it, "
            "--finalize_only to write its codec, or --overwrite to start anew"
        )
    checkpoint.require_room(resume=args.resume or args.finalize_only)
    if args.resume or args.finalize_only:
        saved = checkpoint.read()
    if args.finalize_only:
        model.load_state_dict(saved["model"])
        print(f"finishing the training checkpoint of step {saved['step']}", flush=True)
    else:
        CodecTrainer(model, training, checkpoint).fit(resume=args.resume)
    aux = publishing.fit_quantiles(model, training.aux_steps)
    if not aux < AUX_LIMIT:
        raise CheckpointError(
            f"the auxiliary loss is {aux:.3f}, and must be below {AUX_LIMIT:g}; "
            "run again with --finalize_only and more --aux_steps"
        )
    digest = publishing.write_codec(publishing.finished_state(model), args.output)
    stored = stock.ScaleHyperprior.from_state_dict(torch.load(args.output, weights_only=True))
    score = publishing.evaluate_codec(stored, held_out_scenes(training.seed))
    print(f"auxiliary loss {aux:.4f}")
    print(f"{args.output}: {args.output.stat().st_size} bytes, sha256 {digest}")
    result = f"{score.bpp:.4f} bpp (real bytes), {score.psnr:.2f} dB"
    print(f"{score.images} held-out scenes 256x512: {result}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `train-codec`; return the exit status (2 for bad usage)."""
    args = _parser().parse_args(argv)
    return run_command(COMMAND, lambda: _run(args))


if __name__ == "__main__":
    raise SystemExit(main())
