from pathlib import Path

import pytest
import torch
from torch import nn

from bench.channels.groups import find_groups, prunable
from bench.cut.network import cut
from bench.errors import BenchError, UsageError, as_flags
from bench.models import ModelSpec, build_model, new_model, own_network
from bench.models.checkpoint import SavedModel, load_model, save_model
from bench.models.options import ModelOptions
from bench.models.own_network import check_input
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import make_plan
from bench.plan.target import Goal, Target
from bench.pruners import make_pruner
from bench.pruners.base import Calibration
from bench.torch_utils.network_form import NetworkForm, form_of

NETS = """
from pathlib import Path
import torch
from torch import nn

Path("imported").touch()


class Net(nn.Module):
    def __init__(self, classes, width=4, channels=3, multiple=1, least=1):
        super().__init__()
        self.stem, self.multiple, self.least = nn.Conv2d(channels, width, 3, 2, 1), multiple, least
        self.norm, self.head = nn.BatchNorm2d(width), nn.Conv2d(width, classes, 1)

    def forward(self, images):
        if any(side % self.multiple for side in images.shape[-2:]):
            raise ValueError(f"sides must be multiples of {self.multiple}")
        if min(images.shape[-2:]) < self.least:
            raise RuntimeError("too small")
        features = torch.relu(self.norm(self.stem(images)))
        return {"seg": self.head(features), "pooled": features.mean((2, 3))}


def make(classes, **settings):
    return Net(classes, **settings)


def fixed():
    return Net(5)


def both(classes, out_channels):
    return Net(classes)


def fails(outputs):
    return [][outputs]


def no_network(outputs):
    return outputs


number = 3
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a user who has a file and a package of networks; nobody has named any yet."""
    (tmp_path / "mynets").mkdir()
    for file in ("nets.py", "mynets/nets.py"):
        (tmp_path / file).write_text(NETS)
    (tmp_path / "broken.py").write_text("import nothing_that_is_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(own_network, "_named", [])
    return tmp_path


def spec_of(name="nets.py:make", outputs=5, **args):
    return ModelSpec(name, outputs, {"args": args} if args else {})


@pytest.mark.parametrize("name", ["nets.py:make", "mynets.nets:make", "mynets/nets.py:Net", "./nets.py:make"])
def test_a_factory_is_named_by_its_module_or_its_file(name):
    network = build_model(spec_of(name, width=6)).eval()
    assert network.stem.out_channels == 6
    assert network(torch.zeros(1, 3, 16, 20)).shape == (1, 5, 16, 20)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (spec_of("nets.py:other"), "nets.py has no other"),
        (spec_of("nets.py:number"), "nets.py:number is a int"),
        (spec_of("nets.py:no_network"), "gives a int, not a network"),
        (spec_of("nets.py:"), "names no factory; write package.module:factory or path/file.py:factory"),
        (spec_of("elsewhere.py:make"), "elsewhere.py does not exist; the file of a factory is looked for from /"),
        (spec_of("no.such:make"), "there is no module no.such in /"),
        (spec_of("broken.py:make"), "broken.py cannot be imported: ModuleNotFoundError: No module named 'nothing_that"),
        (spec_of("nets.py:fails"), "cannot be built: IndexError: list index out of range (nets.py, line 37)"),
        (spec_of("nets.py:fixed", width=3), "cannot be called so: got an unexpected keyword argument 'width'"),
        (
            spec_of("nets.py:both"),
            "takes classes and out_channels; say the one that counts the outputs in --model-args",
        ),
        (ModelSpec("unet_small", 5, {"depth": 9.5}), "unet_small cannot be built with its arguments {'depth': 9.5}"),
    ],
)
def test_what_is_no_factory_is_told_in_one_line(spec, said):
    with pytest.raises(BenchError) as caught:
        build_model(spec)
    message = as_flags(str(caught.value))
    assert said in message
    assert "\n" not in message


