"""``python -m sekd.evaluation.rescore runs/<name>``: write ``scores.json`` again from the kept generations.

No model is loaded. ``make evaluate`` writes the same file; use this for another parser, other resamples, or a run that
an earlier version scored.
"""

import argparse
import json
from pathlib import Path

from sekd.answers import CHOOSERS, Parser
from sekd.errors import SekdError, exit_on_error
from sekd.evaluation.scores import Bootstrap, Scores, read_run, score_run
from sekd.evaluation.table import print_table, trees
from sekd.files import write_whole
from sekd.recent import run_folder

FILE = "scores.json"


def write_scores(run: Path, *, bootstrap: Bootstrap, parser: Parser = "lenient") -> Scores:
    """Score the stored generations, write ``scores.json`` and return its content.

    Raises:
        SekdError: the run has not been evaluated, or a stored file cannot be read.
    """
    scores = score_run(read_run(run, parser=parser), bootstrap=bootstrap) | {"parser": parser}
    write_whole(run / FILE, json.dumps(scores, indent=1) + "\n")
    return scores


def read_scores(run: Path) -> Scores:
    """What ``write_scores`` wrote.

    Raises:
        SekdError: the file is missing, cannot be read, or an earlier version wrote it.
    """
    file = run / FILE
    again = f"`python -m sekd.evaluation.rescore {run}` writes it from the kept generations"
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))
        cells = [cell for _, _, models in trees(scores) for ways in models.values() for cell in ways.values()]
        whole = all({"calibration", "mta"} <= cell.keys() for cell in cells)
    except FileNotFoundError:
        raise SekdError(f"{file} is missing: {again}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SekdError(f"{file} does not hold scores ({error}): {again}") from error
    if not whole:
        raise SekdError(f"{file} lacks what the report shows, since an earlier version wrote it: {again}")
    return scores


def read_parser(run: Path) -> Parser:
    """The parser of the run's ``scores.json``; the usual one where there are no scores, or an earlier version's."""
    return read_scores(run).get("parser", "lenient") if (run / FILE).is_file() else "lenient"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sekd.evaluation.rescore", description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, help="as runs/demo; by default the newest student's")
    parser.add_argument("--parser", default="lenient", choices=[*CHOOSERS], help="how answers are read")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples behind the intervals")
    arguments = parser.parse_args()
    with exit_on_error():
        run = run_folder(arguments.run, whole_group=True)
        print_table(write_scores(run, bootstrap=Bootstrap(arguments.resamples), parser=arguments.parser))


if __name__ == "__main__":
    main()
