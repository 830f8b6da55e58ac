"""Figures of codes: every code is in its place, unused ones are marked, and the examples are the most certain ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elbowroom.errors import ElbowroomError
from elbowroom.running.runs import Run
from elbowroom.showing import code_gallery, plots
from small_runs import tiny

SHARES = [[0.1, 0.0, 0.9], [0.2, 0.5, 0.3]]


def test_codes_are_in_order_of_frequency_and_unused_ones_are_marked() -> None:
    figure = plots.code_usage_figure(SHARES, [1.4, 2.8], note="Of 10.")
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown.filled(0), [[0.9, 0.1, 0.0], [0.5, 0.3, 0.2]])
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), [[False, False, True], [False] * 3])
    assert [bar.get_width() for bar in figure.axes[1].patches] == [1.4, 2.8]
    assert figure._supxlabel.get_text() == "Pale red: 1 code that no example has. Of 10."
    assert figure.axes[0].get_ylim() == (2.5, 0.5)  # the first slot is above


def test_shares_need_a_perplexity_for_each_slot() -> None:
    with pytest.raises(ElbowroomError, match="one perplexity"):
        plots.code_usage_figure(SHARES, [1.0])


def test_pictures_of_codes_have_labels_and_captions() -> None:
    pictures = torch.zeros(2, 3, 4, 4)
    pictures[1, 2] = 1
    figure = plots.code_pictures_figure(pictures, ["slot 1", "slot 2"], captions=list("abcdef"))
    assert [text.get_text() for text in figure.axes[0].texts] == ["slot 1", "slot 2", *"abcdef"]
    pixels = np.asarray(figure.axes[0].images[0].get_array())
    assert (pixels[-5:, -5:] == 255).all()
    for labels, captions in ((["one"], []), (["one", "two"], ["a"])):
        with pytest.raises(ElbowroomError, match="row labels"):
            plots.code_pictures_figure(pictures, labels, captions=captions)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, _lonely_machine: None) -> Run:
    x = np.random.default_rng(0).integers(0, 2, (90, 4, 4)).astype(np.uint8)
    return tiny(
        x, tmp_path_factory.mktemp("run") / "run", data={"test": 40}, train={"steps": 60}, optimizer={"lr": 0.05},
        model={"prior": "unigram", "slots": 3, "codes": 4}, objective={"estimator": "straight-through", "beta": 0.1},
    )  # fmt: skip


def spy(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    seen: list[Any] = []
    real = getattr(plots, name)

    def draw(*values: Any, **settings: Any) -> Any:
        seen.extend([*values, settings])
        return real(*values, **settings)

    monkeypatch.setattr(plots, name, draw)
    return seen


def test_examples_of_a_code_are_those_that_have_it_most_certainly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch, "code_pictures_figure")
    code_gallery.code_examples(run)
    pictures, labels, _ = seen
    probs, x = run.model.space.split(run.encode().mean), next(run.dataset().batches("test", 40)).x
    for row, label in zip(pictures, labels, strict=True):
        slot, code = (int(word.split()[1]) for word in label.split(", "))
        best = probs[:, slot - 1, code].argsort(descending=True, stable=True)[:10]
        torch.testing.assert_close(row, x[best])


def test_swaps_change_one_slot_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch, "code_pictures_figure")
    code_gallery.code_swaps(run)
    means, labels, settings = seen
    numbers = run.encode(points=1000).codes
    assert numbers is not None
    captions = np.array(settings["captions"]).reshape(3, 4)
    for row, label in enumerate(labels):
        slot = int(label.split()[1]) - 1
        assert sorted(captions[row]) == list("0123")
        own = list(captions[row]).index(str(int(numbers[0, slot])))
        expected = run.decode(run.model.space.one_hot(numbers[:1]))
        torch.testing.assert_close(means[row, own], expected[0])  # with its own code, the example's own mean


def test_the_usage_is_that_of_the_most_likely_codes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = spy(monkeypatch, "code_usage_figure")
    encoded = run.encode()
    code_gallery.codes(run, encoded)
    shares, perplexity, _ = seen
    assert encoded.codes is not None
    for slot in range(3):
        counts = torch.bincount(encoded.codes[:, slot], minlength=4).double() / len(encoded.codes)
        torch.testing.assert_close(shares[slot].double(), counts)
        assert perplexity[slot] == pytest.approx(float(torch.special.entr(counts).sum().exp()))


def test_a_path_writes_a_file(tmp_path: Path) -> None:
    plots.code_usage_figure(SHARES, [1.0, 2.0], path=tmp_path / "codes.png")
    assert (tmp_path / "codes.png").is_file()


def test_maps_have_a_colour_for_each_code_at_its_place() -> None:
    pictures, maps = torch.zeros(2, 4, 6), torch.tensor([[[0, 1, 2], [2, 1, 0]], [[1, 1, 1], [0, 0, 0]]])
    decoded = torch.ones(2, 2, 4, 6)
    figure = plots.code_maps_figure(pictures, maps, decoded, ["mean", "again"], codes=3)
    assert [text.get_text() for text in figure.axes[0].texts] == ["example", "codes", "mean", "again"]
    pixels = np.asarray(figure.axes[0].images[0].get_array()).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) == 3 + 2 + 1  # codes, black and white, the seams
    with pytest.raises(ElbowroomError, match="a map of codes"):
        plots.code_maps_figure(pictures, maps[:, :, :2], decoded, ["mean", "again"], codes=3)
    with pytest.raises(ElbowroomError, match="with 1 labels"):
        plots.code_maps_figure(pictures, maps, decoded, ["mean"], codes=3)


def test_completions_keep_the_codes_of_the_upper_half(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {"kind": "grid", "width": 4, "patch": 2}
    model = {
        "prior": "transformer",
        "prior_width": 8,
        "slots_per_place": 1,
        "codes": 3,
        "encoder": part,
        "decoder": part,
    }
    x = np.random.default_rng(0).integers(0, 2, (60, 4, 6)).astype(np.uint8)
    objective = {"estimator": "straight-through"}
    placed = tiny(x, tmp_path / "run", model=model, objective=objective, train={"steps": 3})
    seen, read = spy(monkeypatch, "code_maps_figure"), list[torch.Tensor]()
    decode = Run.decode
    monkeypatch.setattr(Run, "decode", lambda run, z, **given: (read.append(z), decode(run, z, **given))[1])
    code_gallery.code_maps(placed)
    pictures, maps, decoded, _, _ = seen
    encoded = placed.encode(points=8)
    assert encoded.codes is not None
    assert torch.equal(maps.flatten(1), encoded.codes)
    torch.testing.assert_close(decoded[0], placed.decode(placed.model.space.one_hot(encoded.codes)))
    positions = torch.tensor(encoded.rows["row"])
    assert torch.equal(pictures, torch.as_tensor(x)[positions].float())
    own, *completed = (placed.model.space.numbers(z) for z in read[:3])  # 2 × 3 places
    assert torch.equal(own, encoded.codes)
    for numbers in completed:
        assert torch.equal(numbers[:, :3], own[:, :3])
        assert (numbers[:, 3:] != own[:, 3:]).any()
    assert not torch.equal(*completed)
    assert not torch.equal(decoded[1], decoded[2])
    with pytest.raises(ElbowroomError, match="have no places"):
        code_gallery.code_maps(run)


def test_samples_grow_by_the_codes_that_are_known(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """After t codes: the average of means over codes that keep the first t; at the end the mean of all codes."""
    seen, read = spy(monkeypatch, "code_pictures_figure"), list[torch.Tensor]()

    def decode(run: Run, z: torch.Tensor, **given: Any) -> torch.Tensor:
        """Of a decoder that tells all codes apart."""
        read.append(z)
        return z[..., :1, None] + z[..., None, :4] * torch.arange(4.0).unsqueeze(-1)

    monkeypatch.setattr(Run, "decode", decode)
    code_gallery.code_growth(run, seed=1)
    pictures, names, captions = seen[0], seen[1], seen[-1]["captions"]
    *grown, whole = (run.model.space.numbers(z) for z in read)
    space, stages = run.model.space, len(read)
    assert stages == space.slots + 1 and pictures.shape[:2] == (6, stages) == (len(names), stages)
    assert captions[:2] == ["0", f"1 of {space.slots}"]
    for known, numbers in enumerate(grown):
        assert numbers.shape == (16, 6, space.slots)
        assert torch.equal(numbers[..., :known], whole[..., :known].expand(16, 6, known))
        assert (numbers[..., known:] != whole[..., known:]).any()
    torch.testing.assert_close(pictures[:, -1], decode(run, space.one_hot(whole[0])))
    for known, numbers in enumerate(grown):
        torch.testing.assert_close(pictures[:, known], decode(run, space.one_hot(numbers)).mean(0))


def test_samples_of_a_model_of_classes_grow_in_the_context_of_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"prior": "transformer", "prior_width": 8, "slots": 11, "codes": 3}
    x, labels = np.random.default_rng(0).integers(0, 2, (60, 4, 4)).astype(np.uint8), np.arange(60) % 3
    objective = {"estimator": "straight-through"}
    run = tiny(
        x,
        tmp_path / "run",
        labels=labels,
        data={"context": "labels"},
        model=model,
        objective=objective,
        train={"steps": 3},
    )
    seen, given = spy(monkeypatch, "code_pictures_figure"), list[Any]()
    decode = Run.decode

    def watched(run: Run, z: torch.Tensor, *, context: Any) -> torch.Tensor:
        given.append(context)
        return decode(run, z, context=context)

    monkeypatch.setattr(Run, "decode", watched)
    code_gallery.code_growth(run)
    assert seen[0].shape == (6, 9, 4, 4)
    assert [caption.split()[0] for caption in seen[-1]["captions"][:9]] == [*"013467", "8", "10", "11"]
    data = run.dataset()
    index = next(iter(data.batches("test", 6, points=6))).index
    assert index is not None and len(given) == 9
    expected = data.context_as_given(index)
    assert expected is not None and all(torch.equal(one, expected) for one in given)


def test_levels_have_maps_of_their_own_and_what_the_top_alone_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {"kind": "grid", "width": 4, "patch": 1}
    model = {"prior": "transformer", "prior_width": 8, "slots_per_place": 1, "code_levels": 2, "codes": 3}
    x = np.random.default_rng(0).integers(0, 2, (60, 4, 6)).astype(np.uint8)
    objective = {"estimator": "straight-through"}
    keys = model | {"encoder": part, "decoder": part}
    run = tiny(x, tmp_path / "run", model=keys, objective=objective, train={"steps": 3})
    read = list[torch.Tensor]()
    decode = Run.decode
    monkeypatch.setattr(Run, "decode", lambda run, z, **given: (read.append(z), decode(run, z, **given))[1])
    figure = code_gallery.code_maps(run)
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == ["example", "codes, level 1", "codes, level 2", "mean", "level 1 alone", "again"]
    own, *alone = (run.model.space.numbers(z) for z in read)
    encoded = run.encode(points=8)
    assert encoded.codes is not None and torch.equal(own, encoded.codes)
    for numbers in alone:
        assert torch.equal(numbers[:, :6], own[:, :6]) and (numbers[:, 6:] != own[:, 6:]).any()
    assert len(alone) == 2 and not torch.equal(*alone)
    wrong = [torch.zeros(2, 2, 3, dtype=torch.int64), torch.zeros(2, 4, 5, dtype=torch.int64)]
    with pytest.raises(ElbowroomError, match=r"maps \(2, 2, 3\) and \(2, 4, 5\)"):
        plots.code_maps_figure(torch.zeros(2, 4, 6), wrong, torch.ones(1, 2, 4, 6), ["mean"], codes=3)
