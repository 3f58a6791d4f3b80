"""How the localisers are set in the reef. Everything here was chosen on tuning canaries, which no table reports."""

from .. import nemo
from . import captions, plant, targets

GRID = (0.01, 0.02, 0.05, 0.1, 0.2)  # Wanda's ρ: the dose–response of chapter 3
# The first ρ of the grid at which the tuning canaries' rate of copies is below half of the unpruned one in both
# twins (chapter 3's appendix shows it). The papers' 1 % of Stable Diffusion's long rows is one weight here.
RHO = 0.2
STATISTICS, COMPARED = 2000, 64  # captions for NeMo's means and deviations, and for its thresholds


def unmemorized(count: int) -> list[str]:
    """Captions that no model memorized: half ordinary ones, half in the canaries' style with names never trained."""
    half = count // 2
    plain = [captions.write(plant.base(600_000 + k)[0]) for k in range(count - half)]
    return plain + [captions.write(plant.held_out("descriptor", k)[0]) for k in range(half)]


def nemo_settings(pipe, home: str, which: str = "seven", variant: str = "code") -> dict:
    """What `nemo.localise` needs to know of twin `home` ("a" or "b"): statistics, tau and tau_blocked.

    tau_blocked compares the tuning canaries with unrelated captions (`nemo.same_seed_threshold`).
    """
    compared = unmemorized(COMPARED)
    tuning = [t.caption for t in targets.planted("canary", "tuning", home=home)]
    return {
        "statistics": nemo.statistics(pipe, unmemorized(STATISTICS), which=which),
        "tau": nemo.between_seed_threshold(pipe, compared, variant=variant),
        "tau_blocked": nemo.same_seed_threshold(pipe, tuning, compared, variant=variant),
        "variant": variant,
    }
