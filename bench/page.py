"""The page of results: a table for each race, ratios within rounds with their spread, and the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, stdev

from bench.contenders import BARE, BF16, OURS, PRODUCTS, PRODUCTS_BF16, Part
from bench.turns import Result, Spread, ratios

__all__ = ["page", "section"]

Lines = list[str]
Show = Callable[[Result], str]


def page(sections: Sequence[str], *, rounds: int, about: Mapping[str, str], rivals: Mapping[str, str]) -> str:
    """All of it, in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in rivals.items()) or "none"
    lines = [
        "# Benchmarks: training and evaluation speed",
        "",
        "Each contender is a process of its own; they take turns, and only one computes at a time, all with the",
        f"same number of threads and processors. {rounds} rounds after a warm-up; a ratio is formed within a round.",
        "Medians, with the least and the greatest in brackets. *Of the products*: the time of the matrix products",
        "alone, in fp32, by the contender's. *Cores*: processor time by wall time, in its turns.",
        "[README.md](README.md) says what the contenders are; `make bench` writes this page.",
        "",
        *sections,
        "## Leapfrogs of trained posteriors, effective samples, and the gap of the bounds",
        "",
        "[SAMPLERS.md](SAMPLERS.md), by `make bench-samplers`: gradients and effective samples per second beside",
        "BlackJAX and Pyro. [BOUNDS.md](BOUNDS.md), by `make bench-bounds`: what it costs to know log p(x).",
        "",
        "Machine: " + ", ".join(f"{key} {value}" for key, value in about.items()) + ".",
        f"The rivals' environment: {versions}.",
        "",
    ]
    return "\n".join(lines)


def section(race: Part, results: Sequence[Result], *, data: str) -> str:
    """The part of the page on one race."""
    by_name = {result.name: result for result in results}
    sections = {"training": _training, "quantiser": _quantiser, "importance": _importance, "ais": _ais}
    lines = sections[race.name](race, by_name, data)
    lines += ["", *_remarks(race, results), ""]
    return "\n".join(lines)


def _training(race: Part, results: Mapping[str, Result], data: str) -> Lines:
    head = [
        "## An epoch of training",
        "",
        "784-400-20, ReLU, batches of 128, Adam 1e-3, cross-entropy and the KL of two normals,",
        f"{race.work:,} grey images: {data}. The loss is in nats per example (the cross-entropy of grey pixels:",
        "not a log-likelihood) and shows that all did the same work, up to the draws that each makes for itself.",
        "",
    ]
    table = _table(race, results, "seconds per epoch", _seconds, "loss of the last epoch", _loss)
    closing = [
        f"elbowroom in fp32 reaches {_brief(_fraction(results[PRODUCTS], results[OURS]))} of the products' rate."
    ]
    if BF16 in results:
        other = _fraction(results[PRODUCTS_BF16], results[BF16])
        against = ratios(results[OURS].seconds, results[BF16].seconds)
        closing.append(f"In bf16 it is {_brief(against)} times as fast, {_brief(other)} of the products' rate in bf16.")
    return [*head, *table, "", *closing]


