"""NUTS as the papers have it: a tree of points built by recursion, for one chain, in Python's own floats.

A tree is the list of its points in order of time, and whether it turns is read off that list. Momenta, directions and
uniform numbers come from the same seed as the package's; everything from there on shares no code with it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from elbowroom.samplers.integrators import Integrator
from elbowroom.samplers.kernel import Info, State, Tuning, init
from elbowroom.samplers.metric import Metric
from elbowroom.samplers.nuts import NUTS
from elbowroom.samplers.target import Density

REPLICAS, DATA = 3, 16
Pair = tuple[float, float]
Matrix = tuple[Pair, Pair]


# --- the density: −a x²/2 − b y²/2 − c x y − d x⁴/4 + log(1 − x / edge), which is NaN beyond its edge


def batched_log_density(z: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, edge: Tensor) -> Tensor:
    x, y = z.unbind(-1)
    return -0.5 * a * x**2 - 0.5 * b * y**2 - c * x * y - 0.25 * d * x**4 + torch.log(1 - x / edge)


@dataclass
class Curve:
    a: float
    b: float
    c: float
    d: float
    edge: float

    def log_density(self, z: Pair) -> float:
        x, y = z
        if not x < self.edge:
            return math.nan
        smooth = -0.5 * self.a * x * x - 0.5 * self.b * y * y - self.c * x * y - 0.25 * self.d * x**4
        return smooth + math.log(1 - x / self.edge)

    def gradient(self, z: Pair) -> Pair:
        x, y = z
        return (-self.a * x - self.c * y - self.d * x**3 - 1 / (self.edge - x), -self.b * y - self.c * x)


# --- phase space


@dataclass
class Point:
    w: Pair
    r: Pair
    z: Pair
    force: Pair
    log_density: float

    @property
    def energy(self) -> float:
        return -self.log_density + 0.5 * dot(self.r, self.r)


def dot(u: Pair, v: Pair) -> float:
    return u[0] * v[0] + u[1] * v[1]


@dataclass
class Chain:
    """One chain: its density, metric z = m + C w and step size, and the decisions made for it."""

    curve: Curve
    center: Pair
    C: Matrix
    step_size: float
    rotates: bool
    forward: list[bool]  # by doubling
    leaf_uniforms: list[list[float]]  # by doubling, by leaf from the second on
    merge_uniforms: list[float]  # by doubling

    def at(self, w: Pair, r: Pair) -> Point:
        z = (self.center[0] + dot(self.C[0], w), self.center[1] + dot(self.C[1], w))
        g = self.curve.gradient(z)
        pulled = (self.C[0][0] * g[0] + self.C[1][0] * g[1], self.C[0][1] * g[0] + self.C[1][1] * g[1])
        if self.rotates:
            pulled = (pulled[0] + w[0], pulled[1] + w[1])
        return Point(w, r, z, pulled, self.curve.log_density(z))

    def start(self, z: Pair, r: Pair) -> Point:
        (p, q), (s, t) = self.C
        x, y = z[0] - self.center[0], z[1] - self.center[1]
        determinant = p * t - q * s
        return self.at(((t * x - q * y) / determinant, (p * y - s * x) / determinant), r)

    def leapfrog(self, point: Point, time: float) -> Point:
        r = tuple(point.r[i] + 0.5 * time * point.force[i] for i in (0, 1))
        w = point.w
        if self.rotates:
            cos, sin = math.cos(time), math.sin(time)
            w, r = tuple(cos * w[i] + sin * r[i] for i in (0, 1)), tuple(cos * r[i] - sin * w[i] for i in (0, 1))
        else:
            w = tuple(w[i] + time * r[i] for i in (0, 1))
        new = self.at(w, r)
        new.r = tuple(r[i] + 0.5 * time * new.force[i] for i in (0, 1))
        return new


# --- the tree


def stretch_turns(points: list[Point]) -> bool:
    first, last = points[0].r, points[-1].r
    rho = tuple(sum(point.r[i] for point in points) - 0.5 * (first[i] + last[i]) for i in (0, 1))
    return dot(rho, first) <= 0 or dot(rho, last) <= 0


def tree_turns(points: list[Point]) -> bool:
    half = len(points) // 2
    return stretch_turns(points) or stretch_turns(points[: half + 1]) or stretch_turns(points[half - 1 :])


class Subtree:
    """A doubling: leaves in the order in which they are made, the point chosen among them, and their weight."""

    def __init__(self, chain: Chain, start: Point, initial_energy: float, time: float, uniforms: list[float]) -> None:
        self.chain, self.newest, self.initial_energy, self.time = chain, start, initial_energy, time
        self.uniforms = iter(uniforms)
        self.acceptances: list[float] = []
        self.weights: list[float] = []
        self.divergent = False
        self.chosen = start

    def build(self, depth: int) -> list[Point] | None:
        """2^depth points in order of time; None where they diverge or turn."""
        if depth == 0:
            return self.leaf()
        near = self.build(depth - 1)
        if near is None:
            return None
        far = self.build(depth - 1)
        if far is None:
            return None
        points = near + far if self.time > 0 else far + near
        return None if tree_turns(points) else points

    def leaf(self) -> list[Point] | None:
        self.newest = self.chain.leapfrog(self.newest, self.time)
        change = self.newest.energy - self.initial_energy
        if not change <= 1000:  # NaN too
            self.acceptances.append(0.0 if math.isnan(change) else min(1.0, math.exp(-min(change, 700.0))))
            self.divergent = True
            return None
        self.acceptances.append(min(1.0, math.exp(-change)))
        self.weights.append(math.exp(-change))
        if len(self.weights) == 1 or next(self.uniforms) < self.weights[-1] / sum(self.weights):
            self.chosen = self.newest
        return [self.newest]


@dataclass
class Outcome:
    chosen: Point
    acceptance: float
    divergent: bool
    num_gradients: int


def transition(chain: Chain, z: Pair, r: Pair, max_depth: int) -> Outcome:
    start = chain.start(z, r)
    trajectory, chosen, weight = [start], start, 1.0
    acceptances: list[float] = []
    divergent = False
    for depth in range(max_depth):
        forward = chain.forward[depth]
        end, time = (trajectory[-1], chain.step_size) if forward else (trajectory[0], -chain.step_size)
        subtree = Subtree(chain, end, start.energy, time, chain.leaf_uniforms[depth])
        points = subtree.build(depth)
        acceptances += subtree.acceptances
        divergent = subtree.divergent
        if points is None:
            break
        if chain.merge_uniforms[depth] < sum(subtree.weights) / weight:
            chosen = subtree.chosen
        weight += sum(subtree.weights)
        trajectory = trajectory + points if forward else points + trajectory
        if tree_turns(trajectory):
            break
    return Outcome(chosen, sum(acceptances) / len(acceptances), divergent, len(acceptances))


# --- the comparison


@dataclass
class Case:
    target: Density
    state: State
    tuning: Tuning
    columns: list[list[float]]  # of the curves, by datum


def make_case(metric: str, seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    a, b = 10 ** uniform(-1, 1, DATA), 10 ** uniform(-1, 1, DATA)
    c, d, edge = 0.5 * (a * b).sqrt() * uniform(-1, 1, DATA), uniform(0, 1, DATA), uniform(3, 9, DATA)
    a[0], a[1], edge[2] = 1e9, 1e4, 0.5  # diverges at once; diverges after a while; steps over its edge
    data = (a, b, c, d, edge)
    z = 0.4 * torch.randn(REPLICAS, DATA, 2, generator=generator, dtype=torch.float64)
    step_size = 10 ** uniform(-1.3, 0.0, DATA)
    step_size[1:3] = torch.tensor([0.025, 0.3])
    center = 0.3 * torch.randn(DATA, 2, generator=generator, dtype=torch.float64)
    root = torch.randn(DATA, 2, 4, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT / 4 + 0.2 * torch.eye(2, dtype=torch.float64)
    matrix[1:3] = torch.eye(2, dtype=torch.float64)
    metrics = {
        "diagonal": lambda: Metric.diagonal(matrix.diagonal(dim1=-2, dim2=-1).sqrt(), center),
        "dense": lambda: Metric.dense(matrix, center),
        "precision": lambda: Metric.from_precision(matrix, center),
    }
    target = Density(batched_log_density, *data)
    columns = [[float(values[n]) for values in data] for n in range(DATA)]
    return Case(target, init(target, z.clamp(max=0.45)), Tuning(step_size, metrics[metric]()), columns)


def outcomes(case: Case, integrator: Integrator, max_depth: int, seed: int) -> list[list[Outcome]]:
    """Every chain on its own, with the decisions that the seed makes for it."""
    generator = torch.Generator().manual_seed(seed)
    shape = case.state.z.shape
    r = torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform() -> list[list[float]]:
        return torch.rand(*shape[:2], generator=generator, dtype=torch.float64).tolist()

    directions, leaves, merges = [], [], []
    for depth in range(max_depth):
        directions.append(uniform())
        leaves.append([uniform() for _ in range(2**depth - 1)])
        merges.append(uniform())

    def one(replica: int, n: int) -> Outcome:
        metric = case.tuning.metric
        C = metric.factor[n] if metric.is_dense else torch.diag(metric.factor[n])
        (p, q), (s, t) = C.tolist()
        chain = Chain(
            Curve(*case.columns[n]),
            tuple(metric.center[n].tolist()),
            ((p, q), (s, t)),
            float(case.tuning.step_size[n]),
            integrator == "rotation",
            [numbers[replica][n] < 0.5 for numbers in directions],
            [[numbers[replica][n] for numbers in of_depth] for of_depth in leaves],
            [numbers[replica][n] for numbers in merges],
        )
        return transition(chain, tuple(case.state.z[replica, n].tolist()), tuple(r[replica, n].tolist()), max_depth)

    return [[one(replica, n) for n in range(DATA)] for replica in range(REPLICAS)]


def tensor(rows: list[list[Outcome]], read: object) -> Tensor:
    return torch.tensor([[read(outcome) for outcome in row] for row in rows], dtype=torch.float64)


def assert_equal(state: State, info: Info, expected: list[list[Outcome]]) -> None:
    def close(actual: Tensor, read: object) -> None:
        torch.testing.assert_close(actual.double(), tensor(expected, read), rtol=1e-9, atol=1e-9)

    close(info.num_gradients, lambda o: o.num_gradients)
    close(info.divergent, lambda o: o.divergent)
    close(state.z, lambda o: o.chosen.z)
    close(state.log_density, lambda o: o.chosen.log_density)
    close(info.energy, lambda o: o.chosen.energy)
    close(info.acceptance, lambda o: o.acceptance)


@pytest.mark.parametrize("compact", [False, True], ids=["lockstep", "compact"])
@pytest.mark.parametrize("metric", ["diagonal", "dense", "precision"])
@pytest.mark.parametrize("integrator", ["leapfrog", "rotation"])
@pytest.mark.parametrize("max_depth", range(1, 7))
def test_equals_the_recursion(max_depth: int, integrator: Integrator, metric: str, compact: bool) -> None:
    seed = 10 * max_depth + len(metric)
    case = make_case(metric, seed)
    kernel = NUTS(max_depth=max_depth, integrator=integrator, compact=compact)
    state, info = kernel.step(case.target, case.state, case.tuning, generator=torch.Generator().manual_seed(seed))
    expected = outcomes(case, integrator, max_depth, seed)
    assert_equal(state, info, expected)
    torch.testing.assert_close(state.gradient, case.target.gradient(state.z), rtol=0, atol=0)


def test_the_cases_are_of_every_kind() -> None:
    """The comparison is worth something only if trajectories end in all the ways there are, at many lengths."""
    ends: set[str] = set()
    lengths: set[int] = set()
    for max_depth in range(1, 7):
        case = make_case("dense", seed := 10 * max_depth + len("dense"))
        for row in outcomes(case, "leapfrog", max_depth, seed):
            for outcome in row:
                complete = (outcome.num_gradients + 1).bit_count() == 1
                at_once = outcome.num_gradients == 1
                ends.add(
                    ("diverged at once" if at_once else "diverged later")
                    if outcome.divergent
                    else "stopped by depth or turned as a whole"
                    if complete
                    else "turned within the new part"
                )
                lengths.add(outcome.num_gradients)
    assert len(ends) == 4
    assert len(lengths) > 12 and max(lengths) == 63
