"""Names of terms and schemes, kept apart from torch so that --help is quick."""

TERM_NAMES = (
    "sd", "td", "kd-mse", "kd-mean2", "sd-lr", "td-lr", "pisr", "pisr-sr", "affinity", "output",
)  # fmt: skip

# name of a scheme -> the terms that it stands for; each term is a scheme of its own
SCHEMES: dict[str, tuple[str, ...]] = {
    "none": (),
    "std": ("sd", "td"),
    "std-lr": ("sd-lr", "td-lr"),
    "fakd": ("affinity", "output"),
    **{name: (name,) for name in TERM_NAMES},
}
