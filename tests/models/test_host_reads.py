"""A training step of each family asks nothing of the device, but where it is said and why."""

import pytest
import torch

from tests.models.host_reads import ON_PURPOSE, HostReads
from tests.models.test_every_family import CAPTION, IMAGE, ROWS, neural, neural_examples
from tests.models.world import make, targets

SILENT = {
    "lxmert4hashtag", "nic", "resnet_multilabel", "show_attend_tell", "tagnet", "tweet_embedding", "vgg_object_scene",
}  # fmt: skip
"""Families that read nothing."""


@neural_examples
def test_a_step_waits_for_the_device_only_where_it_is_said(name: str, example: str) -> None:
    subject = make(name, example)
    model = neural(subject).train()
    batch, wanted = subject.batch(ROWS, IMAGE, CAPTION), targets(ROWS)
    with HostReads() as reads:
        model(batch, wanted).backward()
    assert reads.files <= ON_PURPOSE.keys()
    if name in SILENT:
        assert not reads.files


@pytest.mark.parametrize(
    "reading",
    [
        lambda x: float(x[0]),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.tolist() if x.device.type == "cuda" else x.sum().item(),
    ],
)
def test_what_reads_is_seen(reading) -> None:  # type: ignore[no-untyped-def]
    with HostReads() as reads:
        reading(torch.arange(4.0))
    assert reads.files == {"?"}


def test_what_does_not_read_is_not_seen() -> None:
    with HostReads() as reads:
        x = torch.arange(4.0)
        torch.where(x > 1, x, 0.0)[torch.tensor([0, 1])].softmax(0)
    assert reads.files == set()
