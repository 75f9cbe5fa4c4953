"""A graph through the whole way: trained, stopped and resumed, loaded, evaluated, talked to, looked at, refused."""

from __future__ import annotations

import json
import math
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

import graph_kit as kit
import numpy as np
from safetensors.torch import load_file
from training_kit import Bench, assert_same_run, losses, metrics

from conftest import Call
from heedful import corpora, formats, taxonomy
from heedful.errors import ConfigError, DataError, UserError
from heedful.evaluation import EvalConfig, evaluate
from heedful.models.causal import fingerprint, load
from heedful.models.decoding import Decoding
from heedful.models.forward import likelihood
from heedful.models.generate import generate
from heedful.models.gguf import merged_copy
from heedful.models.graph_view import attention
from heedful.models.talk import Talk
from heedful.scoring.problem_type import figures
from heedful.training import Run, train
from heedful.training.config import TrainConfig
from heedful.training.data import prepare
from heedful.training.methods import configured
from heedful.types import Conversation

pytestmark = pytest.mark.filterwarnings(
    "ignore:Setting `save_embedding_layers`:UserWarning", "ignore:`is_gradient_checkpointing`:FutureWarning"
)
GLHG: dict[str, Any] = {
    "format": {"name": "glhg", "cause": "situation"},
    "graph": {"learning_rate": 0.01, "dropout": 0.0},
    "lr_scheduler_type": "constant",
}
SITUATIONS = ("My hours at work were cut.", "I fail one exam after the other.", "I am awake all night.")


def talks(n: int, name: str) -> list[Conversation]:
    """Talks whose situation gives the problem away."""
    found = kit.talks(n, seed=sum(map(ord, name)))[:n]
    return [
        replace(c, id=f"{name}-{i}", split=name, situation=SITUATIONS[i % 3], problem_type=kit.PROBLEMS[i % 3])
        for i, c in enumerate(found)
    ]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("graph"))
    corpora.write_jsonl(bench.data, [*talks(9, "train"), *talks(6, "valid")])
    return bench


@pytest.fixture(scope="module")
def run(bench: Bench) -> Run:
    return bench.run("glhg", **GLHG, num_train_epochs=8, eval_split="valid")


def test_it_learns_words_and_problem_types_and_prints_a_floor(run: Run) -> None:
    found = losses(run.folder)
    assert found[-1] < found[0] - 0.3
    rows = [row for row in metrics(run.folder) if "problem_loss" in row]
    assert rows[0]["problem_loss"] == pytest.approx(math.log(12), abs=1.0)
    assert rows[-1]["problem_loss"] < 0.5
    about = run.summary["graph"]
    right = {name: row["accuracy"]["value"] for name, row in about["monitor"]["rows"].items()}
    assert right["monitor"] > right["majority"] + 20
    assert (about["monitor"]["conversations"], about["monitor"]["split"]) == (6, "valid")
    assert about["parameters"] == sum(v.numel() for v in load_file(str(run.folder / "graph.safetensors")).values())
    weights = load_file(str(run.folder / "adapter_model.safetensors"))
    assert not any("graph" in name for name in weights)  # peft and transformers open the adapter as ever


def test_the_graph_has_a_rate_of_its_own(bench: Bench) -> None:
    still = bench.run("still", **{**GLHG, "learning_rate": 1e-12}, max_steps=2)
    moved = load_file(str(still.folder / "graph.safetensors"))
    rest = bench.run("rest", **{**GLHG, "graph": {**GLHG["graph"], "learning_rate": 1e-12}}, max_steps=2)
    same = load_file(str(rest.folder / "graph.safetensors"))
    assert same["adapters.0.gamma"].abs().max() < 1e-9
    assert moved["adapters.0.gamma"].abs().max() > 1e-3
    lora = [load_file(str(r.folder / "adapter_model.safetensors")) for r in (still, rest)]
    name = next(n for n in lora[0] if "lora_B" in n)
    assert lora[0][name].abs().max() < 1e-9
    assert lora[1][name].abs().max() > 1e-4


