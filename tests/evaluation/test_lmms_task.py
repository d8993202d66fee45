"""The benchmark as a task of lmms-eval: exported from a dataset, scored without this code, run by the real program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sekd.answers import parse_joint
from sekd.datasets import DataConfig, Dataset, Example, load_dataset
from sekd.datasets.images import decode
from sekd.embedded import BASE
from sekd.embedded.kingdoms import IN_DOMAIN, LEVELS
from sekd.embedded.world import write_world
from sekd.errors import SekdError
from sekd.evaluation.general.__main__ import Harness, find_lmms_eval
from sekd.evaluation.general.export import export, load
from sekd.evaluation.general.outcome import read_results
from sekd.metrics import METRICS, parse_failures, score
from sekd.prompts import Prompter
from sekd.questions import Question
from sekd.taxonomy import Taxonomy

BIRD = Question(0, "class", ("Aves", "Mammalia", "Reptilia", "Amphibia"), 0)
OWL = Question(1, "order", ("Passeriformes", "Strigiformes", "Piciformes", "Anseriformes"), 1)
TYTO = Question(2, "genus", ("Tyto", "Strix", "Bubo", "Asio"), 0)
ALBA = Question(3, "species", ("alba", "aluco", "bubo", "otus"), 0)
UNKNOWN = Question(2, "genus", ("Tyto", "Strix", "Bubo", "Asio"), None)
CASES = [  # unequal depths, levels without a label, and replies of every kind
    ((BIRD, OWL, TYTO, ALBA), "Q1: A. Aves\nQ2: B. Strigiformes\nQ3: A. Tyto\nQ4: A. alba"),
    ((BIRD, OWL, TYTO, ALBA), "Q1: A. Aves\nQ2: C. Piciformes\nQ3: B. Strix\nQ4: A. alba"),
    ((BIRD, OWL, UNKNOWN, ALBA), "Q1: A\nQ2: B\nQ3: C\nQ4: A"),
    ((BIRD, OWL, UNKNOWN), '{"class": "A", "order": "D", "genus": "B"}'),
    ((BIRD, OWL), "I cannot tell what this is."),
    ((BIRD, OWL), "Q1: A. Aves\nQ2: B or C"),
    ((BIRD,), "Aves"),
    ((BIRD, OWL, TYTO), ""),
    ((BIRD, OWL, TYTO, ALBA), "Q1: Z\nQ2: B\nQ3: A"),
]
# Runs in a process that has no sekd: what lmms-eval does with a reply, and what it shows to a model.
ALONE = """
import importlib.util, json, sys
sys.modules["sekd"] = None
folder, replies = sys.argv[1], json.loads(sys.argv[2])
spec = importlib.util.spec_from_file_location("utils", folder + "/utils.py")
utils = importlib.util.module_from_spec(spec)
spec.loader.exec_module(utils)
docs = [json.loads(line) for line in open(utils.DATASET["data_files"]["test"])]
rows = [utils.process_results(doc, [reply]) for doc, reply in zip(docs, replies, strict=True)]
shown = [[{"role": m["role"], "content": [part.get("text") or part["url"].getpixel((0, 0)) for part in m["content"]]}
          for m in utils.doc_to_messages(doc)] for doc in docs]
print(json.dumps({"rows": rows, "unparsed": utils.unparsed([row["unparsed"] for row in rows]), "shown": shown,
                  "texts": [utils.doc_to_text(doc) for doc in docs]}))
