"""The commands of `python -m fastnet`: arguments in, lines and files out."""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

import fastnet
from fastnet import _results, _training


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` holds, by default the process's arguments.

    Returns
    -------
    status : int
        0: done; 1: stopped, with the reason in one line on stderr; 2: no command; 130: Ctrl-C.

    Raises
    ------
    SystemExit
        From argparse: 2 after a message about the arguments, 0 after `--help`.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    if options.run is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("fastnet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has left, as `head` does; Python's own last flush must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FloatingPointError, OSError) as error:
        print(f"fastnet: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastnet", description="Small dense neural networks on a CPU."
    )
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="{train,info}")

    about = "learn to read handwritten digits"
    train = commands.add_parser("train", help=about, description=(
        "Train a 64-100-10 network on 1437 handwritten digits, validate it on 180 and test it on "
        "180 others. Draws the curves of loss and accuracy and saves the parameters."))
    train.set_defaults(run=_train)
    train.add_argument("--epochs", type=_number(int, 1), default=50, metavar="N",
                       help="passes over the training data (default: %(default)s)")
    train.add_argument("--batch-size", type=_number(int, 1), default=32, metavar="N",
                       help="samples per step (default: %(default)s)")
    train.add_argument("--lr", type=_number(float, 0), default=0.1, metavar="X",
                       help="learning rate (default: %(default)s)")
    train.add_argument("--momentum", type=_number(float, 0, 1), default=0.9, metavar="X",
                       help="momentum of gradient descent (default: %(default)s)")
    train.add_argument("--seed", type=_number(int, 0), default=0, metavar="N",
                       help="of split, initial weights and order of samples (default: %(default)s)")
    train.add_argument("--dtype", choices=["float32", "float64"], default="float32",
                       help="type of all numbers (default: %(default)s)")
    train.add_argument("--out", type=_stem, default="digits", metavar="STEM",
                       help="writes STEM.npz and STEM.png, or STEM.csv without matplotlib "
                            "(default: %(default)s)")
    train.add_argument("--force", action="store_true", help="replace files that exist")

    about = "show versions, compiler and instruction sets"
    info = commands.add_parser("info", help=about, description=about.capitalize() + ".")
    info.set_defaults(run=_info)
    return parser


def _number(
    kind: type[int] | type[float], low: float, high: float = math.inf
) -> Callable[[str], float]:
    """Return an argparse type: an int or float in [low, high)."""
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan        # lies in no interval
        if not low <= value < high:
            raise argparse.ArgumentTypeError(
                f"must be {'an int' if kind is int else 'a number'} "
                f"in the interval [{low}, {high}), got {text!r}")
        return value

    return parse


def _stem(text: str) -> str:
    """Argparse type: a path that ends in a name, to which `.png` can be added."""
    if os.path.basename(text) in ("", os.curdir, os.pardir):
        raise argparse.ArgumentTypeError(f"must end in the name of a file, got {text!r}")
    return text


def _train(options: argparse.Namespace) -> None:
    picture = _results.can_draw()
    parameters_path = Path(f"{options.out}.npz")
    curves_path = Path(f"{options.out}.png" if picture else f"{options.out}.csv")
    for path in (parameters_path, curves_path):
        _results.check_writable(path, options.force)

    rng = np.random.default_rng(options.seed)
    training, validation, test = _training.split_digits(rng, options.dtype)
    layers = _training.make_layers(rng, options.dtype)
    epochs = _training.train(
        layers, training, validation, rng,
        epochs=options.epochs, batch_size=options.batch_size,
        lr=options.lr, momentum=options.momentum,
    )

    print("epoch      loss  accuracy  val_loss  val_accuracy")
    history = []
    started = time.perf_counter()
    bar, write = _progress(epochs, options.epochs)
    for number, epoch in enumerate(bar, 1):
        history.append(epoch)
        write(f"{number:5}{epoch.loss:10.4f}{epoch.accuracy:10.4f}"
              f"{epoch.val_loss:10.4f}{epoch.val_accuracy:14.4f}")
    seconds = time.perf_counter() - started
    _, test_accuracy = _training.measure(layers, test)
    print(f"test accuracy {test_accuracy:.4f}, trained in {seconds:.1f} s")

    _results.write_parameters(parameters_path, layers)
    if picture:
        title = f"64-100-10 on handwritten digits: test accuracy {test_accuracy:.4f}"
        _results.write_picture(curves_path, history, title)
    else:
        _results.write_table(curves_path, history)
        print("for a picture of the curves: pip install '.[plot]' where fastnet's code is")
    print(f"wrote {parameters_path} and {curves_path}")


def _progress(
    epochs: Iterable[_training.Epoch], total: int
) -> tuple[Iterable[_training.Epoch], Callable[[str], None]]:
    """Return the epochs with a bar around them if tqdm is there, and a print that respects it."""
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return epochs, print
    # disable=None: no bar where stderr is not a terminal.
    bar = tqdm(epochs, total=total, unit="epoch", leave=False, disable=None)
    return bar, bar.write


def _info(options: argparse.Namespace) -> None:
    fastnet.show_config()
