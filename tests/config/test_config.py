"""What a config file may say."""

from pathlib import Path

import pytest

from sparring.assembly.build import build_dataset, build_model, build_objective
from sparring.commands.sample import asked_for
from sparring.commands.shared.data_words import sections_of
from sparring.config.checks import check
from sparring.config.overrides import with_overrides
from sparring.config.read import dump, resolve
from sparring.options.value_types import SCHEDULERS
from sparring.support.errors import UserError

MINIMAL = (
    "model: {network: {_class_name: MLP, dim: 3, width: 8, n_blocks: 1}}\ndata: {name: plane}\n"
)


@pytest.fixture
def config(tmp_path):
    def write(text, name="experiment.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def refusal(path, *overrides):
    with pytest.raises(UserError) as caught:
        resolve(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Reading


def test_leaves_not_given_have_their_defaults_and_the_folder_is_named_after_the_file(config):
    run = resolve(config(MINIMAL))
    assert run.training.output_dir == str(Path("runs/experiment"))
    assert run.objective.name == "plain"
    assert run.model.scheduler == {
        "_class_name": "DDPMScheduler", "num_train_timesteps": 1000,
        "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02,
    }  # fmt: skip


def test_yaml_numbers_and_words_mean_what_they_say(config):
    text = MINIMAL + "training: {learning_rate: 1e-3, adam_epsilon: 1E-8, mixed_precision: no}\n"
    training = resolve(config(text)).training
    assert training.learning_rate == 0.001
    assert training.adam_epsilon == 1e-8
    assert training.mixed_precision == "no"


def test_what_is_dumped_resolves_to_the_same_run(config):
    run = resolve(config(MINIMAL), ["objective=detail", "objective.lam=3", "training.seed=7"])
    assert resolve(config(dump(run), "again.yaml")) == run


def test_later_overrides_win_and_sections_merge(config):
    path = config(MINIMAL + "training: {seed: 1, max_train_steps: 5}\n")
    run = resolve(path, ["training={seed: 2}", "training.seed=3", "model.network.width=16"])
    assert (run.training.seed, run.training.max_train_steps) == (3, 5)
    assert run.model.network == {"_class_name": "MLP", "dim": 3, "width": 16, "n_blocks": 1}


def test_naming_an_objective_selects_its_defaults_and_what_the_file_prepared_for_it(config):
    prepared = "objective: {name: dro, n_passes: 5}\nobjectives: {detail: {lam: 30.0}}\n"
    path = config(MINIMAL + prepared)
    assert resolve(path).objective.n_passes == 5
    assert resolve(path, ["objective=detail"]).objective.lam == 30
    assert resolve(path, ["objective=detail"]).objective.noise == "auto"
    assert resolve(path, ["objective=detail", "objective.lam=3"]).objective.lam == 3
    assert resolve(path, ["objective.name=dro_pgd"]).objective.n_steps == 3
    assert resolve(path, ["objective=plain", "objective=dro"]).objective.n_passes == 3


def test_a_base_is_read_below_and_other_choices_drop_what_was_the_old_ones_alone(config):
    config(
        MINIMAL + "contamination: {kind: gaussian, rate: 0.5, sigma: 0.1}\n"
        "objectives: {detail: {lam: 30.0, window: 0.3}}\ntraining: {seed: 4}\n",
        "base.yaml",
    )
    child = config(
        "base: base.yaml\ncontamination: {kind: outlier}\nobjective: detail\n"
        "objectives: {detail: {lam: 5.0}}\ndata: {name: swiss_roll}\n",
        "child.yaml",
    )
    run = resolve(child)
    assert (run.objective.lam, run.objective.window) == (5, 0.3)
    assert (run.contamination.kind, run.contamination.rate) == ("outlier", 0.5)
    assert run.contamination.model_extra == {}
    assert run.training.seed == 4
    assert resolve(child, ["model.network={_class_name: MLP, dim: 2}"]).model.network == {
        "_class_name": "MLP", "dim": 2, "width": 8, "n_blocks": 1,
    }  # fmt: skip
    other = ["model.network={_class_name: UNet2DModel}"]
    assert resolve(child, other).model.network == {"_class_name": "UNet2DModel"}


def test_a_circle_of_bases_is_refused(config):
    config("base: b.yaml\n", "a.yaml")
    assert "leads back to itself" in refusal(config("base: a.yaml\n", "b.yaml"))


AS_TYPED = (
    "photos #1", "my photos # old", "2024", "007", "1e3", "0x10", "no", "yes", "true", "Null",
    "2024-06-01", "12:30", "a: b", "- a", "[holiday] 2024", "{new}", "*", "@home", "&x", "!x",
    "'quoted'", '"x', "C:\\photos\\new", "photos:", "? x", "`x`", "| x", "> x", " lead", "trail ",
    "a\tb", ".5", ".inf", "=x", "a=b", "a\u2028b", "./null", "{a: 1}", "%x", "<<", "#", "a,b",
)  # fmt: skip
"""What nobody means as YAML."""


@pytest.mark.parametrize("text", AS_TYPED)
def test_a_text_setting_takes_the_text_as_it_is_typed(config, text):
    path = config(MINIMAL)
    for key in ("data.train_data_dir", "data.data_files", "data.split", "data.image_column",
                "training.output_dir", "training.hub_model_id", "evaluation.clip"):  # fmt: skip
        run = resolve(path, [f"{key}={text}"])
        section, leaf = key.split(".")
        assert getattr(getattr(run, section), leaf) == text
    teacher = ["objective=consistency_distillation", f"objective.teacher={text}"]
    assert resolve(path, teacher).objective.teacher == text
    kept = resolve(config(dump(resolve(path, [f"training.output_dir={text}"])), "again.yaml"))
    assert kept.training.output_dir == text


def test_null_is_none_where_a_text_may_be_none_and_a_list_may_be_one_of_texts(config):
    path = config(MINIMAL)
    run = resolve(path, ["data.data_files=x", "evaluation.clip=y", "data.data_files=null",
                         "evaluation.clip=null"])  # fmt: skip
    assert (run.data.data_files, run.evaluation.clip) == (None, None)
    assert resolve(path, ["data.split=null"]).data.split == "null"
    for typed, read in {
        "[a, b #1]": "[a, b #1]",
        "[a, 007, no, null, 1e3, 'x, y']": ["a", "007", "no", "null", "1e3", "x, y"],
        "[0-9]*.tar": "[0-9]*.tar",
        "[0-9][0-9]": "[0-9][0-9]",
        "{000..019}.tar": "{000..019}.tar",
        "[]": [],
    }.items():
        assert resolve(path, [f"data.data_files={typed}"]).data.data_files == read
    prompts = resolve(path, ["sampling.prompts=[a barn, 2024, no, '', \"a: b\"]"]).sampling.prompts
    assert prompts == ["a barn", "2024", "no", "", "a: b"]
    assert resolve(path, ["sampling.prompts=null"]).sampling.prompts is None
    assert "sampling.prompts must be a list" in refusal(path, "sampling.prompts=a barn")
    assert "sampling.prompts must be text" in refusal(path, "sampling.prompts=[a: b]")


def test_other_settings_stay_yaml(config):
    path = config(MINIMAL)
    words = ["training.learning_rate=1e-3", "training.use_ema=false", "data.resolution=null",
             "training={seed: 3, output_dir: 'x'}", "evaluation.mismatch=true",
             "evaluation.mismatch_steps=[5, 10]", "model.network.width=16  # wide",
             "model.network.name='007'", "objective={name: detail, lam: 3}",
             "objective.noise=auto"]  # fmt: skip
    run = resolve(path, words)
    assert (run.training.learning_rate, run.training.use_ema, run.data.resolution) == (
        0.001, False, None,
    )  # fmt: skip
    assert (run.training.seed, run.training.output_dir) == (3, "x")
    assert run.evaluation.mismatch_steps == [5, 10]
    assert (run.model.network["width"], run.model.network["name"]) == (16, "007")
    assert (run.objective.lam, run.objective.noise) == (3, "auto")
    assert resolve(path, ["objective=null"]).objective.name == "plain"


def test_whole_numbers_are_decimal(config):
    for typed, value in {
        "010": 10,
        "0010": 10,
        "-07": -7,
        "1_000": 1000,
        "0x10": 16,
        "0o17": 15,
    }.items():
        assert resolve(config(MINIMAL), [f"training.seed={typed}"]).training.seed == value
        assert resolve(config(MINIMAL + f"training: {{seed: {typed}}}\n")).training.seed == value
    for typed in ("12:30", "0b11", "1e3", "1.0", "08x", "1,000"):
        assert "training.seed must be a whole number" in refusal(
            config(MINIMAL), f"training.seed={typed}"
        )


# Refusing


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.learning_rat=1", "unknown key 'training.learning_rat' - did you mean 'learning"),
        ("trainin.seed=1", "unknown key 'trainin' - did you mean 'training'?"),
        ("learning_rate=1", "unknown key 'learning_rate' - did you mean 'training.learning_rate'?"),
        ("model.lora.rnak=1", "unknown key 'model.lora.rnak' - did you mean 'rank'?"),
        (
            "objective={name: adt, discriminator: {widht: 1}}",
            "unknown key 'objective.discriminator.widht' - did you mean 'width'?",
        ),
        (
            "objective={name: adt, discriminator: {width: wide}}",
            "objective.discriminator.width must be a whole number, got 'wide'",
        ),
        ("objective.lamb=1", "unknown key 'objective.lamb' - did you mean 'lam'?"),
        (
            "objective.huber=1",
            "unknown key 'objective.huber' (known: bf16_omega, dirt, few,",
        ),
        ("objective=detial", "unknown objective 'detial' - did you mean 'detail'?"),
        ("objective.lam=-0.1", "objective.lam must be >= 0, got -0.1"),
        ("objective.radius_low=-1", "objective.radius_low must be > 0, got -1"),
        ("objective.noise=much", "objective.noise must be a number or auto, got 'much'"),
        ("objective={name: 3}", "objective must name a method: objective: {name: detail, ...}"),
        ("training.train_batch_size=many", "train_batch_size must be a whole number, got 'many'"),
        ("training.train_batch_size=1.5", "train_batch_size must be a whole number, got 1.5"),
        ("training.seed=true", "training.seed must be a whole number, got True"),
        ("training.learning_rate=fast", "training.learning_rate must be a number, got 'fast'"),
        ("training.learning_rate=.nan", "training.learning_rate must be a finite number, got nan"),
        ("training.use_ema=perhaps", "training.use_ema must be true or false, got 'perhaps'"),
        ("training.lr_scheduler=cosin", "must be one of constant, cosine, got 'cosin' - did you"),
        ("training=3", "training must be a section (key: value), got 3"),
        ("data.name=digit", "data.name must be one of digits, digits_subspace,"),
        ("contamination.rate=1.5", "contamination.rate must be <= 1, got 1.5"),
        ("sampling.scheduler=dimm", "unknown sampler 'dimm' - did you mean 'ddim'?"),
        ("model.scheduler={_class_name: DDPMSchedule}", "did you mean 'DDPMScheduler'?"),
        ("model.prediction_type=eps", "must be one of epsilon, sample, v_prediction,"),
        ("model=null", "model must be a section"),
        ("training.seed.x=1", "training.seed must be a whole number"),
        ("training.seed", "is not key=value"),
        ("training.seed=[", "not a YAML value"),
        ("objective={name: huber, lam: 1}", "unknown key 'objective.lam' (known: huber_c"),
    ],
)
def test_a_wrong_override_is_named_with_the_nearest_right_one(config, override, said):
    line = refusal(config(MINIMAL + "objective: detail\n"), override)
    assert line.startswith(f"override {override!r}")
    assert said in line