@pytest.mark.parametrize("delta", ["lora", "full"])
def test_a_resumed_run_is_the_same(bench: Bench, delta: str) -> None:
    values = {
        **GLHG, "delta": delta, "learning_rate": 1e-3, "max_steps": 6, "save_steps": 2, "eval_split": "valid",
        "eval_steps": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2,
        "graph": {"learning_rate": 0.01, "dropout": 0.1},
    }  # fmt: skip
    whole = bench.run(f"whole-{delta}", **values)
    folder = bench.crash(f"again-{delta}", 4, **values)
    again = bench.run(folder.name, **values, resume_from_checkpoint=True)
    assert_same_run(again.folder, whole.folder)
    ours, theirs = (load_file(str(r.folder / "graph.safetensors")) for r in (again, whole))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=0)
    assert again.summary["graph"] == whole.summary["graph"]


def test_the_best_step_has_its_own_graph(bench: Bench) -> None:
    values = {**GLHG, "learning_rate": 3.0, "graph": {"learning_rate": 0.5}, "eval_split": "valid", "eval_steps": 1,
              "save_steps": 1, "max_steps": 4, "save_total_limit": 4}  # fmt: skip
    run = bench.run("best", **values)
    step = run.summary["weights_step"]
    assert step < 4
    kept = load_file(str(run.folder / "checkpoints" / f"checkpoint-{step}" / "graph.safetensors"))
    for name, value in load_file(str(run.folder / "graph.safetensors")).items():
        torch.testing.assert_close(value, kept[name], atol=0, rtol=0)


def test_a_loaded_run_is_the_trained_one(run: Run, bench: Bench) -> None:
    causal = load(str(run.folder))
    fmt = formats.make(GLHG["format"])
    held = corpora.load(str(bench.data), "valid")
    samples = [s for c in held for s in fmt.samples(c, causal.tokenizer, max_length=1024)]
    found = likelihood(causal, samples)
    mean = sum(x.text_nll for x in found) / sum(x.text_tokens for x in found)
    assert mean == pytest.approx(run.summary["best_eval_loss"], abs=1e-4)
    bare = load(str(run.folder), adapter=False)
    assert bare.graph is None
    assert fingerprint(causal) != fingerprint(replace(causal, graph=None)) != fingerprint(bare)


def test_the_monitor_is_asked_with_the_situation_and_without_it(
    run: Run, bench: Bench, tmp_path: Path, call: Call
) -> None:
    where = f"output_dir={tmp_path / 'e'}"
    code, out, _ = call("eval", "monitor", str(run.folder), "split=valid", where, "--json")
    assert code == 0
    found = json.loads(out)["causes"]
    trained = run.summary["graph"]["monitor"]["rows"]
    for row in ("monitor", "majority"):  # the figures of the end of training, which read the situation
        assert found["situation"]["rows"][row]["accuracy"]["value"] == pytest.approx(trained[row]["accuracy"]["value"])
    assert found["history"]["rows"]["monitor"]["accuracy"]["value"] < 100
    code, out, _ = call("eval", "monitor", str(run.folder), "split=valid", where)
    assert "situation (oracle)" in out
    assert "most frequent type" in out
    plain = bench.run("plain", format="chat", max_steps=1)
    code, _, err = call("eval", "monitor", str(plain.folder), "split=valid")
    assert (code, "has no monitor" in err) == (2, True)


