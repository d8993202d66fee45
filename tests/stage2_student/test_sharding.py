"""Which weights the processes of a machine share."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from student_settings import Configure
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from sekd.models import load_vlm
from stage2_student.model import Student


@pytest.fixture
def mesh() -> Iterator[dist.DeviceMesh]:
    """Two processes, of which only the first is there: nothing is ever sent."""
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield dist.init_device_mesh("cpu", (2,))
    dist.destroy_process_group()


def test_one_of_two_processes_holds_half_of_what_is_frozen_and_all_of_what_is_trained(
    mesh: dist.DeviceMesh, configure: Configure
) -> None:
    config = configure()
    student = Student(load_vlm(config.model), config.lora)
    student.shard(mesh)
    for name, weights in student.named_parameters():
        if weights.requires_grad:
            assert not isinstance(weights, DTensor), name
        else:
            assert isinstance(weights, DTensor), name
            assert weights.to_local().shape[0] == -(-weights.shape[0] // 2), name


def test_the_layers_of_the_decoder_and_of_the_vision_tower_are_gathered_one_by_one(
    mesh: dist.DeviceMesh, configure: Configure
) -> None:
    config = configure()
    student = Student(load_vlm(config.model), config.lora)
    layers = [*student.decoder.layers, *student.base.model.visual.blocks]
    student.shard(mesh)
    assert {module for module in student.modules() if isinstance(module, FSDPModule)} == {student, *layers}
