"""The account that fleets are measured against: its limits, and what of them is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from anthropic import Anthropic

from benchmarks.contenders import SAMPLES
from benchmarks.measure import BenchmarkError
from benchmarks.plain import claude as peer
from sandbox.claude.client import SimulatedClaude
from sandbox.claude.config import model_class

#: The bucket that binds in the class of a model, and what the account calls its use.
BINDING = {
    "claude-haiku-5-5": ("requests", "admitted"),
    "claude-sonnet-5-5": ("input_tokens", "input_tokens"),
    "claude-opus-5-5": ("output_tokens", "output_tokens"),
}
MODELS = tuple(BINDING)
#: The buckets that do not bind have so many times what is needed.
PLENTY = 10

#: Seconds of any one clock, and what each class has used until then.
Sample = tuple[float, dict[str, dict[str, int]]]
Limits = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Use:
    """What one class did between two samples: the used part of the binding limit, and 429s."""

    used: float
    requests: int
    rejected: int
    #: The used part in each third of the time: whether it was steady.
    thirds: tuple[float, ...]


def use_of(model: str, limits: Limits, samples: Sequence[Sample]) -> Use:
    """What the class of `model` did under `limits`, from the first sample to the last."""
    name = model_class(model)
    bucket, column = BINDING[model]

    def grown(what: str, begin: Sample, end: Sample) -> int:
        after, before = (sample[1].get(name, {}).get(what, 0) for sample in (end, begin))
        return after - before

    def used(begin: Sample, end: Sample) -> float:
        return grown(column, begin, end) * 60 / limits[name][bucket] / (end[0] - begin[0])

    first, last = samples[0], samples[-1]
    if name not in last[1]:
        raise BenchmarkError(f"goodput: no request for {model} reached Claude")
    marks = [samples[round(third * (len(samples) - 1) / 3)] for third in range(4)]
    thirds = tuple(used(begin, end) for begin, end in pairwise(marks) if end[0] > begin[0])
    rejected = grown("rejected", first, last)
    return Use(used(first, last), grown("admitted", first, last) + rejected, rejected, thirds)


def typical(claude: SimulatedClaude) -> dict[str, dict[str, float]]:
    """Tokens that a job uses, by model, on the average of the samples."""
    made: dict[str, dict[str, float]] = {}
    with Anthropic(api_key="simulated", base_url=claude.url, max_retries=0) as sdk:
        for model in MODELS:
            usages = [
                sdk.messages.create(
                    model=model,
                    max_tokens=peer.MAX_TOKENS,
                    system=peer.SYSTEM,
                    messages=[{"role": "user", "content": peer.template(**values)}],
                    output_config=peer.OUTPUT_CONFIG,
                ).usage
                for values in SAMPLES
            ]
            made[model] = {
                "input": sum(usage.input_tokens for usage in usages) / len(usages),
                "output": sum(usage.output_tokens for usage in usages) / len(usages),
            }
    return made


def limits_for(rate: float, cost: Mapping[str, Mapping[str, float]]) -> Limits:
    """`rate` jobs a second fit into the binding bucket of each class."""
    made: Limits = {}
    for model, (binding, _) in BINDING.items():
        a_job = {
            "requests": 1.0,
            "input_tokens": cost[model]["input"],
            "output_tokens": cost[model]["output"],
        }
        made[model_class(model)] = {
            bucket: round(rate * 60 * amount * (1 if bucket == binding else PLENTY))
            for bucket, amount in a_job.items()
        }
    return made


def scaled(limits: Limits, factor: float) -> Limits:
    return {
        name: {bucket: round(limit * factor) for bucket, limit in buckets.items()}
        for name, buckets in limits.items()
    }


def parts(limits: Limits, share: float) -> dict[str, list[float]]:
    """A `share` of the limits as three numbers, by model."""
    return {m: [limit * share for limit in limits[model_class(m)].values()] for m in MODELS}
