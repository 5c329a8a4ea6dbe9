import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st

from launchers import schema
from launchers.compose import check, compose
from launchers.config import Config
from launchers.overrides import elements, quote
from launchers.sweeps.space import Choices, FloatRange
from videolift.errors import ConfigError
from videolift.settings import MODELS as NAMES

MODELS = ", ".join(sorted([*NAMES, "ensemble"]))  # as an error lists them
TYPED = [
    "/数据/视频 (1)/[x]",
    "it's",
    'say "hi"',
    "a'b\"c",
    "'a'b'",
    "'a",
    "C:\\data\\new",
    "C:\\data\\",
    "\\\\server\\'x'\\",
    "a b ",
    "  a",
    "a\nb",
    "\t",
    "",
    "true",
    "007",
    "1e3",
    "[a]",
    "[a",
    "{a: 1}",
    "/a,b",
    "x=y",
    "#1",
    "~/x",
    "a:b",
    "$HOME",
    "${",
    "a${b",
    "x\\\\${y",
    "choice(a,b)",
    "range(1,2)",
    "-1",
    "null and void",
]


def problem_lines(*overrides: str, multirun: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as error:
        check(overrides, multirun=multirun)
    headline, *lines = str(error.value).splitlines()
    assert headline.endswith("in the configuration; nothing was run:")
    assert headline.startswith(f"{len(lines)} mistake")
    return [line.strip() for line in lines]


def jobs(*overrides: str) -> list[Config]:
    return [job.config for job in check(overrides, multirun=True).jobs]


def test_a_value_arrives_as_it_was_typed() -> None:
    config = compose([f"data.root={TYPED[0]}", *(f"tags.t{index}={text}" for index, text in enumerate(TYPED))])
    assert config.data.root == TYPED[0]
    assert list(config.tags.values()) == TYPED


def test_a_value_arrives_as_it_was_typed_in_a_sweep() -> None:
    texts = [text for text in TYPED if text == text.strip() and not any(sign in text for sign in (",", "${"))]
    sweep = OverridesParser.create().parse_override(quote(f"name={','.join(texts)}", multirun=True))
    assert [getattr(element, "text", None) for element in sweep.sweep_iterator()] == texts
    assert [config.name for config in jobs("name=[x] 视频,a${b,C:\\d\\")] == ["[x] 视频", "a${b", "C:\\d\\"]


def arrives(text: str) -> bool:
    """Tell what is text, from what says something to Hydra: null, 'quotes', ${...} and ???."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return not (quoted or text.lower() == "null" or "${" in text or text == "???")


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@example("\\'")
@example("a\\\nb\\")
def test_any_text_is_quoted_so_that_hydra_reads_it_back(text: str) -> None:
    assume(arrives(text))
    first = OverridesParser.create().parse_override(quote(f"data.root={text}", multirun=False))
    assert first.value() == text
    again = f"{first.get_key_element()}={first.get_value_element_as_str()}"  # a sweeper writes it once more
    assert OverridesParser.create().parse_override(again).value() == text


@given(st.lists(st.text("ab ,'\"\\[](){}=", min_size=1).filter(lambda text: text.strip() == text), min_size=2))
def test_quoted_elements_of_a_sweep_are_cut_where_they_were_joined(texts: list[str]) -> None:
    quoted = [quote(f"name={text}", multirun=False).removeprefix("name=") for text in texts]
    assert elements(",".join(quoted)) == quoted


@pytest.mark.parametrize(
    ("value", "cut"),
    [
        ("a,b", ["a", "b"]),
        ("a, b", ["a", "b"]),
        ("'a,b',c", ["'a,b'", "c"]),
        ("it's,b", ["it's", "b"]),
        ("/x (1,2),/y[3]", ["/x (1,2)", "/y[3]"]),
        ("[a,b", ["[a", "b"]),
        ("a),b", ["a)", "b"]),
        ("a,,b", ["a", "", "b"]),
        ("a,", ["a", ""]),
        ("", [""]),
    ],
)
def test_a_sweep_is_cut_at_the_commas_that_separate(value: str, cut: list[str]) -> None:
    assert elements(value) == cut


def test_hydras_own_quotes_and_null_keep_their_meaning() -> None:
    config = compose(["data.root=null", "data.lists='a b'", 'data.csv="it\'s"', "name='null'"])
    assert (config.data.root, config.data.lists, config.data.csv, config.name) == (None, "a b", "it's", "null")


def test_interpolations_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDEOS", "/数据")
    assert compose(["data.root=${oc.env:VIDEOS}/a b"]).data.root == "/数据/a b"
    assert compose(["preprocess.width=${preprocess.height}", "preprocess.height=48"]).preprocess.width == 48
    assert [c.name for c in jobs("name=n${hydra:job.num}", "seed=5,6")] == ["n0", "n1"]


def test_sweeps_are_hydras() -> None:
    swept = jobs("name=sort('c,d',a)", "seed=range(1,3)")
    assert [(c.name, c.seed) for c in swept] == [("a", 1), ("a", 2), ("c,d", 1), ("c,d", 2)]
    assert [c.model.name for c in jobs("model=glob(cnn*,exclude=*_*)", "stages=[train]")] == ["cnn2d", "cnn3d"]


def test_entries_of_dictionaries_need_no_plus() -> None:
    config = compose(["tags.place=数据 (1)", "+tags.n=007", "tags={z: 3}", "model.builder=my.py:build"])
    assert config.tags == {"place": "数据 (1)", "n": "007", "z": "3"}
    config = compose(["model.builder=my.py:build", "model.args.units=64", "model.args.sizes=[1,2]", "model.args.x=层"])
    assert config.model.args == {"units": 64, "sizes": [1, 2], "x": "层"}
    assert [c.tags for c in jobs("tags.a=1,2")] == [{"a": "1"}, {"a": "2"}]


BAD = {
    "depht=10": "there is no setting depht; did you mean preprocess.depth? (conf/preprocess/default.yaml)",
    "data.rot=/x": "there is no setting data.rot; did you mean data.root? (src/videolift/settings.py)",
    "+data.rot=/x": "there is no setting data.rot; did you mean data.root? (src/videolift/settings.py)",
    "++model.epch=3": "there is no setting model.epch; did you mean model.epoch? (src/videolift/settings.py)",
    "preprocess.epoch=3": "there is no setting preprocess.epoch; did you mean model.epoch? (src/videolift/settings.py)",
    "model.batch_size=3": "there is no setting model.batch_size; did you mean model.batch? (src/videolift/settings.py)",
    "tracking.url=x": "there is no setting tracking.url; did you mean tracking.uri? (launchers/config.py)",
    "modle=cnn2d": "there is no setting modle; did you mean model? (conf/model/)",
    "experimnt=demo_quick": "there is no setting experimnt; did you mean experiment? (conf/experiment/)",
    "backend.train.foo=1": "there is no setting backend.train.foo; backend.train has instance_count, mode, "
    "image, base_image, memory, cpus, "
    "instance_type, volume_gb, max_run_s, parallel, spot, max_wait_s, checkpoints, keep_alive_s, framework_version "
    "(launchers/config.py)",
    "tags.a.b=1": "there is no setting tags.a.b; the top level has action, run, stages, outputs, seed, name, tags, "
    "backend, data, preprocess, model, augment, predict, visualize, script, tracking, sweep (launchers/config.py)",
    "data=ucf11": "data has no choice 'ucf11', it has demo, folder, manifest, npz, prefix, ucf101; did you mean "
    "ucf101? (conf/data/)",
    "data=": "data has no choice '', it has demo, folder, manifest, npz, prefix, ucf101 (conf/data/)",
    "model=[cnn3d]]": f"model has no choice '[cnn3d]]', it has {MODELS}; did you mean cnn3d? (conf/model/)",
    "model=3": f"model has no choice '3', it has {MODELS} (conf/model/)",
    "model.epoch=ten": "must be a whole number, got ten (src/videolift/settings.py)",
    "model.epoch=十": "must be a whole number, got 十 (src/videolift/settings.py)",
    "model.epoch=2.5": "must be a whole number, got 2.5 (src/videolift/settings.py)",
    "model.epoch=true": "must be a whole number, got true (src/videolift/settings.py)",
    "model.epoch=null": "must be a whole number, got null (src/videolift/settings.py)",
    "model.epoch=[1": "must be a whole number, got [1 (src/videolift/settings.py)",
    "model.learning_rate=fast": "must be a number or null, got fast (src/videolift/settings.py)",
    "model.learning_rate=nan": "must be a number or null, got nan (src/videolift/settings.py)",
    "preprocess.color=2": "must be true or false, got 2 (conf/preprocess/default.yaml)",
    "tracking.enabled=maybe": "must be true or false, got maybe (conf/tracking/mlflow.yaml)",
    "preprocess.sampling=unifrom": "must be uniform, head, interval or null, got unifrom; did you mean uniform? "
    "(src/videolift/settings.py)",
    "model.select=Best": "must be best or last, got Best; did you mean best? (src/videolift/settings.py)",
    "outputs=null": "must be text, got null (launchers/config.py)",
    "stages=train": "must be a list of names, got train; say [train] (launchers/config.py)",
    "stages=train,evaluate": "several values are a sweep; add -m to run them all, or [in brackets] for one list "
    "(launchers/config.py)",
    "seed=1,2": "several values are a sweep; add -m to run them all (launchers/config.py)",
    "seed=range(1,3)": "several values are a sweep; add -m to run them all (launchers/config.py)",
    "tags=x": "must be a dictionary {name: value}, got x (launchers/config.py)",
    "tags={a:数}": "Hydra cannot read this; say tags.NAME=VALUE for each entry (launchers/config.py)",
    "tags.相机=1": "Hydra reads names in tags of letters a-z, digits, _ and - only (launchers/config.py)",
    "backend.train=2": "holds settings, not a value; say backend.train.instance_count=VALUE (launchers/config.py)",
    "plan": "a setting is given as key=value; did you mean action=plan? (launchers/config.py)",
    "data.root": "a setting is given as key=value; did you mean data.root=...? (src/videolift/settings.py)",
    "+seed=3": "seed is there already; leave out the + (launchers/config.py)",
    "++model=cnn2d": "model is there already; leave out the ++ (conf/model/)",
    "~data": "data cannot be left out; choose another with data=... (conf/data/)",
    "~data.root": "data.root cannot be left out; give it another value with data.root=... (src/videolift/settings.py)",
}


def test_bad_overrides_are_told_all_at_once_with_what_to_do() -> None:
    assert problem_lines(*BAD) == [f"{override}: {message}" for override, message in BAD.items()]


def test_all_mistakes_are_listed_at_once_whatever_their_kind() -> None:
    lines = problem_lines(
        "depht=3", "model.epoch=ten", "data=ucf11", "preprocess.height=0", "action=resume", "foo.bar=1"
    )
    assert [line.split(":")[0] for line in lines] == [
        "depht=3",
        "model.epoch=ten",
        "data=ucf11",
        "foo.bar=1",
        "run",
        "preprocess.height",
    ]


def test_a_mistake_does_not_bring_others_that_only_follow_from_it() -> None:
    assert len(problem_lines("data=folder", "data.rot=/x")) == 1
    assert problem_lines("data=ucf11", "data.split=official") == [f"data=ucf11: {BAD['data=ucf11']}"]


def test_keys_inside_a_dictionary_are_checked() -> None:
    assert problem_lines("data={rot: 3, list: x}") == [
        "data={rot: 3, list: x}: data.rot: there is no setting data.rot; did you mean data.root? "
        "(src/videolift/settings.py)",
        "data={rot: 3, list: x}: data.list: must be a whole number, got x (src/videolift/settings.py)",
    ]


def test_every_element_of_a_sweep_is_checked() -> None:
    assert problem_lines("model=cnn2d,cnn4d", "preprocess.depth=1,x", multirun=True) == [
        f"model=cnn2d,cnn4d (model=cnn4d): model has no choice 'cnn4d', it has {MODELS}; did you mean cnn3d? "
        "(conf/model/)",
        "preprocess.depth=1,x (preprocess.depth=x): must be a whole number, got x (conf/preprocess/default.yaml)",
    ]
    assert problem_lines("model=glob(z*)", "name=glob(*)", multirun=True) == [
        f"model=glob(z*): fits no choice of model; it has {MODELS} (conf/model/)",
        "name=glob(*): glob() chooses among the files of a group, and this is none (launchers/config.py)",
    ]


def test_a_sweeps_mistakes_name_the_jobs_that_make_them_once() -> None:
    assert problem_lines("model=cnn2d,cnn3d", "preprocess.depth=1,10", "seed=-1", multirun=True) == [
        "seed: must be from 0 to 4294967295, got -1",
        "preprocess.depth: cnn3d convolves over time and needs at least 2 frames, got 1; use model=cnn2d for single "
        "frames [model=cnn3d preprocess.depth=1]",
    ]
    (line,) = problem_lines("name='',' ','  ','   ',x", multirun=True)
    assert line == "name: is empty; give it a value or leave it out [name=''; name=' '; name='  '; and 1 more]"


def test_what_hydra_refuses_is_one_line_beside_the_others() -> None:
    assert problem_lines("depht=1", "hydra.foo=1")[0].startswith("depht=1: ")
    assert "hydra.foo" in problem_lines("depht=1", "hydra.foo=1")[1]
    assert problem_lines("data@x=demo", "depht=1") == [
        "depht=1: there is no setting depht; did you mean preprocess.depth? (src/videolift/settings.py)",
        "Could not override 'data@x'.",
    ]
    assert problem_lines("name=${nowhere}") == [
        "name: Interpolation key 'nowhere' not found; write \\${...} where the text itself is meant"
    ]
    assert problem_lines("hydra.mode=[") == ["hydra.mode=[: Hydra cannot read this; put text with signs in 'quotes'"]


def test_a_message_stays_on_its_line_whatever_was_typed() -> None:
    (line,) = problem_lines("model.epoch=1\n2")
    assert line == "model.epoch=1\\n2: must be a whole number, got 1\\n2 (src/videolift/settings.py)"


@pytest.mark.parametrize("key", [*schema.settings(), *schema.sections()])
def test_a_slip_of_the_finger_finds_every_key(key: str) -> None:
    head, _, leaf = key.rpartition(".")
    slip = f"{head}.{leaf}x" if head else f"{leaf}x"
    assert schema.nearest(slip) == key


def test_a_samplers_space_is_read_and_its_edges_are_composed() -> None:
    typed = ("sweep=optuna", "model.learning_rate=tag(log,interval(1e-4,1e-1))", "model.batch=16", "model=cnn2d,cnn3d")
    checked = check(typed, multirun=True)
    (job,) = checked.jobs
    assert (job.config.sweep.name, job.config.model.batch, job.config.model.learning_rate) == ("optuna", 16, None)
    assert checked.space is not None
    assert checked.space.distributions == {
        "model.dropout": Choices(("true", "false")),  # conf/sweep/optuna.yaml
        "model.learning_rate": FloatRange(1e-4, 0.1, log=True),
        "model": Choices(("cnn2d", "cnn3d")),
    }
    models = [corner.config.model for corner in checked.corners]
    edges = [(m.dropout, m.learning_rate, m.name, m.batch) for m in models]
    assert edges == [(True, 1e-4, "cnn2d", 16), (False, 0.1, "cnn3d", 16)]
    assert checked.corners[1].parameters == {"model.dropout": "false", "model.learning_rate": "0.1", "model": "cnn3d"}


def test_a_samplers_mistakes_are_told_with_all_others() -> None:
    assert problem_lines(
        *(
            "sweep=optuna",
            "depht=1",
            "model.batch=interval(1.5,8)",
            "model.batch_size=interval(1,2)",
            "model.epoch=x,2",
        ),
        *("model.learning_rate=interval(-0.1,0.1)", "sweep.parallel=0"),
        multirun=True,
    ) == [
        "depht=1: there is no setting depht; did you mean preprocess.depth? (conf/preprocess/default.yaml)",
        "model.batch_size=interval(1,2): there is no setting model.batch_size; did you mean model.batch? "
        "(src/videolift/settings.py)",
        "model.epoch=x,2 (model.epoch=x): must be a whole number, got x (src/videolift/settings.py)",
        "model.batch=interval(1.5,8): must be whole numbers, got 1.5 (src/videolift/settings.py)",
        "sweep.parallel: must be at least 1, got 0",
        "model.learning_rate: must be above 0, got -0.1 [model.dropout=true model.learning_rate=-0.1]",
    ]


def test_what_only_the_job_without_a_choice_does_wrong_is_no_mistake() -> None:
    checked = check(["sweep=optuna", "preprocess.sampling=interval", "preprocess.interval=range(1,4)"], multirun=True)
    assert {corner.config.preprocess.interval for corner in checked.corners} == {1, 3}


def test_a_sampler_with_nothing_to_choose_says_where_to_say_it() -> None:
    fixed = ("model.learning_rate=0.1", "model.batch=8", "model.dropout=true")
    (line,) = problem_lines("sweep=optuna", *fixed, multirun=True)
    assert line.startswith("sweep.space: there is nothing to choose") and line.endswith("(conf/sweep/optuna.yaml)")
    assert problem_lines("sweep=optuna", *fixed, "depht=1,2", multirun=True) == [
        "depht=1,2: there is no setting depht; did you mean preprocess.depth? (conf/preprocess/default.yaml)"
    ]


def test_a_grid_has_no_values_for_an_interval() -> None:
    assert problem_lines("model.batch=interval(8,32)", "seed=1,2", "model.epoch=interval(1,2)", multirun=True) == [
        f"model.{typed}: a grid has no values for interval(...); add sweep=optuna, or give the values with commas "
        "(src/videolift/settings.py)"
        for typed in ("batch=interval(8,32)", "epoch=interval(1,2)")
    ]
