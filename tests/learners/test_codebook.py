"""Codebooks that follow the encoder: k-means as the oracle of the moving averages, and restarts of dead codes."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from elbowroom.learners.codebook import CodebookAverages, k_means, read_by_table
from elbowroom.model.code_distributions import CodeSpace
from elbowroom.model.quantizer import Codebook

SLOTS, CODES, DIM = 2, 5, 3


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(rows: int = 200, *, clusters: int = CODES, spread: float = 0.3, seed: int = 0) -> Tensor:
    """Vectors around some centres, other ones in every slot; shape (rows, L, d)."""
    generator = _generator(seed)
    centres = 3 * torch.randn(clusters, SLOTS, DIM, generator=generator, dtype=torch.float64)
    member = torch.randint(clusters, (rows,), generator=generator)
    return centres[member] + spread * torch.randn(rows, SLOTS, DIM, generator=generator, dtype=torch.float64)


def codebook_at(table: Tensor) -> Codebook:
    codebook = Codebook(CodeSpace(*table.shape[:2]), table.shape[-1]).double()
    codebook.vectors.data.copy_(table)
    return codebook


def started(vectors: Tensor, codes: int = CODES) -> tuple[CodebookAverages, Codebook]:
    codebook = Codebook(CodeSpace(SLOTS, codes), DIM).double()
    averages = CodebookAverages.empty(codebook)
    codebook.vectors.data.copy_(k_means(vectors, codes, _generator()))
    averages.update(vectors, codebook.nearest(vectors), codebook, decay=0.0)
    return averages, codebook


def lloyd(vectors: Tensor, table: Tensor) -> Tensor:
    """One iteration by a loop over slots and codes."""
    moved = table.clone()
    for slot in range(len(table)):
        nearest = (vectors[:, slot, None] - table[slot]).norm(dim=-1).argmin(-1)
        for code in range(table.shape[1]):
            if bool((nearest == code).any()):
                moved[slot, code] = vectors[nearest == code, slot].mean(0)
    return moved


# --- k-means -----------------------------------------------------------------------------------------------------


def test_k_means_is_that_of_scikit_learn_from_the_same_start() -> None:
    vectors = points(spread=2.0)
    first = k_means(vectors, CODES, _generator(), iterations=0)
    ours = k_means(vectors, CODES, _generator(), iterations=7)
    for slot in range(SLOTS):
        theirs = KMeans(CODES, init=first[slot].numpy(), n_init=1, max_iter=7, tol=0, algorithm="lloyd")
        with warnings.catch_warnings(action="ignore"):  # that it may not have converged
            theirs.fit(vectors[:, slot].numpy())
        assert torch.allclose(ours[slot], torch.from_numpy(theirs.cluster_centers_), atol=1e-10)


def test_clusters_far_apart_are_found() -> None:
    vectors = points(clusters=CODES, spread=0.01)
    found = k_means(vectors, CODES, _generator())
    distance = (vectors.unsqueeze(-2) - found).norm(dim=-1).amin(-1)
    assert distance.max() < 0.1


def test_the_starts_are_different_points_of_the_data() -> None:
    """k-means++ never takes a point that a centre is at already, as long as there are others."""
    few = torch.randn(CODES, SLOTS, DIM, generator=_generator(), dtype=torch.float64)
    for seed in range(20):
        found = k_means(few.repeat(30, 1, 1), CODES, _generator(seed), iterations=0)
        for slot in range(SLOTS):
            assert sorted(found[slot].tolist()) == sorted(few[:, slot].tolist())


def test_starts_are_drawn_by_their_squared_distance() -> None:
    """Two points at 0, one at 1, one at 3: after a start at 0 the others follow with odds 1 : 9."""
    line = torch.tensor([0.0, 0.0, 1.0, 3.0], dtype=torch.float64).reshape(4, 1, 1).expand(4, 500, 1)
    found = k_means(line, 2, _generator(), iterations=0).squeeze(-1)
    from_zero = found[found[:, 0] == 0, 1]
    number = len(from_zero)
    assert abs(number - 250) / (500 * 0.25) ** 0.5 < 4
    assert abs(float((from_zero == 3).sum()) - 0.9 * number) / (number * 0.09) ** 0.5 < 4


def test_more_codes_than_points_leave_some_equal() -> None:
    vectors = points(3, spread=1.0)
    found = k_means(vectors, CODES, _generator())
    assert found.isfinite().all()
    for slot in range(SLOTS):
        assert len(found[slot].round(decimals=9).unique(dim=0)) == 3


# --- moving averages ---------------------------------------------------------------------------------------------


def test_without_memory_an_update_is_an_iteration_of_k_means() -> None:
    vectors = points(spread=2.0)
    table = k_means(vectors, CODES, _generator(), iterations=0)
    codebook = codebook_at(table)
    averages = CodebookAverages.empty(codebook)
    for _ in range(5):
        averages.update(vectors, codebook.nearest(vectors), codebook, decay=0.0)
        expected = lloyd(vectors, codebook.vectors.detach())
        assert torch.allclose(averages.centres(codebook.vectors), expected, rtol=1e-5)  # up to the smoothing
        codebook.vectors.data.copy_(averages.centres(codebook.vectors))


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_with_memory_they_end_where_k_means_ends(decay: float) -> None:
    vectors = points(spread=1.0)
    averages, codebook = started(vectors)
    codebook.vectors.data.add_(0.1 * torch.randn(SLOTS, CODES, DIM, generator=_generator(), dtype=torch.float64))
    for _ in range(400):
        averages.update(vectors, codebook.nearest(vectors), codebook, decay=decay)
        codebook.vectors.data.copy_(averages.centres(codebook.vectors))
    assert torch.allclose(codebook.vectors, lloyd(vectors, codebook.vectors.detach()), rtol=1e-4, atol=1e-4)


def test_the_averages_are_those_of_the_formula() -> None:
    vectors = points()
    averages, codebook = started(vectors)
    before = CodebookAverages(*(tensor.clone() for tensor in averages.tensors().values()))
    new = points(50, seed=3)
    z = codebook.nearest(new)
    averages.update(new, z, codebook, decay=0.9)
    numbers = codebook.space.numbers(z)
    for slot in range(SLOTS):
        for code in range(CODES):
            mine = new[numbers[:, slot] == code, slot]
            n = 0.9 * before.counts[slot, code] + 0.1 * len(mine)
            m = 0.9 * before.sums[slot, code] + 0.1 * mine.sum(0)
            assert torch.allclose(averages.counts[slot, code], n)
            assert torch.allclose(averages.sums[slot, code], m)
            assert torch.allclose(averages.centres(codebook.vectors)[slot, code], m / n, rtol=1e-4)
    nearest = (new.unsqueeze(-2) - codebook.vectors).square().sum(-1).amin(-1).mean(0)
    assert torch.allclose(averages.distances.squeeze(-1), 0.9 * before.distances.squeeze(-1) + 0.1 * nearest)


def _after_a_batch_of_one_cluster(averages: CodebookAverages, codebook: Codebook, vectors: Tensor) -> Tensor:
    """How far codes have moved that the batch did not use."""
    one = vectors[:1].expand(20, -1, -1)
    z = codebook.nearest(one)
    averages.update(one, z, codebook, decay=0.99)
    unused = codebook.space.split(z)[0] == 0
    return (averages.centres(codebook.vectors) - codebook.vectors).norm(dim=-1)[unused]


def test_codes_that_a_batch_does_not_use_stay_where_they_are() -> None:
    vectors = points()
    assert _after_a_batch_of_one_cluster(*started(vectors), vectors).max() < 1e-4


class FromZero(CodebookAverages):
    """Planted: as if nothing had been seen before, and a division by what little there is."""

    def centres(self, table: Tensor) -> Tensor:
        return self.sums / (self.counts + 1e-5).unsqueeze(-1)


def test_averages_from_zero_would_throw_them_to_the_origin() -> None:
    vectors = points()
    codebook = started(vectors)[1]
    averages = FromZero.empty(codebook)
    assert _after_a_batch_of_one_cluster(averages, codebook, vectors).max() > 1
    lost = averages.centres(codebook.vectors).norm(dim=-1) < 1e-6
    assert int(lost.sum()) == SLOTS * (CODES - 1)  # all but one in each slot, in one step


def test_averages_that_were_never_started_move_no_code_that_is_not_used() -> None:
    vectors = points()
    codebook = started(vectors)[1]
    assert _after_a_batch_of_one_cluster(CodebookAverages.empty(codebook), codebook, vectors).max() == 0


@pytest.mark.parametrize("decay", [0.9, 0.98])
def test_a_code_that_is_never_used_again_keeps_its_length(decay: float) -> None:
    """Without restarts it stays where it is; the smoothing alone would halve it before it is left in peace."""
    vectors = points(spread=1.0)
    averages, codebook = started(vectors)
    far = torch.full((DIM,), 100.0, dtype=torch.float64)
    codebook.vectors.data[:, 0] = far
    averages.sums[:, 0] = averages.counts[:, 0, None] * far
    for _ in range(round(30 / (1 - decay))):  # N falls below 1e-13 examples
        averages.update(vectors, codebook.nearest(vectors), codebook, decay=decay)
        codebook.vectors.data.copy_(averages.centres(codebook.vectors))
    assert float(averages.counts[:, 0].max()) < 1e-10
    torch.testing.assert_close(codebook.vectors[:, 0].detach(), far.expand(SLOTS, -1), rtol=2e-3, atol=0)


# --- dead codes --------------------------------------------------------------------------------------------------


def test_dead_codes_are_put_at_vectors_of_the_batch_and_no_others_move() -> None:
    vectors = points()
    averages, codebook = started(vectors)
    table = codebook.vectors.detach().clone()
    dead = torch.zeros(SLOTS, CODES, dtype=torch.bool)
    dead[0, 1] = dead[1, 4] = dead[1, 0] = True
    averages.counts[dead] = 1e-3
    averages.sums[dead] = 1e-3 * table[dead]
    kept = averages.counts[~dead].clone()
    moved = averages.restart(table, vectors, below=0.01, generator=_generator())
    assert torch.equal(moved[~dead], table[~dead])
    assert torch.equal(averages.counts[~dead], kept)
    for slot, code in dead.nonzero().tolist():
        assert bool((vectors[:, slot] == moved[slot, code]).all(-1).any())
    assert torch.allclose(averages.centres(table), moved, rtol=1e-3)  # the averages agree with the new places
    again = averages.restart(moved, vectors, below=0.01, generator=_generator(1))
    assert torch.equal(again, moved)  # they have time to be used


def test_places_of_restarted_codes_are_uniform_over_the_batch() -> None:
    rows = 10
    line = torch.arange(rows, dtype=torch.float64).reshape(rows, 1, 1).expand(rows, 400, 1)
    averages = CodebookAverages(
        torch.cat([torch.ones(400, 1), torch.zeros(400, 1)], 1).double(), torch.zeros(400, 2, 1).double(),
        torch.ones(400, 1).double(),
    )  # fmt: skip
    moved = averages.restart(torch.full((400, 2, 1), -1.0).double(), line, below=0.1, generator=_generator())
    assert bool((moved[:, 0] == -1).all())
    counts = torch.bincount(moved[:, 1, 0].long(), minlength=rows).double()
    chi_square = float(((counts - 40).square() / 40).sum())
    assert abs(chi_square - (rows - 1)) / (2 * (rows - 1)) ** 0.5 < 4


@pytest.mark.parametrize("below", [0.01, 0.1, 0.9])
def test_the_usage_of_a_restarted_code_is_an_equal_share_at_most(below: float) -> None:
    """More would raise what is equal, and others would be dead by that."""
    averages, codebook = started(points())
    averages.counts[:, 0] = 0.0
    equal = averages.counts.mean(-1)
    averages.restart(codebook.vectors.detach(), points(), below=below, generator=_generator())
    assert torch.allclose(averages.counts[:, 0], min(1.0, 10 * below) * equal)


def test_as_many_numbers_are_drawn_whether_codes_are_dead_or_not() -> None:
    states = []
    for usage in (0.0, 1.0):
        averages, codebook = started(points())
        averages.counts[0, 0] *= usage
        generator = _generator()
        averages.restart(codebook.vectors.detach(), points(), below=0.01, generator=generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_a_code_nobody_uses_comes_back() -> None:
    """A code far from all data: without restarts it stays there, with them every code is used in the end."""
    alive = {}
    for below in (0.0, 0.01):
        vectors = points(spread=1.0)
        averages, codebook = started(vectors)
        far = torch.full((DIM,), 100.0, dtype=torch.float64)
        codebook.vectors.data[:, 0] = far
        averages.sums[:, 0] = averages.counts[:, 0, None] * far
        generator = _generator()
        for _ in range(500):
            averages.update(vectors, codebook.nearest(vectors), codebook, decay=0.95)
            codebook.vectors.data.copy_(averages.centres(codebook.vectors))
            if below:
                moved = averages.restart(codebook.vectors.detach(), vectors, below=below, generator=generator)
                codebook.vectors.data.copy_(moved)
        used = codebook.space.split(codebook.nearest(vectors)).sum(0) > 0
        alive[below] = used.sum(-1).tolist()
    assert alive == {0.0: [CODES - 1] * SLOTS, 0.01: [CODES] * SLOTS}


def test_what_was_saved_is_restored() -> None:
    averages, codebook = started(points())
    tensors = {name: tensor.clone() for name, tensor in averages.tensors().items()}
    fresh = CodebookAverages.empty(codebook)
    fresh.load(tensors)
    assert all(torch.equal(fresh.tensors()[name], tensors[name]) for name in tensors)
    fresh.counts.add_(1)
    assert torch.equal(averages.counts, tensors["counts"])


def test_slots_that_share_a_table_are_rows_of_one_batch() -> None:
    """The averages of two places with a shared table are those of one place with twice as many examples."""
    space = CodeSpace(4, 3)
    shared, one = Codebook(space, 2, places=2), Codebook(CodeSpace(2, 3), 2)
    with torch.no_grad():
        one.vectors.copy_(shared.vectors)
    vectors = torch.randn(10, 4, 2, generator=_generator())
    rows = vectors.reshape(20, 2, 2)
    of_shared, of_one = CodebookAverages.empty(shared), CodebookAverages.empty(one)
    of_shared.update(vectors, shared.nearest(vectors), shared, decay=0.0)
    of_one.update(rows, one.nearest(rows), one, decay=0.0)
    for name, value in of_shared.tensors().items():
        torch.testing.assert_close(value, of_one.tensors()[name])
    assert torch.equal(read_by_table(vectors, shared), rows)