"""


def dataset_of(root: Path, asked: list[tuple[Question, ...]]) -> Dataset:
    examples = []
    for i, questions in enumerate(asked):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(root / f"{i}.png")
        examples.append(Example(f"{i}.png", Path(f"{i}.png"), None, questions))
    taxonomy = Taxonomy([("Aves", "Strigiformes")], level_names=["class", "order"])
    return Dataset(DataConfig("owls", "choices", str(root), {}), "test", taxonomy, examples, [])


def run_alone(folder: Path, replies: list[str]) -> dict:
    command = [sys.executable, "-c", ALONE, str(folder), json.dumps(replies)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_same_replies_get_the_same_scores_where_this_code_is_not_installed(tmp_path: Path) -> None:
    asked, replies = [list(column) for column in zip(*CASES, strict=True)]
    assert export(dataset_of(tmp_path, asked), Prompter.named("plain"), tmp_path / "task") == "taxonomy_owls"
    moved = (tmp_path / "task").rename(tmp_path / "moved")
    alone = run_alone(moved, replies)
    chosen = [parse_joint(reply, questions) for questions, reply in CASES]
    names = [
        [None if i is None else q.options[i] for q, i in zip(questions, indices, strict=True)]
        for questions, indices in zip(asked, chosen, strict=True)
    ]
    expected = score([[q.truth_name for q in questions] for questions in asked], names)
    for metric in METRICS:
        values = [row[metric] for row in alone["rows"]]
        assert sum(values) / len(values) == pytest.approx(expected[metric], abs=1e-9)
        assert 0 < expected[metric] < 100
    assert alone["unparsed"] == pytest.approx(parse_failures(names))
    assert alone["unparsed"] > 0


@pytest.mark.parametrize("wording", ["taxonomist", "expert"])
def test_a_model_is_shown_what_the_joint_question_shows_it(tmp_path: Path, wording: str) -> None:
    prompter, asked = Prompter.named(wording), [(BIRD, OWL), (BIRD,)]
    export(dataset_of(tmp_path, asked), prompter, tmp_path / "task")
    alone = run_alone(tmp_path / "task", ["", ""])
    for i, questions in enumerate(asked):
        wanted = [
            {"role": m["role"], "content": [part.get("text") or [i, 0, 0] for part in m["content"]]}
            for m in prompter.joint(questions).messages
        ]
        assert alone["shown"][i] == wanted
        texts = [part["text"] for m in prompter.joint(questions).messages for part in m["content"] if "text" in part]
        assert alone["texts"][i] == "\n\n".join(texts)


def test_a_photo_is_shown_upright_as_everywhere_else(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [(BIRD,)])
    photo, turned = Image.new("RGB", (8, 8), (9, 9, 9)), Image.Exif()
    photo.putpixel((7, 7), (200, 0, 0))
    turned[0x0112] = 3  # upside down
    photo.save(tmp_path / "0.png", exif=turned)
    export(dataset, Prompter.named("plain"), tmp_path / "task")
    ((message,),) = run_alone(tmp_path / "task", [""])["shown"]
    assert message["content"][0] == list(decode(tmp_path / "0.png").getpixel((0, 0))) == [200, 0, 0]


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    with pytest.raises(SekdError, match=r"image 1.png has no label"):
        export(dataset_of(tmp_path, [(BIRD,), (UNKNOWN,)]), Prompter.named("plain"), tmp_path / "task")
    assert not (tmp_path / "task").exists()
    (tmp_path / "task" / "images").mkdir(parents=True)
    with pytest.raises(SekdError, match=r"images exists and is no link"):
        export(dataset_of(tmp_path, [(BIRD,)]), Prompter.named("plain"), tmp_path / "task")


def test_only_labelled_data_are_exported_with_questions_about_their_labels(tmp_path: Path) -> None:
    with pytest.raises(SekdError, match=r"data photos has no labels to score replies by: DATA=… exports labelled data"):
        load(DataConfig("photos", "photos", str(tmp_path), {"test": "."}), "test")
    write_world(tmp_path / "world", images={"test": {IN_DOMAIN[0]: 2}})
    splits, levels = {"test": "test.json"}, ["kingdom", *LEVELS]
    data = DataConfig("demo", "inat", str(tmp_path / "world"), splits, levels=levels, skip=1, questions="descent")
    dataset = load(data, "test")
    assert [len(dataset.questions(example)) for example in dataset.examples] == [len(LEVELS)] * 2


@pytest.fixture(scope="module")
def real() -> tuple[str, str]:
    try:
        return find_lmms_eval()
    except SekdError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_lmms_eval_scores_the_embedded_base_and_a_task_that_is_not_there_is_an_error(
    real: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_world(tmp_path / "world", images={"test": {IN_DOMAIN[0]: 16}})
    levels = ["kingdom", *LEVELS]
    config = DataConfig("demo", "inat", str(tmp_path / "world"), {"test": "test.json"}, levels=levels, skip=1)
    dataset = load_dataset(config, "test")
    task = export(dataset, Prompter.named("terse"), tmp_path / "task")
    # One process, one thread: what the machine has beside the tests that run at the same time.
    quick = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    for name, value in {**quick, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not {"OPENAI_API_KEY"} & set(os.environ)
    arguments = "gpu_memory_utilization=0.15,enforce_eager=True"
    harness = Harness(*real, arguments=arguments, max_model_len=512, include_path=tmp_path / "task")
    results = harness.run(BASE, task, tmp_path / "base")
    scores = {metric: scored for (_, metric), scored in read_results(results).items()}
    assert set(scores) == {*METRICS, "unparsed"}

    (file,) = results.parent.glob("*_samples_*.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == len(dataset.examples)
    truths, predicted = [], []
    for row in rows:
        questions = dataset.questions(dataset.examples[row["doc_id"]])
        chosen = parse_joint(row["filtered_resps"], questions)
        predicted.append([None if i is None else q.options[i] for q, i in zip(questions, chosen, strict=True)])
        truths.append([question.truth_name for question in questions])
    expected = score(truths, predicted)
    for metric in METRICS:
        assert scores[metric].value == pytest.approx(expected[metric])
        assert len(scores[metric].samples) == len(rows)
    assert scores["leaf"].value > 25  # it knows the world better than chance
    assert scores["unparsed"].value == parse_failures(predicted)

    with pytest.raises(SekdError, match=r"\(status 0\) wrote no results of task taxonomy_nowhere"):
        harness.run(BASE, "taxonomy_nowhere", tmp_path / "base")
    (noted,) = [json.loads(note.read_text()) for note in (tmp_path / "base").rglob("asked.json")]
    assert (noted["task"], noted["lmms_eval"]) == (task, real[1])
