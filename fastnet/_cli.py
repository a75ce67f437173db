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
from fastnet import _data, _model, _results, _training


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
        if sys.stdout is None:
            raise OSError("the standard output is closed")
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("fastnet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has left, as `head` does; Python's own last flush must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (FloatingPointError, OSError, UnicodeEncodeError, _data.FileError) as error:
        print(f"fastnet: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("fastnet: there is not enough memory for this", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastnet", description="Small dense neural networks on a CPU."
    )
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="{train,predict,info}")

    about = "learn to read handwritten digits, or from a table of your own"
    train = commands.add_parser(
        "train", help=about, usage="python -m fastnet train [DATA] [options]", description=(
            "Train a network on 80 percent of the data, validate it on 10 percent after each epoch "
            "and test it on 10 percent at the end; draw the curves and save the model. Without "
            "DATA it learns to read 1797 handwritten digits."))
    train.set_defaults(run=_train)
    train.add_argument("data", nargs="?", metavar="DATA",
                       help="CSV file with a header, all columns numbers except the target; or NPZ "
                            "file with arrays x (n, features) and y (n,)")
    train.add_argument("--target", metavar="COLUMN", help="the CSV file's column to predict")
    train.add_argument("--task", choices=["classification", "regression"],
                       help="default: a target of text or whole numbers (1, not 1.0) is classes, "
                            "other numbers are a regression")
    train.add_argument("--hidden", type=_number(int, 1), nargs="*", default=[100], metavar="N",
                       help="units in each hidden layer; no number: a linear model; DATA stands "
                            "before it (default: 100)")
    train.add_argument("--epochs", type=_number(int, 1), default=50, metavar="N",
                       help="passes over the training data (default: %(default)s)")
    train.add_argument("--batch-size", type=_number(int, 1), default=32, metavar="N",
                       help="samples per step (default: %(default)s)")
    train.add_argument("--lr", type=_number(float, 0), metavar="X",
                       help="learning rate (default: 0.1, for a regression 0.01)")
    train.add_argument("--momentum", type=_number(float, 0, 1), default=0.9, metavar="X",
                       help="momentum of gradient descent (default: %(default)s)")
    train.add_argument("--seed", type=_number(int, 0), default=0, metavar="N",
                       help="of split, initial weights and order of samples "
                            "(default: %(default)s)")
    train.add_argument("--dtype", choices=["float32", "float64"], default="float32",
                       help="type of all numbers (default: %(default)s)")
    train.add_argument("--out", type=_stem, metavar="STEM",
                       help="writes STEM.safetensors and STEM.png, or STEM.csv without matplotlib "
                            "(default: digits, or the name of DATA and -model)")
    train.add_argument("--force", action="store_true", help="replace files that exist")

    about = "apply a trained model to a table"
    predict = commands.add_parser("predict", help=about, description=(
        "Write a CSV table with a row for each row of DATA: the label and the probability of each "
        "class, or the predicted number. A probability's column is called as its class is, and "
        "p(class) where a class is called label."))
    predict.set_defaults(run=_predict)
    predict.add_argument("model", metavar="MODEL", help="STEM.safetensors, as train has written it")
    predict.add_argument("data", metavar="DATA",
                         help="CSV file with the columns of the training data in any order, others "
                              "are ignored; or NPZ file with an array x (n, features)")
    predict.add_argument("--out", type=_stem, metavar="FILE",
                         help="where to write (default: the standard output)")
    predict.add_argument("--force", action="store_true", help="replace a file that exists")

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
    own = options.data is not None
    if not own and (options.target or options.task):
        raise _data.FileError("--target and --task need DATA")
    largest = float(np.finfo(options.dtype).max)
    if options.lr is not None and options.lr > largest:
        raise _data.FileError(f"--lr must be in the interval [0, {largest:.4g}] for "
                              f"{options.dtype}, got {options.lr}")
    stem = options.out or (f"{Path(options.data).stem}-model" if own else "digits")
    picture = _results.can_draw()
    model_path = Path(f"{stem}.safetensors")
    curves_path = Path(f"{stem}.png" if picture else f"{stem}.csv")
    for path in (model_path, curves_path):
        _results.check_writable(path, options.force, [options.data] if own else [])

    if own:
        data = _data.read(options.data, options.target, options.task)
        print(_describe(data))
    else:
        data = _data.digits()
    rng = np.random.default_rng(options.seed)
    model, training, validation, test = _training.prepare(
        data, options.hidden, rng, options.dtype, standardise=own)
    lr = options.lr
    if lr is None:
        lr = 0.1 if data.classes is not None else 0.01
    epochs = _training.train(
        model.network, training, validation, rng,
        epochs=options.epochs, batch_size=options.batch_size, lr=lr, momentum=options.momentum,
    )

    started = time.perf_counter()
    columns = ["loss", "val_loss"]
    if data.classes is not None:
        columns = ["loss", "accuracy", "val_loss", "val_accuracy"]
    history = _show(epochs, options.epochs, columns)
    seconds = time.perf_counter() - started
    result = _training.describe_test(model, test)
    print(f"{result}, trained in {seconds:.1f} s")

    _results.write_model(model_path, model)
    if picture:
        title = f"{'-'.join(map(str, model.widths))} on {_shown(Path(data.source).name)}: {result}"
        _results.write_picture(curves_path, history, title)
    else:
        _results.write_table(curves_path, history)
        print("for a picture of the curves: pip install '.[plot]' where fastnet's code is")
    print(f"wrote {_shown(model_path)} and {_shown(curves_path)}")