def test_a_page_shows_where_the_graph_looked(run: Run, bench: Bench, tmp_path: Path, call: Call) -> None:
    arguments = ["eval", "attention", str(run.folder), "split=valid", f"output_dir={tmp_path / 'e'}", "--at"]
    conv = talks(6, "valid")[1]
    turn = next(i for i, t in enumerate(conv.turns) if t.role == "assistant" and i > 1)
    code, out, _ = call(*arguments, f"{conv.id}/{turn}")
    assert code == 0
    page = Path(out.removeprefix("page: ").strip())
    text = page.read_text("utf-8")
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    for said in (SITUATIONS[1], "The global node looks at", "The local node looks at", "The reply reads, after block"):
        assert said in text
    shares = [float(found) for found in re.findall(r'title="([\d.]+) %"', text)]
    assert max(shares) > 0
    for at, said in (("x/1", "no conversation 'x'"), (conv.id, "CONVERSATION/TURN"), (f"{conv.id}/0", "no reply at")):
        code, _, err = call(*arguments, at)
        assert (code, said in err) == (2, True), err


def test_evaluation_writes_with_the_graph(run: Run, bench: Bench, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "model_name_or_path": str(run.folder), "split": "valid", "baselines": ["fixed_reply"], "metrics": ["length"],
        "decoding": {"max_new_tokens": 5}, "bootstrap": 20,
    }  # fmt: skip
    oracle = evaluate(EvalConfig(**values, output_dir=str(tmp_path / "oracle")))
    history = evaluate(EvalConfig(**values, output_dir=str(tmp_path / "history"), format="glhg"))
    kinds = []
    for found in (oracle, history):
        traces = [json.loads(x) for x in (found.folder / "traces" / "trained.jsonl").read_text().splitlines()[1:]]
        kinds.append([t["reply"] for t in traces])
        assert len(traces) == len({t["id"] for t in traces}) > 6
        nll = [json.loads(x) for x in (found.folder / "likelihood" / "trained.jsonl").read_text().splitlines()[1:]]
        kinds.append(sum(x["text_nll"] for x in nll))
    assert kinds[1] / sum(1 for _ in kinds[0]) > 0
    assert kinds[1] != pytest.approx(kinds[3], abs=1e-3)  # the situation is read, and only where it is asked for


