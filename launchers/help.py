"""What ``python run.py --help`` prints. Imports next to nothing, so that it is there at once."""

from __future__ import annotations

from pathlib import Path

from launchers.config import Action

GROUPS = ("backend", "data", "preprocess", "model", "augment", "tracking", "sweep", "experiment")
ACTIONS = {
    Action.run: "run the experiment (the default)",
    Action.plan: "say what would run, and what is there already; runs nothing",
    Action.resume: "go on with an unfinished run: action=resume run=ID",
    Action.sync: "record in MLflow what could not be recorded: action=sync run=ID",
    Action.build: "build the images of backend=sagemaker-local",
    Action.push: "send the images of backend=remote to the account's registry, building what is missing",
}
# The settings used most, each with an override that can be typed as it stands.
SETTINGS = {
    "data.root=videos": "folder of the videos, relative to where you are",
    "data.nclass=10": "keep the first 10 classes",
    "data.split=group": "who is tested: official, group (no group on both sides) or random",
    "preprocess.depth=16": "frames of a clip",
    "preprocess.interval=2": "every 2nd frame, instead of frames spread over the whole video",
    "preprocess.color=true": "RGB instead of gray",
    "model.epoch=50": "epochs of training",
    "model.batch=64": "clips of a training step",
    "sweep.parallel=2": "with -m: runs at a time",
    "seed=1": "start of everything random",
    "tracking.uri=http://127.0.0.1:5000": "MLflow server, instead of a database in outputs",
}


def help_text(conf: Path) -> str:
    """Return the help, with the groups and choices that ``conf`` has."""
    return "\n".join(
        [
            "Usage: python run.py [GROUP=CHOICE ...] [SETTING=VALUE ...]",
            "       python run.py -m ...          run every combination of values given with commas",
            "",
            "Runs one video-classification experiment: videos -> frames -> arrays -> model -> metrics.",
            "",
            "  python run.py                                      on videos it makes itself",
            "  python run.py data=ucf101 data.root=UCF-101        on a data set",
            "  python run.py backend=sagemaker-local              in containers on this machine",
            "  python run.py backend=remote backend.role=ROLE     as jobs on Amazon SageMaker, see docs/remote.md",
            "  python run.py script.path=train.py                 a script of your own, see docs/migrate.md",
            "  python run.py -m model=cnn2d,cnn3d seed=0,1,2      six runs, compared in MLflow",
            "  python run.py -m sweep=optuna                      runs whose values are chosen from those before them",
            "",
            "Groups (conf/GROUP/CHOICE.yaml says more):",
            *_groups(conf),
            "",
            "The settings used most:",
            *_rows(SETTINGS),
            "",
            "Actions (action=...):",
            *_rows({action.value: words for action, words in ACTIONS.items()}),
            "",
            "  python run.py --cfg job       every setting with its value, for the overrides given",
            "  python run.py --hydra-help    Hydra's own options (-m, --cfg, --info, --config-dir, ...)",
            "",
            "More: README.md and docs/",
        ]
    )


def _groups(conf: Path) -> list[str]:
    lines: list[str] = []
    for group in GROUPS:
        choices = {path.stem: _first_comment(path) for path in sorted((conf / group).glob("*.yaml"))}
        lines += [f"  {group}=", *(f"  {row}" for row in _rows(choices))]
    return lines


def _first_comment(path: Path) -> str:
    with path.open(encoding="utf-8") as lines:
        comments = (line[1:].strip() for line in lines if line.startswith("#"))
        return next((comment for comment in comments if comment and not comment.startswith("@")), "")


def _rows(table: dict[str, str]) -> list[str]:
    width = max(map(len, table), default=0)
    return [f"  {left:<{width}}  {right}".rstrip() for left, right in table.items()]