def _shown(path: str | Path) -> str:
    """Return a path as text, with marks for bytes that are none."""
    return str(path).encode(errors="replace").decode()


def _describe(data: _data.Data) -> str:
    """Return what was found in a file, and so what is going to be learnt."""
    found = f"{_shown(data.source)}: {len(data.x)} rows, {len(data.features)} features"
    if data.classes is None:
        return f"{found}, {data.target} is a number"
    some = [str(name) for name in data.classes[:5]] + ["..."] * (len(data.classes) > 5)
    return f"{found}, {data.target} is one of {len(data.classes)} classes: {', '.join(some)}"


def _show(epochs: Iterable[_training.Epoch], total: int, columns: list[str]
          ) -> list[_training.Epoch]:
    """Print the table of epochs, a row as soon as its epoch is trained, and return them."""
    widths = {name: max(10, len(name) + 2) for name in columns}
    print("epoch" + "".join(f"{name:>{width}}" for name, width in widths.items()))
    history = []
    bar, write = _progress(epochs, total)
    for number, epoch in enumerate(bar, 1):
        history.append(epoch)
        cells = [f"{epoch[name]:{width}{'.4f' if epoch[name] < 10_000 else '.3e'}}"
                 for name, width in widths.items()]
        write(f"{number:5}" + "".join(cells))
    return history


def _predict(options: argparse.Namespace) -> None:
    path = Path(options.out) if options.out else None
    if path:
        _results.check_writable(path, options.force, [options.model, options.data])
    model = _model.read_model(options.model)
    header, rows = model.predict(_data.read_features(options.data, model.features))
    if path:
        _results.write_csv(path, header, rows)
    else:
        _results.print_csv(sys.stdout, header, rows)


def _progress(
    epochs: Iterable[_training.Epoch], total: int
) -> tuple[Iterable[_training.Epoch], Callable[[str], None]]:
    """Return the epochs with a bar around them if tqdm is there, and a print that respects it."""
    try:
        from tqdm import tqdm  # type: ignore[import-untyped]
    except ImportError:
        return epochs, print
    if sys.stderr is None:      # closed
        return epochs, print
    # disable=None: no bar where stderr is not a terminal.
    bar = tqdm(epochs, total=total, unit="epoch", leave=False, disable=None)
    return bar, bar.write


def _info(options: argparse.Namespace) -> None:
    fastnet.show_config()