def test_what_the_file_says_wrong_is_said_to_be_in_the_file(config):
    path = config(MINIMAL + "training: {learning_rat: 1}\n")
    assert refusal(path, "training.seed=2").startswith(f"config {path}: unknown key")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {seed: 1}\n", "section 'model' is missing"),
        ("model: {}\n", "model.network is missing"),
        ("model: {network: {dim: 3}}\n", "model.network._class_name is missing"),
        (MINIMAL + "objectives: {detial: {lam: 1}}\n", "unknown objective 'objectives.detial'"),
        (MINIMAL + "objectives: {detail: {lamb: 1}}\n", "unknown key 'objectives.detail.lamb'"),
        (MINIMAL + "data: {name: digits}\n", "key 'data' is given twice (line 3, column 1)"),
        ("model: [\n", "not valid YAML"),
        ("just words\n", "must hold sections"),
        ("base: nowhere.yaml\n", "nowhere.yaml does not exist"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(config, text, said):
    assert said in refusal(config(text))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("prediction_type: epsilon, scheduler: {_class_name: DDPMScheduler, "
         "rescale_betas_zero_snr: true}", "cannot be learned with zero terminal SNR"),
        ("prediction_type: epsilon, scheduler: {_class_name: FlowMatchEulerDiscreteScheduler}",
         "flow_prediction needs FlowMatchEulerDiscreteScheduler"),
        ("prediction_type: flow_prediction, scheduler: {_class_name: DDIMScheduler}",
         "DDIMScheduler does not go with prediction_type flow_prediction"),
        ("prediction_type: edm, scheduler: {_class_name: DDIMScheduler}",
         "edm needs EDMEulerScheduler"),
        ("prediction_type: epsilon, scheduler: {_class_name: DDPMScheduler, "
         "prediction_type: v_prediction}", "say it once, in model.prediction_type"),
        ("pretrained_model_name_or_path: runs/x", "not both"),
    ],
)  # fmt: skip
def test_model_parts_that_do_not_go_together_are_refused(config, model, said):
    text = f"model: {{network: {{_class_name: MLP, dim: 3}}, {model}}}\n"
    assert said in refusal(config(text))