def test_the_number_of_outputs_is_passed_or_must_be_right():
    assert new_model(spec_of("nets.py:fixed"))[0].head.out_channels == 5
    with pytest.raises(
        BenchError, match=r"nets.py:fixed gives 5 outputs, 12 are needed; .* called one of outputs, num_"
    ):
        new_model(spec_of("nets.py:fixed", outputs=12))
    assert build_model(spec_of("nets.py:both", outputs=7, classes=5, out_channels=0)).head.out_channels == 5


def test_what_a_network_takes_is_found_out_once_and_recorded(capsys):
    model, spec = new_model(spec_of(multiple=8))
    assert spec.kwargs == {"args": {"multiple": 8}, "pad_to": 8}
    assert "nets.py:make takes images whose sides are multiples of 8; others are padded" in capsys.readouterr().out
    assert model.eval()(torch.zeros(1, 3, 13, 30)).shape == (1, 5, 13, 30)
    assert form_of(build_model(spec)) == NetworkForm(pad_to=8)
    model, spec = new_model(spec_of(least=100))
    assert spec.kwargs["trace_size"] == [128, 128]
    assert "does not run at 64x64 and is looked at at 128x128" in capsys.readouterr().out
    assert [group.name for group in prunable(find_groups(model))] == ["stem"]


def test_what_is_said_of_a_network_is_believed():
    options = ModelOptions("nets.py:make", {"least": 70, "multiple": 24}, trace_size=(72, 96), pad_to=24)
    spec = new_model(options.spec(5))[1]
    assert spec.kwargs == {"args": options.model_args, "trace_size": [72, 96], "pad_to": 24}
    with pytest.raises(BenchError, match=r"does not run at 48x48 .too small.; pass another `trace_size`"):
        new_model(ModelOptions("nets.py:make", {"least": 70}, trace_size=(48, 48)).spec(5))
    with pytest.raises(BenchError, match=r"nor at larger sizes; pass `trace_size=H,W`"):
        new_model(ModelOptions("nets.py:make", {"least": 1000}).spec(5))


def test_other_channels_than_the_data_have_are_refused_only_with_data():
    model, spec = new_model(ModelOptions("nets.py:make", {"channels": 4}, input_channels=4).spec(5))
    assert [group.name for group in prunable(find_groups(model))] == ["stem"]
    with pytest.raises(BenchError, match="takes images of 4 channels, those of the data set have 3"):
        check_input(model, spec.name, (32, 32))
    with pytest.raises(BenchError, match="and `input_channels` where it takes others"):
        new_model(spec_of(channels=4))
    small = build_model(spec_of(least=40))
    with pytest.raises(BenchError, match=r"does not run on images of 32x32 \(too small\); pass another `input_size`"):
        check_input(small, "nets.py:make", (32, 32))


def test_options_of_the_users_network_are_refused_for_those_of_the_project():
    with pytest.raises(UsageError, match="`pad_to` is for a network of your own"):
        _ = ModelOptions("unet_small", pad_to=8).kwargs
    assert ModelOptions("unet_small", {"width": 8}).spec(5) == ModelSpec("unet_small", 5, {"width": 8})


# --- files


def saved_file(path: Path, **args: int) -> Path:
    model, spec = new_model(spec_of(**args))
    save_model(path, SavedModel(model.eval(), spec))
    return path


def test_opening_a_file_runs_no_code_until_its_factory_is_named(place, monkeypatch):
    path = saved_file(place / "a.pt")
    monkeypatch.setattr(own_network, "_named", [])
    own_network._imported.cache_clear()
    Path("imported").unlink()
    with pytest.raises(BenchError) as caught:
        load_model(path)
    assert as_flags(str(caught.value)).endswith("pass --model nets.py:make to have it imported")
    with pytest.raises(BenchError, match=r"holds a nets.py:make, not a nets.py:fixed"):
        load_model(path, name="nets.py:fixed")
    with pytest.raises(BenchError, match=r"holds a nets.py:make, not a unet_small"):
        load_model(path, name="unet_small")
    assert not Path("imported").exists()
    assert load_model(path, name="nets.py:make").spec.name == "nets.py:make"
    assert Path("imported").exists()
    # From now on it is known in this process, as the jobs of a benchmark open files of each other.
    assert load_model(path).spec.outputs == 5


