"""``elbowroom recipes list`` and ``show``: configurations that come with the package."""

from __future__ import annotations

import re
import textwrap

from elbowroom.cli.options import Json
from elbowroom.cli.speech import print_json, say
from elbowroom.running.config import recipe_names, recipe_text

__all__ = ["recipes_list", "recipes_show"]

#: replications of papers: the prefix that the names of a group share, and what the group is
_REPLICATIONS = {
    "aevb-fig2-": "Kingma & Welling (2014), figure 2: AEVB and wake-sleep on MNIST, nz latent dimensions",
    "aevb-fig3-": "Kingma & Welling (2014), figure 3: training methods compared on n digits of MNIST",
    "concrete-": "Maddison et al. (2017), Concrete distribution: binary latents on MNIST, static bits",
    "gumbel-": "Jang et al. (2017), Gumbel-softmax: categorical latents on MNIST, slots x codes, static bits",
    "iwae-1l-": "Burda et al. (2016), IWAE: one stochastic layer on MNIST, k draws in the bound",
    "iwae-2l-": "Burda et al. (2016), IWAE: two stochastic layers on MNIST, k draws in the bound",
}
_WIDTH = 110  # of a line that lists the recipes of a group


def recipes_list(*, as_json: Json = False) -> None:
    """List the recipes, with a short description of each."""
    from elbowroom.showing import terminal

    rows = [{"name": name, "description": _first_sentence(recipe_text(name))} for name in recipe_names()]
    if as_json:
        print_json({"recipes": rows})
        return
    terminal.print_table([row for row in rows if not row["name"].startswith(tuple(_REPLICATIONS))])
    say("\nreplications of papers; a recipe's name is that of its group and one of the endings, as aevb-fig2-nz3")
    for prefix, description in _REPLICATIONS.items():
        endings = [row["name"].removeprefix(prefix) for row in rows if row["name"].startswith(prefix)]
        listed = ", ".join(sorted(endings, key=_by_number))
        say(f"\n{prefix}…  {description}")
        say(textwrap.indent(textwrap.fill(listed, _WIDTH, break_on_hyphens=False), "  "))


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts nz3 before nz10."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def _first_sentence(recipe: str) -> str:
    """First sentence of the comment at the head of a recipe; "et al." does not end it."""
    head = re.match(r"(?:#.*\n)*", recipe)
    text = " ".join(line.removeprefix("#").strip() for line in (head[0] if head else "").splitlines())
    return re.split(r"(?<!\bal)\.\s", text)[0].rstrip(".")


def recipes_show(name: str) -> None:
    """Print a recipe as TOML, ready to be copied and changed.

    Parameters
    ----------
    name
        The recipe's name.
    """
    say(recipe_text(name).rstrip())
