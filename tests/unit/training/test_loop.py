""""""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_model

from hashtag_core.errors import IntegrityError, TrainingError
from hashtag_core.training.clock import PARTS
from hashtag_core.training.loader import BatchLoader
from hashtag_core.training.loop import TrainingLoop, choose_precision

from .toy import MemoryTable, ToyModel, make_loop, reading, settings, weights


def test_the_loss_falls_and_every_epoch_has_its_figures():
    progress = make_loop(settings(epochs=8), MemoryTable(200)).run()
    assert progress.epoch == 8
    losses = [row["train_loss"] for row in progress.history]
    assert losses[-1] < 0.9 * losses[0]
    assert set(progress.history[0]) == {
        "epoch", "train_loss", "quality", "learning_rate", "gradient_norm", "posts_per_second",
        *(f"step_{part}_ms" for part in PARTS),
    }  # fmt: skip
    assert all(math.isfinite(value) for row in progress.history for value in row.values())


def test_same_seed_same_weights_other_seed_other_weights():
    section = settings(epochs=2, modality_dropout=0.2)
    first, again, other = (
        make_loop(s, MemoryTable(60)) for s in (section, section, section.model_copy(update={"seed": 1}))
    )
    for loop in (first, again, other):
        loop.run()
    assert torch.equal(weights(first.model), weights(again.model))
    assert not torch.equal(weights(first.model), weights(other.model))


@pytest.mark.parametrize(
    ("epoch", "step", "average"), [(1, 0, None), (2, 0, 0.9), (1, 4, 0.9), (0, 6, None), (0, 2, 0.5)]
)
def test_a_run_that_was_stopped_ends_with_the_same_weights(tmp_path, epoch, step, average):
    section = settings(
        epochs=3, modality_dropout=0.2, accumulate=2, checkpoint_steps=1, schedule="cosine", weight_average=average
    )
    whole = make_loop(section, MemoryTable(60))
    whole.run()

    def stop(loop):
        if (loop.progress.epoch, loop.progress.step) == (epoch, step):
            loop.save(tmp_path / "checkpoint")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_loop(section, MemoryTable(60), on_checkpoint=stop).run()
    table = MemoryTable(60)
    resumed = make_loop(section, table, model=ToyModel(dropout=0.2))
    resumed.restore(tmp_path / "checkpoint")
    resumed.run()
    assert torch.equal(weights(whole.model), weights(resumed.model))
    figures = [
        [
            {k: v for k, v in row.items() if k != "posts_per_second" and not k.startswith("step_")}
            for row in r.progress.history
        ]
        for r in (whole, resumed)
    ]
    assert figures[0] == figures[1]


def test_the_average_of_the_weights_is_what_is_judged_and_kept(tmp_path):
    stepped, judged = [], []

    def note(progress, steps):
        stepped.append(weights(loop.model).clone())

    loop = make_loop(
        settings(epochs=2, batch_size=20, weight_average=0.6),
        MemoryTable(60),
        validate=lambda model, loop: (judged.append(weights(model).clone()), {"quality": 0.0})[1],
        on_step=note,
    )
    loop.run()
    expected, averages = stepped[0].clone(), []
    for steps, current in enumerate(stepped):
        decay = min(0.6, steps / (steps + 10))
        expected = decay * expected + (1 - decay) * current
        averages.append(expected)
    assert len(stepped) == 6
    assert torch.allclose(judged[0], averages[2], atol=1e-6)
    assert torch.allclose(judged[1], averages[5], atol=1e-6)
    assert not torch.allclose(judged[1], stepped[5], atol=1e-6)
    loop.save(tmp_path / "checkpoint")
    model = ToyModel()
    load_model(model, str(tmp_path / "checkpoint" / "weights.safetensors"))
    assert torch.equal(weights(model), judged[1])


def test_accumulated_batches_make_the_step_of_a_large_batch():
    table = MemoryTable(48)
    large = make_loop(settings(epochs=1, batch_size=24), table, model=ToyModel())
    torch.manual_seed(5)
    small_model = ToyModel()
    small_model.load_state_dict(large.model.state_dict())
    small = make_loop(settings(epochs=1, batch_size=8, accumulate=3), table, model=small_model)
    large.run(), small.run()
    assert torch.allclose(weights(large.model), weights(small.model), atol=1e-6)


