"""What a trained model draws: samples, pictures for a caption, rows of a table given some columns, means of codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from elbowroom.errors import ElbowroomError
from elbowroom.model.code_sampling import SamplingRule
from elbowroom.model.draws import conditionals, draw, mean
from elbowroom.model.latent import Sample, evaluation_mode
from elbowroom.running.captioned import Captioned, best_first, caption_context, drawing_by
from elbowroom.running.contexts import class_contexts, decoding_context, sample_context
from elbowroom.running.given import GivenSample, given_samples
from elbowroom.running.runtime import dtype_of, make_generator, torch_settings
from elbowroom.running.trained_model import TrainedModel
from elbowroom.running.units import restored

__all__ = ["SampledModel"]


class SampledModel(TrainedModel):
    """A trained model as a source of samples: all that needs p(z) and p(x | z), and for given columns q(z | x)."""

    @torch_settings()
    def sample(
        self,
        num_samples: int | None = None,
        *,
        context: Any = None,
        labels: Any = None,
        guidance: float = 1.0,
        temperature: float = 1.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Sample:
        """Draws of z and x, and the mean of p(x | z), such as ``run.sample(8, labels="seven")``.

        x is in the units of the data, float64 where these need an origin.

        Args:
            num_samples: n; by default as many as the context has rows, or 25.
            context: what the samples are conditional on: a value for all, such as ``"ox"``, or one for each; a dict or
                a data frame with the covariates by name; class numbers; an array of shape (n, context_dim).
            labels: the same, for a model that is conditional on class labels; by default equal numbers of each class.
            guidance: of codes, how far they are drawn towards the context: 1 as the model does, more to follow it
                further; for a model whose context was left out at times.
            temperature: of codes that are drawn one after the other: below 1 likelier ones.
            top_p: of these, the probability of those that are drawn from, the likeliest.
            seed: of the draws.
        Raises:
            ElbowroomError: n below one, a conditional model and no context, or a context of another kind; guidance,
                temperature or top_p for a prior that does not draw code after code.
        Example:
            >>> run.sample(context={"kind": ["ox", "pig"], "weight": 3.2}).x     # doctest: +SKIP
        """
        number, given = sample_context(self.config, self.facts, self.naming, num_samples, context, labels)
        given = None if given is None else self._as_delivered(given)
        rule = SamplingRule(guidance, temperature, top_p)
        drawing = drawing_by(self.model.prior, rule, drop=self.config.data.context_drop)
        with evaluation_mode(self.pair), drawing:
            generator = make_generator(self.device, seed)
            sample = self.model.sample(number, context=given, generator=generator)
        z, x, mean_of_x = (tensor.cpu() for tensor in sample)
        return Sample(z, restored(x, self.facts), restored(mean_of_x, self.facts))

    @torch_settings()
    def sample_caption(
        self, caption: str, num: int = 16, *, candidates: int | None = None, seed: int = 0, **rule: float
    ) -> Captioned:
        """Pictures for a caption, such as "a bold seven leaning left", those that follow it best first.

        They are ranked by log p(z | caption) − log p(z), by which the model itself would find the caption again.

        Args:
            caption: in words of the model's classes; what it does not say is left to the model.
            num: how many to return.
            candidates: how many to draw, of which the best are returned; by default as many.
            seed: of the draws.
            rule: guidance, temperature, top_p, as in `sample`.
        Raises:
            ElbowroomError: fewer candidates than pictures; a model that is not conditional on classes; a word that it
                does not know, or nothing on what it has never been without.
        Example:
            >>> run.sample_caption("a bold three", 8, guidance=2).mean.shape        # doctest: +SKIP
            torch.Size([8, 8, 8])
        """
        total, drop = num if candidates is None else candidates, self.config.data.context_drop
        if not 1 <= num <= total:
            raise ElbowroomError(
                f"The best {num} of {total} candidates were asked for, but there is no such number.",
                "Give 1 or more, and at least as many --candidates.",
            )
        context = caption_context(caption, self.naming, drop=drop)
        drawn = self.sample(total, context=context.expand(total, -1), seed=seed, **rule)
        return best_first(self.model, drawn, context, num, drop=drop)

    @torch_settings()
    def sample_given(
        self,
        given: Mapping[str, Any],
        num_samples: int = 25,
        *,
        context: Any = None,
        labels: Any = None,
        draws: int | None = None,
        seed: int = 0,
    ) -> GivenSample:
        """Rows of a table given some of its columns, such as ``run.sample_given({"city": "Oslo", "age": 30}).table``.

        Args:
            given: a value for each of these columns: a name, a number, a truth or a date.
            num_samples: rows.
            context: what the rows are conditional on besides, one for all, for a model with covariates; as in `sample`.
            labels: the same, for a model that is conditional on class labels.
            draws: weighted draws of z that those of the rows are chosen from; by default as many as it takes.
            seed: of the draws.
        Raises:
            ElbowroomError: a run on no table with names; a column that is none of x; a value that its column cannot
                have, or that the model holds impossible.
        """
        return given_samples(self, given, num_samples, context=context, labels=labels, draws=draws, seed=seed)

    @torch_settings()
    def class_contexts(self, num_samples: int) -> Tensor:
        """One-hot labels 0, …, C−1 in blocks of nearly equal size, shape (n, C), if the context is a label."""
        return class_contexts(self.config, self.facts, num_samples)

    @torch_settings()
    def decode(self, z: Tensor, *, context: Any = None, labels: Any = None, seed: int = 0) -> Tensor:
        """The mean of p(x | z), shape (\\*, n, \\*event), for z of shape (\\*, n, latent); a context as in `sample`.

        Where pixels depend on each other, it is that of each pixel given those before it in a draw of x, the draw by
        the ``seed``.
        """
        given = decoding_context(self.naming, context, labels, z)
        with evaluation_mode(self.pair):
            z = z.to(device=self.device, dtype=dtype_of(self.config.runtime))
            p_x = self.model.likelihood(z, None if given is None else self._as_delivered(given))
            if self.model.likelihood.sees_other_elements:
                p_x = conditionals(p_x, draw(p_x, generator=make_generator(self.device, seed)))
            found = mean(p_x)
        return restored(found.cpu(), self.facts)
