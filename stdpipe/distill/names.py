"""Names of terms and schemes, kept apart from torch so that --help is quick."""

# name of a term -> the file beside this one whose TERMS holds it, in the order of sums and tables
TERM_FILES = {
    "sd": "attention", "td": "time", "kd-mse": "kd", "kd-mean2": "kd", "sd-lr": "attention",
    "td-lr": "time", "pisr": "pisr", "pisr-sr": "pisr", "affinity": "affinity", "output": "output",
    "output-hr": "output",
}  # fmt: skip

# name of a scheme -> the terms that it stands for; each term is a scheme of its own
SCHEMES: dict[str, tuple[str, ...]] = {
    "none": (),
    "std": ("sd", "td"),
    "std-lr": ("sd-lr", "td-lr"),
    "fakd": ("affinity", "output"),
    **{name: (name,) for name in TERM_FILES},
}