def test_gradients_are_clipped_to_the_norm():
    loop = make_loop(settings(epochs=1, gradient_clip_norm=1e-9, optimizer="adam", weight_decay=0), MemoryTable(20))
    seen = []
    step = loop.optimizer.step
    loop.optimizer.step = lambda *a: (seen.append(torch.cat([p.grad.flatten() for p in loop.model.parameters() if p.grad is not None]).norm().item()), step())  # type: ignore[method-assign]  # fmt: skip
    progress = loop.run()
    assert max(seen) <= 1.01e-9
    assert progress.history[0]["gradient_norm"] > 1e-3, "the figure is the norm before clipping"


def test_first_best_epoch_wins_and_training_stops_early():
    values = iter([0.2, 0.5, 0.5, 0.4, 0.1, 0.9])
    improved = []
    loop = make_loop(
        settings(epochs=6, early_stopping_epochs=3),
        MemoryTable(20),
        validate=lambda model, loop: {"quality": next(values)},
        on_checkpoint=lambda loop: improved.append(loop.improved),
    )
    progress = loop.run()
    assert (progress.best_epoch, progress.best_value, progress.epoch, progress.stopped_early) == (1, 0.5, 5, True)
    assert improved == [True, True, False, False, False]


def test_a_loss_that_is_not_finite_names_epoch_step_and_posts():
    table = MemoryTable(24)
    table.image[7] = float("inf")
    loop = make_loop(settings(batch_size=4), table)
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) in epoch 0, step \d.*\bp7\b"):
        loop.run()
    assert torch.isfinite(weights(loop.model)).all()


def test_bfloat16_trains_too_and_precision_is_chosen_by_the_hardware():
    progress = make_loop(settings(epochs=4, precision="bfloat16"), MemoryTable(100)).run()
    assert progress.history[-1]["train_loss"] < progress.history[0]["train_loss"]
    assert choose_precision("auto", torch.device("cpu")) in {"float32", "bfloat16"}
    assert choose_precision("float16", torch.device("cpu")) == "float16"


def test_a_broken_checkpoint_names_its_folder(tmp_path):
    loop = make_loop(settings(), MemoryTable(20))
    folder = tmp_path / "checkpoint"
    loop.save(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]
    for name, content in [("weights.safetensors", b"short"), ("state.json", b"{"), ("state.json", b'{"format": 9}')]:
        loop.save(folder)
        (folder / name).write_bytes(content)
        with pytest.raises(IntegrityError, match="checkpoint"):
            loop.restore(folder)
    loop.save(folder)
    (folder / "optimizer.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"optimizer\.safetensors"):
        loop.restore(folder)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    make_loop(settings(), MemoryTable(20)).save(tmp_path / "checkpoint")
    other = make_loop(settings(), MemoryTable(20), model=ToyModel(unused=True))
    with pytest.raises(IntegrityError, match=r"not a checkpoint of this model.*spare"):
        other.restore(tmp_path / "checkpoint")


SCENARIOS = ("plain", "unused", "fault")


def _distributed(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    torch.set_num_threads(1)
    results = {}
    for scenario in SCENARIOS:
        table, section = MemoryTable(61), settings(epochs=2, batch_size=9, accumulate=2)
        if scenario == "fault":
            table.image[7] = float("inf")
        loader = BatchLoader(table, reading(), section, rank=rank, world=2)
        model = _seeded(unused=scenario == "unused")
        loop = TrainingLoop(model, section, loader, lambda model, loop: {"quality": 1.0}, "quality")
        try:
            loop.run()
            results[scenario] = {"weights": weights(loop.model), "history": loop.progress.history}
        except TrainingError as error:
            results[scenario] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _seeded(unused):
    torch.manual_seed(0)
    return ToyModel(unused=unused)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(_distributed, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("scenario", ["plain", "unused"])
def test_two_ranks_take_the_steps_of_one(two_ranks, scenario):
    first, second = (results[scenario] for results in two_ranks)
    assert torch.equal(first["weights"], second["weights"])
    section = settings(epochs=2, batch_size=9, accumulate=2)
    alone = make_loop(section, MemoryTable(61), model=_seeded(unused=scenario == "unused"))
    alone.run()
    assert torch.allclose(weights(alone.model), first["weights"], atol=1e-5)
    for mine, theirs in zip(alone.progress.history, second["history"], strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert mine["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-4)
        assert theirs["step_communication_ms"] > 0 == mine["step_communication_ms"]
        assert theirs["step_backward_ms"] > 0


def test_both_ranks_stop_at_a_loss_that_is_not_finite_and_say_the_same(two_ranks):
    first, second = (results["fault"] for results in two_ranks)
    assert first == second
    assert "p7" in first