# Agreement with what is built


def test_detail_starts_after_two_thirds_of_the_run(config):
    from sparring.assembly.build import build_objective
    from sparring.diffusion.schedules import schedule_from_config

    schedule = schedule_from_config({"_class_name": "DDPMScheduler"})
    for words, step in (([], 200), (["objective.start_step=0", "objective.noise=0.5"], 0)):
        run = resolve(config(MINIMAL), ["objective=detail", "training.max_train_steps=300", *words])
        assert build_objective(run, schedule).start_step == step


def test_a_metric_of_ones_own_is_read_from_its_file(config, tmp_path):
    import torch

    from sparring.assembly.build import build_objective
    from sparring.diffusion.schedules import schedule_from_config

    (tmp_path / "mine.py").write_text("def far(a, b):\n    return (a - b).abs().amax((1,))\n")
    words = ["objective=consistency_training", f"objective.metric={tmp_path / 'mine.py'}:far"]
    run = resolve(config(MINIMAL), words)
    objective = build_objective(run, schedule_from_config({"_class_name": "DDPMScheduler"}))
    assert objective.metric(torch.zeros(1, 3), torch.tensor([[1.0, -4.0, 2.0]])).tolist() == [4.0]
    assert objective.levels.steps_per_stage == run.training.max_train_steps // 8


