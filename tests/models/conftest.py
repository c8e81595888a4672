"""One torch thread in tests: the same sums on every machine, and no fight over its cores."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    torch.set_num_threads(1)
