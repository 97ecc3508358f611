"""What a check of `bert-jax doctor` says."""

import dataclasses

OK, WARN, FAIL, SKIP = "OK", "WARN", "FAIL", "SKIP"


@dataclasses.dataclass(frozen=True)
class Check:
    """verdict: OK, WARN (worth a thought), FAIL (the run would be wrong, or end badly) or SKIP (not measured; `measured` says why).

    measured: what was found, in words and figures. advice: what to do; empty if nothing."""

    name: str
    verdict: str
    measured: str
    advice: str = ""


def graded(name: str, value: float, warn: float, fail: float, measured: str, advice: str) -> Check:
    """FAIL from `fail` on, WARN from `warn` on; the advice is for these two."""
    verdict = FAIL if value >= fail else WARN if value >= warn else OK
    return Check(name, verdict, measured, advice if verdict != OK else "")
