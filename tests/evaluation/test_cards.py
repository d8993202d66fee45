"""The cards that a student and a store are shared with."""

from pathlib import Path

import pytest
import yaml
from synthetic import write_run

from sekd.cards import EVALUATED, model_card
from sekd.evaluation.rescore import write_scores
from sekd.evaluation.scores import Bootstrap, Scores

WRITTEN = "---\nbase_model: x\nlibrary_name: peft\n---\n\n# Student of demo\n\n| fingerprint | `abc` |\n"


def train(training: Path, base: str) -> None:
    (training / "adapter").mkdir(parents=True)
    (training / "adapter/adapter_config.json").write_text("{}")
    (training / "adapter/README.md").write_text(WRITTEN)
    settings = {"name": "demo", "model": {"path": base}, "data": {"name": "demo"}, "fingerprint": "0123"}
    (training / "config.yaml").write_text(yaml.safe_dump(settings))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Scores]:
    """Two trainings of a student and one of another, evaluated together, and the scores."""
    run = tmp_path_factory.mktemp("runs") / "demo"
    write_run(run, images=False, students=("student", "hard"))
    for folder in ("seed0", "seed1", "hard/seed0", "hard/seed1"):
        train(run / folder, "sekd/embedded/base")
    return run, write_scores(run, bootstrap=Bootstrap(200))


def metadata(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


@pytest.mark.parametrize("name", ["student", "hard"])
def test_a_card_holds_the_scores_of_its_own_training_and_of_no_other(evaluated: tuple[Path, Scores], name: str) -> None:
    run, scores = evaluated
    text, plots = model_card(run / ("hard" if name == "hard" else "") / "seed1", None)
    told = metadata(text)
    own = scores["in_domain"][name]["joint"]["seeds"]["seed1"]
    [in_domain] = [each for each in told["model-index"][0]["results"] if each["dataset"]["name"] == "demo, in-domain"]
    assert {each["type"]: each["value"] for each in in_domain["metrics"]}["hca"] == own["hca"]
    cell = scores["in_domain"][name]["joint"]
    low, high = cell["intervals"]["hca"]
    assert f"{cell['hca']:.1f}\u00a0±\u00a0{cell['spread']['hca']:.1f} [{low:.1f},\u00a0{high:.1f}]" in text
    assert "This training, seed1" in text
    assert f"| {own['hca']:.1f} |" in text
    assert "hard" not in text
    assert told["license"] == "apache-2.0", "the base's own card says so"
    assert "base_model" not in told, "a folder of this machine is no hub's model"
    assert (told["datasets"], told["library_name"]) == (["demo"], "peft")
    assert told["store_fingerprint"] == "0123"
    assert all(f"(plots/{plot})" in text for plot in plots)
    assert {"headline-1.png", "calibration-1.png"} <= plots.keys()
    assert all(content.startswith(b"\x89PNG") for content in plots.values())
    assert model_card(run / ("hard" if name == "hard" else "") / "seed1", None) == (text, plots), "again the same bytes"


def test_a_card_without_an_evaluation_invents_no_score(tmp_path: Path) -> None:
    train(tmp_path / "demo", "owner/base")
    text, plots = model_card(tmp_path / "demo", "mit")
    told = metadata(text)
    assert (told["base_model"], told["license"]) == ("owner/base", "mit")
    assert not {"model-index", "metrics"} & told.keys()
    assert "has not been evaluated" in text
    assert not plots


def test_a_pulled_card_keeps_its_scores(evaluated: tuple[Path, Scores], tmp_path: Path) -> None:
    text, _ = model_card(evaluated[0] / "seed1", None)
    train(tmp_path / "demo", "owner/base")
    (tmp_path / "demo/adapter/README.md").write_text(text)
    assert EVALUATED in text
    assert model_card(tmp_path / "demo", None) == (text, {})
