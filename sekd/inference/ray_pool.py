"""The pool's workers as Ray actors.

The workers write to a disk that every node must see under the same path; the project must be installed on every node.
Without ``RAY_ADDRESS`` in the environment Ray starts on this machine alone.

Ray detects actors and nodes that die. A mailbox actor on the driver's node carries jobs and messages while an actor's
one long call runs, so that the pool detects an actor that hangs.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sekd.errors import SekdError, first_line
from sekd.inference.config import EngineConfig
from sekd.inference.pool import Job, Message, Worker, serve
from sekd.stop import Stop

try:
    import ray
except ImportError:
    raise SekdError("cluster=ray needs Ray: pip install 'sekd[ray]'") from None


@contextmanager
def ray_actors(open_worker: Callable[[], Worker], engine: EngineConfig) -> Iterator["RayPool"]:
    """Connect to the cluster, or start one.

    Raises:
        SekdError: the cluster cannot be reached, no node could hold a worker, or Ray fails.
    """
    address = os.environ.get("RAY_ADDRESS")
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SekdError(f"no Ray cluster at RAY_ADDRESS={address}: {first_line(error)}") from error
    try:
        yield RayPool(open_worker, engine)
    except ray.exceptions.RayError as error:
        raise SekdError(f"Ray failed ({first_line(error)}); what was written stays, run the same command") from error
    finally:
        ray.shutdown()


class RayPool:
    """Workers as actors: a ``Backend`` of the pool."""

    def __init__(self, open_worker: Callable[[], Worker], engine: EngineConfig) -> None:
        self._open_worker = open_worker
        on_gpu = engine.device == "cuda"
        self._cpus, self._gpus = (engine.readers, engine.tensor_parallel_size) if on_gpu else (engine.threads, 0)
        if not self._fits():
            raise SekdError(f"no node of the Ray cluster has room for a worker{self.room}")
        node = ray.get_runtime_context().get_node_id()
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
        mailbox: Any = ray.remote(Mailbox)
        self._mailbox: Any = mailbox.options(num_cpus=0, scheduling_strategy=here).remote()
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, str] = {}

    def _fits(self) -> bool:
        """Whether a running node has the resources of a worker."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return any(node.get("CPU", 0) >= self._cpus and node.get("GPU", 0) >= self._gpus for node in nodes)

    @property
    def room(self) -> str:
        there = ray.cluster_resources()
        return (
            f": each needs {self._cpus} CPUs and {self._gpus} GPUs on one node, and all nodes together have "
            f"{there.get('CPU', 0):.0f} CPUs and {there.get('GPU', 0):.0f} GPUs"
        )

    def start(self, name: str) -> None:
        actor: Any = ray.remote(num_cpus=self._cpus, num_gpus=self._gpus, max_restarts=0)(Actor).remote()
        self._actors[name] = actor
        self._calls[actor.serve.remote(name, self._mailbox, self._open_worker, str(Path.cwd()))] = name

    def send(self, name: str, job: Job) -> None:
        self._mailbox.hand_out.remote(name, job)

    def receive(self, timeout: float) -> list[Message]:
        done, _ = ray.wait(list(self._calls), timeout=timeout)
        ended = [self._end(call) for call in done]
        return [*ray.get(self._mailbox.messages.remote()), *ended]  # an actor's last messages come before its end

    def _end(self, call: Any) -> Message:
        name = self._calls.pop(call)
        try:
            ray.get(call)
        except ray.exceptions.RayTaskError as error:
            return name, "failed", f"{error.cause or error}"
        except ray.exceptions.RayActorError as error:
            self.kill(name)  # an unreachable one must not continue beside its replacement
            return name, "lost", first_line(error)
        return name, "lost", "it ended by itself"

    def kill(self, name: str) -> None:
        ray.kill(self._actors.pop(name))
        self._calls = {call: owner for call, owner in self._calls.items() if owner != name}

    def shutdown(self, busy: Sequence[str]) -> None:
        """``ray_actors`` kills them."""


class Mailbox:
    """An actor on the driver's node: the workers' messages, and each one's next job."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._jobs: dict[str, Job] = {}

    def say(self, *message: Any) -> None:
        self._messages.append(message)

    def messages(self) -> list[Message]:
        messages, self._messages = self._messages, []
        return messages

    def hand_out(self, name: str, job: Job) -> None:
        self._jobs[name] = job

    def take(self, name: str) -> list[Job]:
        return [self._jobs.pop(name)] if name in self._jobs else []


class Actor:
    """One worker on the cluster."""

    def serve(self, name: str, mailbox: Any, open_worker: Callable[[], Worker], folder: str) -> None:
        """Work until the actor is killed, in the driver's working directory."""
        os.chdir(folder)

        def say(kind: str, content: Any) -> None:
            sent = mailbox.say.remote(name, kind, content)
            if kind == "failed":
                ray.get(sent)  # it must arrive before the end of this call

        def take(timeout: float) -> list[Any]:
            jobs = ray.get(mailbox.take.remote(name))
            if not jobs:
                time.sleep(timeout)
            return jobs

        serve(open_worker, say=say, take=take, stop=Stop())
