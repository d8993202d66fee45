"""What one engine's process can be fed: the feeding thread's work for an image of six steps.

vLLM's engine with a stand-in of Qwen2.5-VL: the real vocabulary, template and image processor, next to no weights. Its
core is replaced by one that encodes each request, as for its own process, and answers at once. Milliseconds are the
thread's own processor time, which hold on a busy machine too; a rate is 1,000 divided by them.
"""

import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Clock
from sekd.datasets import load_dataset
from sekd.inference.config import EngineConfig
from sekd.inference.engine import Engine
from sekd.inference.strategies import Strategies, Subject
from sekd.models import load_processor
from sekd.prompts import Prompter

sys.path.append(str(Path(__file__).parents[1] / "tests"))

SIZES = ((500, 375), (1200, 900))
STEPS, TOPK, FILES, IMAGES = 6, 32, 16, 192
ENGINE = EngineConfig(in_process=False, max_model_len=8192, max_num_seqs=64, image_cache_gb=2, kv_cache_gb=0.125)


class Immediate:
    """In place of the client of vLLM's core: answers every request with its first letter."""

    def __init__(self, core: Any) -> None:
        from vllm.v1.serial_utils import MsgpackEncoder

        self._core, self._encoder, self._waiting = core, MsgpackEncoder(), list[Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def add_request(self, request: Any) -> None:
        self._encoder.encode(request)
        self._waiting.append(request)

    def get_output(self) -> Any:
        from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
        from vllm.v1.outputs import LogprobsLists

        answered, self._waiting = self._waiting, []
        outputs = []
        for request in answered:
            letter = request.sampling_params.allowed_token_ids[0]
            ids, values = np.arange(TOPK + 1)[None], np.linspace(-1, -20, TOPK + 1, dtype=np.float32)[None]
            logprobs = LogprobsLists(np.where(ids == 0, letter, ids), values, np.ones(1, np.int64))
            outputs.append(EngineCoreOutput(request.request_id, [letter], logprobs, finish_reason=FinishReason.LENGTH))
        return EngineCoreOutputs(outputs=outputs)


def show_front_end() -> None:
    """Print for each size of photo the milliseconds of each part, and how much can be fed."""
    from standins import build, write_photos
    from standins.photos import picture

    with tempfile.TemporaryDirectory(prefix="sekd-front-") as name:
        folder, clock = Path(name), Clock()
        model, photos = build("qwen2_5_vl", folder / "model", dtype="bfloat16"), write_photos(folder / "photos")
        dataset = load_dataset(photos.data, "train")
        questions = dataset.questions(dataset.examples[0])[:STEPS]
        strategies = Strategies(Prompter.named(model.wording), load_processor(model), topk=TOPK)
        with Engine(model, ENGINE) as engine:
            vllm: Any = engine._vllm
            vllm.engine_core = Immediate(vllm.engine_core)
            for owner, method, part in (
                (engine._rendering, "tokenize", "tokenizing"),
                (strategies.prompter, "render", "rendering"),
                (vllm.renderer, "render_cmpl", "pixels"),
                (vllm, "add_request", "handing over"),
                (vllm, "step", "answers"),
            ):
                setattr(owner, method, clock.watched(getattr(owner, method), part))
            drive = clock.watched(lambda given: list(engine.drive(map(strategies.conditioned, given))), "scheduling")
            ways = {"ahead": engine.prepare, "on the feeding thread": lambda request, image: image}
            for (width, height), way in product(SIZES, ways):
                vars(engine)["prepare"] = ways[way]
                files = [folder / f"{width}-{number}.jpg" for number in range(FILES)]
                for number, file in enumerate(files):
                    picture(width, height, seed=number).save(file, quality=88)
                for count in (FILES, IMAGES):  # the first warms up
                    engine.reset()
                    clock.seconds.clear()
                    begin = time.perf_counter()
                    drive([Subject(files[number % FILES], f"{number}", questions) for number in range(count)])
                wall, each = time.perf_counter() - begin, sum(clock.seconds.values()) / count
                parts = ", ".join(f"{part} {1000 * spent / count:.2f}" for part, spent in clock.seconds.items())
                rates = f"{1 / each:.0f} images, {STEPS / each:.0f} requests a second; here {count / wall:.0f} images"
                print(f"{width} x {height}, processed {way}: {1000 * each:.2f} ms an image ({parts})\n  fed {rates}")
