"""Detectors of dirt that are simple enough to be followed by hand."""

from dataclasses import dataclass

from sparring.data.audit.contract import Detector, Rule, said


@dataclass(frozen=True)
class BrightRule(Rule):
    threshold: float

    def __call__(self, seen):
        mean = seen["bright.mean"]
        return {"gaussian": (mean > self.threshold).float(), "sigma": mean / 10}


class Bright(Detector):
    """Noise of a tenth of the mean of an image's first channel, where this is above the set's."""

    kinds = ("gaussian",)

    def look(self, x):
        return {"mean": x[:, 0].flatten(1).mean(1)}

    def fit(self, seen):
        return BrightRule(float(seen["bright.mean"].mean()))


@dataclass(frozen=True)
class CornerRule(Rule):
    def __call__(self, seen):
        corner = seen["corner.value"][:, 0]
        return {"jpeg": corner, "quality": 100 * seen["corner.value"][:, 1], "outlier": corner**2}


class Corner(Detector):
    """A JPEG by the pixel in the corner, its quality by the next one."""

    kinds = ("jpeg", "outlier")

    def look(self, x):
        return {"value": x[:, 0, 0, :2].clone()}

    def fit(self, seen):
        return CornerRule()


@dataclass(frozen=True)
class DeadRule(Rule):
    def __call__(self, seen):
        assert set(seen) == {"dead.share"}  # of those that hide pixels alone
        return {"salt_and_pepper": (seen["dead.share"] > 0.05).float()}


class Dead(Detector):
    """Black pixels, where more than one in twenty is."""

    kinds = ("salt_and_pepper",)

    def look(self, x):
        return {"share": (x == 0).all(1).flatten(1).float().mean(1)}

    def fit(self, seen):
        return DeadRule()

    def hidden(self, x, kind):
        return (x == 0).all(1, keepdim=True)


@dataclass(frozen=True)
class DarkRule(Rule):
    def __call__(self, seen):
        dark = 1 - seen["dark.mean"]
        return {"watermark": dark * (1 - said(seen, ("gaussian", "salt_and_pepper")))}


class Dark(Detector):
    """A watermark, the more the darker, where nobody found noise or dead pixels."""

    kinds, after = ("watermark",), ("zebra",)

    def look(self, x):
        return {"mean": x[:, 0].flatten(1).mean(1)}

    def fit(self, seen):
        return DarkRule()