def test_who_says_one_size_for_all_images_asks_for_no_audit(config):
    path = config(MINIMAL + "objective: detail\n")
    assert resolve(path).objective.dirt == "auto"
    said = resolve(path, ["objective.noise=0.4"])
    assert said.objective.dirt == "none"
    assert check(said.model_dump(), "again").objective.dirt == "none"
    for dirt in ("auto", "table.csv"):
        words = [f"objective.dirt={dirt}", "objective.window=0.4"]
        with pytest.raises(UserError, match=r"objective.noise and objective.window are one size"):
            resolve(path, words)


def test_no_kind_of_dirt_has_an_option_that_is_the_data_sets():
    from sparring.data.dirt.kinds import names
    from sparring.data.dirt.registry import find
    from sparring.data.dirt.section import OF_THE_SET
    from sparring.options.sections import options_of

    assert not set().union(*(options_of(find(kind)) for kind in names())) & set(OF_THE_SET)


def test_schedulers_are_those_that_exist():
    import diffusers

    assert all(hasattr(diffusers, name) for name in SCHEDULERS)


# Building


def test_what_the_data_know_is_filled_in(config):
    text = (
        "model: {class_conditional: true, learned_variance: true, network: {_class_name: "
        "UNet2DModel, block_out_channels: [8, 8], down_block_types: [DownBlock2D, DownBlock2D], "
        "up_block_types: [UpBlock2D, UpBlock2D], layers_per_block: 1, norm_num_groups: 4}}\n"
        "training: {conditioning_dropout_prob: 0.1}\n"
    )
    run = resolve(config(text))
    dataset = build_dataset(run)
    model = build_model(run, dataset.sample_shape, dataset.num_classes)
    denoiser, scheduler = model.denoiser, model.scheduler_config
    network = denoiser.network.config
    assert (network.in_channels, network.out_channels, network.sample_size) == (1, 2, 8)
    assert network.num_class_embeds == 11
    assert denoiser.null_condition == {"class_labels": 10}
    assert scheduler["variance_type"] == "learned_range"
    assert scheduler["beta_start"] == 1e-4