def test_another_spelling_of_the_same_factory_will_do(place, monkeypatch):
    path = saved_file(place / "a.pt")
    monkeypatch.setattr(own_network, "_named", [])
    monkeypatch.chdir(place / "mynets")
    (place / "nets.py").unlink()
    assert load_model(path, name="nets.py:make").spec.name == "nets.py:make"
    monkeypatch.setattr(own_network, "_named", [])
    monkeypatch.chdir(place)
    assert load_model(path, name="mynets/nets.py:make").spec.name == "mynets/nets.py:make"
    own_network.name_factory("mynets.nets:make")
    with pytest.raises(BenchError, match=r"could be mynets/nets.py:make or mynets.nets:make; name one alone"):
        load_model(path)


def test_arguments_that_a_file_contradicts_are_refused(place):
    path = saved_file(place / "a.pt", width=6)
    named = {"name": "nets.py:make"}
    assert load_model(path, **named, kwargs={"args": {"width": 6}, "pad_to": 4}).spec.kwargs["pad_to"] == 4
    with pytest.raises(BenchError, match=r"holds a nets.py:make with width=6, not width=8; leave `model_args` out"):
        load_model(path, **named, kwargs={"args": {"width": 8}})


def test_a_pruned_network_opens_with_what_it_takes(place):
    model, spec = new_model(spec_of(multiple=8, width=8))
    model.eval()
    groups = find_groups(model)
    scores = make_pruner("l1").score(model, prunable(groups), Calibration([], 255, 0))
    plan = make_plan(groups, scores, CostTable(model, groups, (64, 64)), Target(Goal("channels", 0.5)))
    cut(model, groups, plan)
    save_model("pruned.pt", SavedModel(model, spec, plan.kept))
    opened = load_model("pruned.pt").model
    images = torch.randn(1, 3, 21, 19)
    assert opened.stem.out_channels == 4
    assert torch.equal(opened(images), model(images))


def test_a_plain_state_dict_opens_under_other_names_and_with_new_outputs(place, capsys):
    network = build_model(spec_of(width=6)).eval()
    names = {"stem": "backbone.0", "norm": "backbone.1", "head": "decoder.classify"}
    tensors = {f"{names[k.split('.')[0]]}.{k.split('.', 1)[1]}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, "plain.pt")
    key_map = {f"module.{old}": new for new, old in names.items()}
    opening = {"name": "nets.py:make", "kwargs": {"args": {"width": 6}}, "key_map": key_map}
    opened = load_model("plain.pt", **opening, outputs=5)
    assert all(torch.equal(opened.model.state_dict()[k], v) for k, v in network.state_dict().items())
    reset = load_model("plain.pt", **opening, outputs=3, head="fresh")
    assert torch.equal(reset.model.stem.weight, network.stem.weight) and reset.model.head.out_channels == 3
    assert "head of plain.pt begin anew, with 3 outputs" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"no tensor's name begins with 'encoder.' of `key_map`"):
        load_model("plain.pt", **{**opening, "key_map": {"encoder.": ""}}, outputs=5)
    with pytest.raises(UsageError, match="by `key_map` two tensors would be called weight"):
        load_model("plain.pt", **{**opening, "key_map": {"module.backbone.0.": "", "module.decoder.classify.": ""}})


def test_output_layers_of_a_factory_without_their_number_cannot_begin_anew(place):
    save_model("a.pt", SavedModel(*new_model(spec_of("nets.py:fixed"))))
    with pytest.raises(UsageError, match=r"nets.py:fixed takes no number of outputs .*; leave out `reset_head`"):
        load_model("a.pt", name="nets.py:fixed", head="fresh")
    torch.save(build_model(spec_of("nets.py:fixed")).state_dict(), "plain.pt")
    assert isinstance(load_model("plain.pt", name="nets.py:fixed", outputs=5, head="fitting").model, nn.Module)