def _quantiser(race: Part, results: Mapping[str, Result], data: str) -> Lines:
    lines = [
        "## An epoch of vector quantisation",
        "",
        "784-400 and 400-784 around 24 slots of 16 codes, vectors of length 16; codebooks by moving averages from a",
        f"k-means start, the rotation trick, restarts of dead codes; {race.work:,} binary images: {data}. Nats of",
        "reconstruction per example in the last epoch, and perplexity of the codes, at most 16, of 10,000 images.",
        "",
        "| | seconds per epoch | × elbowroom's time | cores | reconstruction | perplexity |",
        "|---|---|---|---|---|---|",
    ]
    for result in results.values():
        cells = [
            result.name,
            _seconds(result),
            _brief(ratios(result.seconds, results[OURS].seconds)),
            f"{Spread.of(result.cores).middle:.1f}",
            _loss(result),
            f"{result.found['perplexity'][-1]:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _importance(race: Part, results: Mapping[str, Result], data: str) -> Lines:
    head = [
        "## Importance evaluation",
        "",
        f"log p(x) from 1,000 draws of the guide for each example, {race.work:,} decodes a turn; a Bernoulli decoder,",
        "20-400-784, as it starts. The last column is the estimate, nats, averaged over data and rounds.",
        "",
    ]
    table = _table(race, results, "decodes per second", _rate(race.work), "log p(x)", _estimate)
    fraction = _brief(_fraction(results[PRODUCTS], results[OURS]))
    return [*head, *table, "", f"elbowroom reaches {fraction} of the rate of the decoder's two products."]


def _ais(race: Part, results: Mapping[str, Result], data: str) -> Lines:
    head = [
        "## Annealed importance sampling",
        "",
        f"From the prior, linear temperatures, HMC of 10 leapfrog steps of 0.2, 16 chains an example: {race.work:,}",
        "leapfrogs a turn, the same model. The last column is the estimate, nats, averaged over data and rounds.",
        "",
    ]
    table = _table(race, results, "leapfrogs per second", _rate(race.work), "log p(x)", _estimate)
    fraction = _brief(_fraction(results[PRODUCTS], results[OURS]))
    closing = [f"elbowroom reaches {fraction} of the rate of a gradient's four products."]
    if BF16 in results:
        against = ratios(results[OURS].seconds, results[BF16].seconds)
        closing.append(
            f"With gradients in bf16, and weights and acceptance in fp32, it is {_brief(against)} times as fast."
        )
    return [*head, *table, "", *closing]


def _table(race: Part, results: Mapping[str, Result], measure: str, show: Show, reported: str, report: Show) -> Lines:
    ours, products = results[OURS], results[PRODUCTS]
    lines = [
        f"| | {measure} | × elbowroom's time | × {BARE}'s time | of the products | cores | {reported} |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results.values():
        cells = [
            result.name,
            show(result),
            _brief(ratios(result.seconds, ours.seconds)),
            _brief(ratios(result.seconds, results[BARE].seconds)),
            _brief(_fraction(products, result)),
            f"{Spread.of(result.cores).middle:.1f}",
            report(result),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _remarks(race: Part, results: Sequence[Result]) -> Lines:
    """What a reader needs to trust the table."""
    reports = [_reported(result) for result in results if result.found]
    digits = 1 if race.name == "training" else 3
    agreed = f"What the last column says lies within {max(reports) - min(reports):.{digits}f} nats of each other."
    idle = max(max(result.idle) for result in results)
    lines = [
        *([] if race.name == "quantiser" else [agreed]),
        f"A process that waited for its turn took {idle:.1%} of a processor at most.",
    ]
    if race.missing:
        lines.append(f"Left out: {'; '.join(race.missing)}.")
    return lines


def _fraction(products: Result, result: Result) -> Spread:
    """Of the products' rate: their time by the contender's, within each round."""
    return ratios(products.seconds, result.seconds)


def _reported(result: Result) -> float:
    """The loss after the last epoch; or the estimate of all rounds."""
    return result.found["loss"][-1] if "loss" in result.found else fmean(result.found["value"])


def _loss(result: Result) -> str:
    return f"{_reported(result):.1f}" if result.found else "–"


def _estimate(result: Result) -> str:
    """With the standard error that the rounds' differences tell."""
    if not result.found:
        return "–"
    values = result.found["value"]
    stderr = f" ± {stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{_reported(result):.3f}{stderr}"


def _seconds(result: Result) -> str:
    return _brief(Spread.of(result.seconds))


def _rate(work: int) -> Show:
    def show(result: Result) -> str:
        rate = Spread.of([work / seconds for seconds in result.seconds])
        return f"{rate.middle:,.0f} ({rate.least:,.0f}–{rate.greatest:,.0f})"

    return show


def _brief(spread: Spread) -> str:
    return f"{spread.middle:.2f} ({spread.least:.2f}–{spread.greatest:.2f})"