def test_weights_follow_from_the_seed(config):
    def weights(seed):
        run = resolve(config(MINIMAL), [f"training.seed={seed}"])
        return build_model(run, (3,), None).denoiser.state_dict()["network.first.weight"]

    assert weights(1).equal(weights(1))
    assert not weights(1).equal(weights(2))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.network.widht=3", "unknown key 'model.network.widht' - did you mean 'width'?"),
        ("model.network._class_name=MPL", "unknown network 'MPL' - did you mean 'MLP'?"),
        ("model.network.dim=2", "model.network.dim is 2 but the data have 3 dimensions"),
        ("model.scheduler.beta_strat=1",
         "unknown key 'model.scheduler.beta_strat' - did you mean 'beta_start'?"),
        ("model.class_conditional=true", "needs labels, and plane has none"),
        ("training.timestep_history=3", "takes no timestep_history"),
    ],
)  # fmt: skip
def test_free_form_settings_are_checked_against_the_class(config, override, said):
    run = resolve(config(MINIMAL), [override])
    with pytest.raises(UserError, match=r"^[^\n]*$") as caught:
        build_objective(run, build_model(run, (3,), None).denoiser.schedule)
    assert said in str(caught.value)


def test_data_to_contaminate_are_recognised_by_their_look(tmp_path):
    overrides = ["contamination.sigma=0.3"]
    assert sections_of("digits", overrides, "gaussian", "inspect")[0]["name"] == "digits"
    assert sections_of(str(tmp_path), overrides, "gaussian", "inspect")[0]["name"] == "image_folder"
    assert sections_of("a/b.parquet", overrides, "gaussian", "inspect")[0]["name"] == "parquet"
    assert sections_of("a/{0..9}.tar", overrides, "gaussian", "inspect")[0]["name"] == "webdataset"
    data, contamination = sections_of("somebody/pictures", overrides, "gaussian", "inspect")
    assert data["dataset_name"] == "somebody/pictures"
    assert contamination["sigma"] == 0.3


def test_sampling_takes_options_and_overrides():
    said = asked_for(["sampling.num_inference_steps=7"], {"seed": 3, "eta": None, "device": "cpu"})
    assert said == {"seed": 3, "num_inference_steps": 7}
    with pytest.raises(UserError, match=r"unknown key 'sampling.sheduler' - did you mean"):
        asked_for(["sampling.sheduler=ddim"], {})


def test_an_option_of_a_kind_of_ones_own_is_text_where_its_type_says_so(config, tmp_path):
    (tmp_path / "sign.py").write_text(
        "from dataclasses import dataclass\n"
        "from sparring.data.dirt.contract import Corruption\n"
        "@dataclass\nclass Sign(Corruption):\n    words: str = 'x'\n    size: int = 1\n"
        "    def apply(self, x, rng, label):\n        return x\n"
    )
    words = [f"contamination.kind={tmp_path}/sign.py:Sign", "contamination.words=007"]
    run = resolve(config(MINIMAL), [*words, "contamination.size=010"])
    assert run.contamination.model_extra == {"words": "007", "size": 10}


@pytest.mark.parametrize("text", ["007", "\u00a9 2024 #1: mine", "'quoted'", "no", "{a}", "1e3"])
def test_a_watermark_and_the_folder_of_other_images_are_taken_as_typed(config, text):
    path = config(MINIMAL)
    words = [f"contamination.text={text}", "contamination.kind=watermark"]
    assert resolve(path, words).contamination.model_extra == {"text": text}
    assert resolve(path, [*words[1:], "contamination.text=null"]).contamination.model_extra == {}
    words = ["contamination.kind=outlier", f"contamination.images.train_data_dir={text}"]
    images = resolve(path, words).contamination.model_extra["images"]
    assert images == {"train_data_dir": text}


@pytest.mark.parametrize(
    "words",
    [
        ["contamination.sigma=0.3", "contamination.kind=correlated"],
        ["objective.lam=3", "objective=detail"],
        ["objective.lam=3", "objective.name=detail"],
        ["model.network.sample_size=4", "model.network._class_name=DiTTransformer2DModel"],
        ["data.dim=5", "data.name=plane"],
    ],
)
def test_the_order_of_overrides_does_not_matter(words):
    raw = {"objective": {"name": "plain"}, "contamination": {"kind": "gaussian", "sigma": 0.1}}
    raw |= {"data": {"name": "digits"}, "model": {"network": {"_class_name": "UNet2DModel"}}}
    assert with_overrides(raw, words) == with_overrides(raw, words[::-1])
    (key, value), *_ = (word.split("=") for word in words)
    section, *_, option = key.split(".")
    found = with_overrides(raw, words)[section]
    assert (found if section != "model" else found["network"])[option] == float(value)