def test_a_talk_reads_the_graph_and_what_planners_say(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    causal, asked = load(str(run.folder)), []
    fmt = formats.make(GLHG["format"])

    class Plans:
        def plan(self, conversations: Any) -> list[Conversation]:
            source = {"name": "atomic.xIntent", "text": "to rest"}
            return [replace(c, turns=tuple(replace(t, sources=(source,)) for t in c.turns)) for c in conversations]

    def heard(causal: Any, samples: Any, *args: Any, **options: Any) -> Any:
        asked.extend(samples)
        return generate(causal, samples, *args, **options)

    monkeypatch.setattr("heedful.models.talk.generate", heard)
    talk = Talk(causal, fmt, Decoding(max_new_tokens=12, do_sample=True, seed=4), planners=Plans())
    for text in ("I have not slept.", "Since May."):
        talk.say(text)
        pieces: list[str] = []
        reply = talk.reply(pieces.append)
        assert "".join(pieces) == reply.text
    end = causal.tokenizer.eos_token
    said = [[causal.tokenizer.decode(ids) for ids in (s.guide.cause, s.guide.intention)] for s in asked]
    # Nobody wrote a situation, so the first utterances stand for it.
    assert said == [
        [f"{end}I have not slept.", f"{end}to rest"],
        [f"{end}I have not slept.{end}Since May.", f"{end}to rest"],
    ]
    with torch.no_grad():
        held = kit.memory(causal, asked[0])[0]
        made = next(iter(generate(causal, asked[:1], Decoding(max_new_tokens=12, do_sample=True, seed=4))))[0].written
        table = kit.logits(causal, asked[0], made.tokens[:-1], held).log_softmax(-1)
    own = table.gather(1, torch.tensor(made.tokens)[:, None])[:, 0]
    np.testing.assert_allclose(made.logprobs, own.numpy(), atol=1e-4)


def test_attention_is_that_of_the_dense_graph(run: Run, bench: Bench) -> None:
    causal = load(str(run.folder))
    fmt = formats.make(GLHG["format"])
    talk = corpora.load(str(bench.data), "valid")[0]
    sample = fmt.samples(talk, causal.tokenizer, max_length=1024)[-1]
    found = attention(causal, fmt, talk, sample.turn)
    assert found.ends == ("global", "local")
    assert found.texts[0] == SITUATIONS[0]
    assert "".join(found.tokens[slice(*found.local)]) == next(
        t.text for t in reversed(talk.turns[: sample.turn]) if t.role == "user"
    )
    assert "".join(found.reply).removesuffix(causal.tokenizer.eos_token) == talk.turns[sample.turn].text
    with torch.no_grad():
        said = kit.log_likelihood(causal, sample)[1][0].softmax(-1)
    np.testing.assert_allclose(list(found.problems.values()), said.numpy(), atol=1e-5)
    assert list(found.problems) == list(taxonomy.get("esconv_problem").names)
    n = 2 + len(found.tokens)
    assert found.edges is not None
    assert found.edges.shape == (4, n, n)
    np.testing.assert_allclose(found.edges.sum(-1), 1, atol=1e-6)
    with torch.no_grad():
        expected = kit.last_weights(causal, sample)
    np.testing.assert_allclose(found.edges, expected, atol=1e-5)
    assert set(found.reading) == {1, 2}
    for weights in found.reading.values():
        assert weights.shape == (4, len(found.reply), n)
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert "awake" not in repr(found)
    with pytest.raises(DataError, match="There is no reply at turn 0"):
        attention(causal, fmt, talk, 0)
    with pytest.raises(ConfigError, match="has no graph to look at"):
        attention(replace(causal, graph=None), fmt, talk, sample.turn)


ABLATIONS: dict[str, dict[str, Any]] = {
    "no graph": {"layers": 0},
    "no g": {"global_node": False, "monitor": 0.0},
    "no l": {"local_node": False},
    "no monitor": {"monitor": 0.0},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_train_and_load(bench: Bench, name: str) -> None:
    run = bench.run(name.replace(" ", "-"), **{**GLHG, "graph": ABLATIONS[name]}, max_steps=2, eval_split="valid")
    graph = load(str(run.folder)).graph
    weights = load_file(str(run.folder / "graph.safetensors"))
    assert any("layers.0.value" in n for n in weights) == (name != "no graph")
    assert any("project.global" in n for n in weights) == (name != "no g")
    assert any("project.local" in n for n in weights) == (name != "no l")
    assert (graph.monitor is None) == (name in ("no g", "no monitor"))
    assert ("monitor" in run.summary["graph"]) == (graph.monitor is not None)
    assert run.summary["best_eval_loss"] > 0


def test_a_warm_up_teaches_the_monitor_before_the_first_step(bench: Bench) -> None:
    still = {"learning_rate": 1e-12, "max_steps": 1, "eval_split": "valid"}
    graph = {**GLHG["graph"], "pooling": "mean", "radius": 0}
    cold = bench.run("cold", **{**GLHG, "graph": {**graph, "learning_rate": 1e-12}, **still})
    state = torch.random.get_rng_state()
    values = {**GLHG, "graph": {**graph, "learning_rate": 3e-3, "monitor_warmup_epochs": 20}, **still}
    warm, again = bench.run("warm", **values), bench.run("again", **values)
    assert torch.equal(state, torch.random.get_rng_state())
    right = [r.summary["graph"]["monitor"]["rows"]["monitor"]["accuracy"]["value"] for r in (cold, warm)]
    assert right[1] == 100
    assert right[0] < 70
    weights = [load_file(str(r.folder / "graph.safetensors")) for r in (warm, again)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_goes_on_from_a_graph_and_nothing_else_takes_it(run: Run, bench: Bench, tmp_path: Path) -> None:
    values = {**GLHG, "model_name_or_path": str(run.folder), "max_steps": 1, "learning_rate": 1e-12}
    second = bench.run("second", **{**values, "graph": {**GLHG["graph"], "learning_rate": 1e-12}})
    before, after = (load_file(str(r.folder / "graph.safetensors")) for r in (run, second))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)
    with pytest.raises(ConfigError, match="another shape"):
        bench.run("third", **{**values, "graph": {"layers": 1}})
    with pytest.raises(ConfigError, match=r"writes with a graph, which only method: sft with graph"):
        bench.run("fourth", **{k: v for k, v in values.items() if k != "graph"})
    method, config = configured(
        {"method": "grpo", "model_name_or_path": str(run.folder), "dataset": str(bench.data), "rewards": ["length"],
         "eval_split": None, "output_dir": str(tmp_path / "rl")}
    )  # fmt: skip
    with pytest.raises(UserError, match=r"writes with a graph, which only method: sft"):
        method.train(config)
    with pytest.raises(ConfigError, match="cannot be exported"):
        merged_copy(load(str(run.folder)))


def test_settings_that_do_not_fit_are_refused(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"needs a format that says what the graph reads.*format: glhg"):
        bench.run("chat", format="chat", graph={})
    with pytest.raises(ConfigError, match=r"graph.heads must divide the model's hidden size 32, but it is 5"):
        bench.run("heads", **{**GLHG, "graph": {"heads": 5}})
    nameless = bench.root / "nameless.jsonl"
    corpora.write_jsonl(nameless, [replace(c, problem_type=None) for c in talks(4, "train")])
    with pytest.raises(DataError, match=r"No conversation in split train.*nothing to learn; set graph.monitor: 0"):
        train(TrainConfig(**{**bench.values("nameless", **GLHG), "dataset": str(nameless)}))
    for graph, said in (
        ({"global_node": False}, "with global_node: false set monitor: 0"),
        ({"monitor": 1.0}, "less than 1"),
        ({"monitor": 0.0, "monitor_warmup_epochs": 2}, "with monitor: 0 leave them at 0"),
        ({"pooling": "sum"}, "'max' or 'mean'"),
        ({"global": "history"}, "unknown key 'graph.global'"),
    ):
        with pytest.raises(ConfigError, match=said):
            configured({**GLHG, "graph": graph})
    with pytest.raises(ConfigError, match="gradient_checkpointing must be false"):
        configured({**GLHG, "gradient_checkpointing": True})
    with pytest.raises(ConfigError, match="graph and act_head cannot be trained together"):
        configured({**GLHG, "act_head": {"label_set": "hope_act"}})


def test_guides_are_part_of_the_data(bench: Bench) -> None:
    """Another situation is other data, even where no word of the talk changes."""
    causal = kit.graph_model()
    fmt = formats.make(GLHG["format"])
    one = talks(2, "train")
    two = [replace(c, situation="Something else.") for c in one]
    hashes = {prepare(t, fmt, causal.tokenizer, max_length=900).hash for t in (one, two)}
    assert len(hashes) == 2


def test_figures_of_nothing_are_none_and_a_floor_is_counted() -> None:
    assert figures([], labels=["a"], most="a") is None


@pytest.mark.slow
@pytest.mark.parametrize("conversations", [9, 8])
def test_two_processes_are_one_with_twice_the_batch(bench: Bench, conversations: int) -> None:
    """Nine conversations: at the end of an epoch the second process has none, and still takes its part."""
    processes = pytest.importorskip("test_training_processes")
    more = {**GLHG, "num_train_epochs": 2, "max_train_conversations": conversations, "eval_split": "valid"}
    values = bench.values(f"two-{conversations}", per_device_train_batch_size=2, **more)
    done = processes.launch(processes.TORCHRUN, values, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    expected = bench.run(f"one-{conversations}", per_device_train_batch_size=4, **more)
    two = Path(values["output_dir"])
    # Each process logs the problem types that it has seen itself.
    assert_same_run(two, expected.folder, tolerance=1e-5, without=["problem_loss"])
    ours, theirs = (load_file(str(f / "graph.safetensors")) for f in (two, expected.folder))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=0)
