"""Rollouts by a server: a fake vLLM in a thread, with a tiny model behind it, and everything that can go wrong."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from heedful.errors import ConfigError, RunError
from heedful.models import DELTAS
from heedful.models.causal import CausalModel
from heedful.models.decoding import Decoding, Written
from heedful.models.delta import DeltaSettings, attach
from heedful.models.engine import TransformersEngine, check_prompts, drift, first_seed
from heedful.models.server import ServerEngine, read_choice
from heedful.testing import tiny_model

DRAW = Decoding(max_new_tokens=8, do_sample=True, seed=5)
SENTINEL = "quixotry"


class FakeVllm(ThreadingHTTPServer):
    """Answers as vLLM does.

    `faults` are used up, one a completion request, `load_faults` one a request to load; `style` is what an answer
    holds, `mode` its --logprobs-mode.
    """

    daemon_threads = True

    def __init__(self, causal: CausalModel) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.served: dict[str, CausalModel] = {"base": causal}
        self.faults: list[str] = []
        self.load_faults: list[str] = []
        self.mode = "raw_logprobs"
        self.style = "token_ids"
        self.requests: list[tuple[str, dict[str, Any], str | None]] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeVllm

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, body, self.headers["Authorization"]))
            fault = self.server.faults.pop(0) if self.server.faults and "completions" in self.path else None
        if fault in ("400", "404", "500", "503"):
            return self.answer(int(fault), {"error": {"message": SENTINEL, "type": "Bad", "code": int(fault)}})
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if fault == "slow":
            time.sleep(0.6)
        if fault == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            return self.connection.close()
        if fault == "words":
            return self.answer(200, [SENTINEL])
        if self.path == "/v1/load_lora_adapter":
            return self.load(body)
        if self.path == "/v1/unload_lora_adapter":
            known = self.server.served.pop(body["lora_name"], None)
            return self.answer(200 if known else 404, "Success")
        if body["model"] not in self.server.served:
            return self.answer(404, {"error": {"message": SENTINEL}})
        return self.answer(200, {"choices": self.choices(body, fault)})

    def load(self, body: dict[str, Any]) -> None:
        from peft import PeftModel

        name = body["lora_name"]
        if name in self.server.served:
            text = f"The lora adapter '{name}' has already been loaded."
            return self.answer(400, {"error": {"message": f"{text} {SENTINEL}", "type": "InvalidUserInput"}})
        if not Path(body["lora_path"], "adapter_config.json").is_file():
            return self.answer(400, {"error": {"message": SENTINEL}})
        with self.server.lock:
            fault = self.server.load_faults.pop(0) if self.server.load_faults else None
        if fault == "400":
            return self.answer(400, {"error": {"message": SENTINEL}})
        causal = tiny_model()
        causal.model = PeftModel.from_pretrained(causal.model, body["lora_path"]).eval()
        self.server.served[name] = causal
        if fault == "lost":
            return self.connection.close()
        return self.answer(200, "Success: LoRA adapter added")

    def choices(self, body: dict[str, Any], fault: str | None) -> list[dict[str, Any]]:
        causal = self.server.served[body["model"]]
        settings = Decoding(
            max_new_tokens=body["max_tokens"],
            do_sample=body["temperature"] > 0,
            temperature=body["temperature"] or 1.0,
            # Left out, vLLM takes them from the checkpoint's generation_config.json.
            top_p=body.get("top_p", 0.5),
            top_k=max(body.get("top_k", 3), 0),
            repetition_penalty=body.get("repetition_penalty", 1.5),
            seed=body["seed"],
        )
        banned = [int(k) for k in body.get("logit_bias", {})]
        with self.server.lock:
            engine = TransformersEngine(causal, banned=banned)
            (made,) = engine.sample([tuple(body["prompt"])], n=body["n"], settings=settings, names=["x"])
            made = [self.claimed(causal, body["prompt"], w, settings, banned) for w in made]
        found = [self.choice(i, w, fault if i == 0 else None) for i, w in enumerate(made)]
        return found[:-1] if fault == "fewer" else list(reversed(found))

    def claimed(
        self, causal: CausalModel, prompt: list[int], written: Written, settings: Decoding, banned: list[int]
    ) -> Written:
        """The log-probabilities that `mode` says: of the model alone, or after bans and temperature."""
        with torch.no_grad():
            logits = causal.model(torch.tensor([[*prompt, *written.tokens]])).logits[0, len(prompt) - 1 : -1]
        if self.server.mode == "processed_logprobs":
            logits[:, banned] = -torch.inf
            logits = logits / settings.temperature
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(written.tokens)[:, None])
        return replace(written, logprobs=tuple(chosen[:, 0].tolist()))

    def choice(self, index: int, written: Written, fault: str | None) -> dict[str, Any]:
        tokens = [f"token_id:{t}" for t in written.tokens]
        values: list[Any] = list(written.logprobs)
        out: dict[str, Any] = {
            "index": index,
            "text": SENTINEL,
            "finish_reason": "abort" if fault == "abort" else written.finish,
            "logprobs": {"tokens": tokens, "token_logprobs": values, "top_logprobs": None, "text_offset": None},
        }
        if self.server.style == "token_ids":
            out["token_ids"] = list(written.tokens)
        if fault == "no logprobs":
            out["logprobs"] = None
        if fault == "null logprob":
            values[-1] = None
        if fault == "abort":
            out |= {"token_ids": [40], "logprobs": {"tokens": ["token_id:40"], "token_logprobs": [-1.0]}}
        return out

    def answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def vllm() -> Iterator[FakeVllm]:
    server = FakeVllm(tiny_model())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


Make = Callable[..., ServerEngine]


@pytest.fixture
def engine_of(vllm: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes engines that talk to the fake without long pauses, and closes them."""
    monkeypatch.setattr("heedful.models.server.PAUSE", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("HEEDFUL_ALLOW_NETWORK", raising=False)
    made: list[ServerEngine] = []

    def make(causal: CausalModel, **options: Any) -> ServerEngine:
        given = {"model": "base", "base_url": vllm.url + "/v1", "fixed": "lora_name" not in options, **options}
        made.append(ServerEngine(causal, **given))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


def policy() -> CausalModel:
    causal = tiny_model()
    causal.model = attach(causal.model, DELTAS.get("lora")(DeltaSettings(rank=4)), name="lora")
    return causal


def move(causal: CausalModel, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in causal.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)


@pytest.mark.parametrize("style", ["token_ids", "marked tokens"])
def test_replies_are_the_servers_token_for_token(vllm: FakeVllm, engine_of: Make, style: str) -> None:
    vllm.style = style
    causal = tiny_model()
    engine = engine_of(causal, banned=[100])
    assert engine.checked is not None
    assert engine.checked.mean < 1e-4
    asked = check_prompts(causal)
    made = engine.sample(asked, n=3, settings=DRAW, names=["a", "b", "c"])
    for prompt, name, some in zip(asked, "abc", made, strict=True):
        seeded = Decoding(max_new_tokens=8, do_sample=True, seed=first_seed(5, name))
        (want,) = TransformersEngine(causal, banned=[100]).sample([prompt], n=3, settings=seeded, names=["x"])
        assert [w.tokens for w in some] == [w.tokens for w in want]
        assert [w.finish for w in some] == [w.finish for w in want]
        assert some[1].logprobs == pytest.approx(want[1].logprobs, abs=1e-4)
    assert not engine.dropped
    sent = [body for path, body, _ in vllm.requests if path == "/v1/completions"][-3:]
    assert all(body["stop_token_ids"] == [2] and body["logit_bias"] == {"100": -100} for body in sent)
    # Said in every request, the greedy ones too: what is left out comes from somebody's defaults.
    neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert all(neutral.items() <= body.items() for path, body, _ in vllm.requests if path == "/v1/completions")
    assert {tuple(body["prompt"]) for body in sent} == set(asked)


def test_sync_sends_the_adapter_under_a_new_name(vllm: FakeVllm, engine_of: Make, tmp_path: Path) -> None:
    causal = policy()
    engine = engine_of(causal, lora_name="policy", folder=tmp_path)
    asked = check_prompts(causal)
    move(causal, 1)
    assert drift(engine, causal, asked).mean > 0.05  # still the old weights
    for round_, seed in ((2, 1), (3, 2)):
        move(causal, seed)
        engine.sync(causal)
        (name,) = set(vllm.served) - {"base"}
        assert re.fullmatch(rf"policy-0-[0-9a-f]{{8}}-{round_}", name)
        assert drift(engine, causal, asked).mean < 1e-4
        (folder,) = tmp_path.iterdir()
        assert [p.name for p in folder.iterdir()] == [name]
    engine.close()
    assert set(vllm.served) == {"base"}
    assert list(tmp_path.iterdir()) == []


def test_processes_that_share_a_server_do_not_meet(
    vllm: FakeVllm, engine_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank loads the same policy under the same `lora_name`; one that ends leaves the others' adapters alone."""
    causal, engines = policy(), []
    for rank in ("0", "1", "1"):  # the last one: another run on the same server
        monkeypatch.setenv("RANK", rank)
        engines.append(engine_of(causal, lora_name="policy"))
    assert sorted(name.split("-")[1] for name in vllm.served if name != "base") == ["0", "1", "1"]
    move(causal, 1)
    for engine in engines:
        engine.sync(causal)
    assert len(vllm.served) == 4
    engines[0].close()
    asked = check_prompts(causal)
    assert drift(engines[1], causal, asked).mean < 1e-4
    assert drift(engines[2], causal, asked).mean < 1e-4


def test_an_adapter_whose_answer_was_lost_is_there(vllm: FakeVllm, engine_of: Make) -> None:
    """The second try is refused since the first one had done it."""
    causal = policy()
    engine = engine_of(causal, lora_name="policy")
    move(causal, 1)
    vllm.load_faults = ["lost"]
    engine.sync(causal)
    assert drift(engine, causal, check_prompts(causal)).mean < 1e-4
    vllm.load_faults = ["400"]  # refused for another reason
    with pytest.raises(RunError, match=r"refused .*/v1/load_lora_adapter with HTTP 400") as refused:
        engine.sync(causal)
    assert SENTINEL not in str(refused.value)


@pytest.mark.parametrize("fault", ["500", "503", "slow", "cut", "words"])
def test_what_may_be_over_soon_is_tried_again(vllm: FakeVllm, engine_of: Make, fault: str) -> None:
    causal = tiny_model()
    engine = engine_of(causal, timeout=0.4 if fault == "slow" else 20, limit=None)
    asked = check_prompts(causal)[:1]
    want = engine.sample(asked, n=2, settings=DRAW, names=["a"])
    vllm.faults = [fault, fault]
    assert engine.sample(asked, n=2, settings=DRAW, names=["a"]) == want


def test_after_all_retries_it_gives_up_in_one_sentence(vllm: FakeVllm, engine_of: Make) -> None:
    engine = engine_of(tiny_model(), retries=1, limit=None)
    vllm.faults = ["500", "500"]
    with pytest.raises(RunError, match=r"did not answer /v1/completions \(it answered with HTTP 500; tried 2 times\)"):
        engine.sample(check_prompts(tiny_model())[:1], n=1, settings=DRAW, names=["a"])
    assert not vllm.faults


@pytest.mark.parametrize(
    ("fault", "words"), [("400", "accept token ids"), ("404", "LoRA updating"), ("redirect", "302")]
)
def test_a_refusal_is_not_tried_again_and_quotes_nothing(
    vllm: FakeVllm, engine_of: Make, fault: str, words: str
) -> None:
    engine = engine_of(tiny_model(), limit=None)
    vllm.faults = [fault, "500"]
    with pytest.raises(RunError, match=words) as refused:
        engine.sample(check_prompts(tiny_model())[:1], n=1, settings=DRAW, names=["a"])
    assert vllm.faults == ["500"]
    assert SENTINEL not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no logprobs", "the server gives no log-probabilities"),
        ("null logprob", "some of its tokens have no log-probability"),
        ("fewer", "the server wrote fewer replies than it was asked for"),
        ("abort", "it ended without an end token (finish_reason: abort)"),
    ],
)
def test_a_reply_that_cannot_be_used_is_dropped_and_counted(
    vllm: FakeVllm, engine_of: Make, fault: str, reason: str
) -> None:
    engine = engine_of(tiny_model(), limit=None)
    asked = check_prompts(tiny_model())[:1]
    vllm.faults = [fault]
    (some,) = engine.sample(asked, n=3, settings=DRAW, names=["a"])
    assert len(some) == 2
    assert dict(engine.dropped) == {reason: 1}
    vllm.faults = [fault]
    if fault != "fewer":
        with pytest.raises(RunError, match="Not one of the server's 1 replies can be used"):
            engine.sample(asked, n=1, settings=DRAW, names=["a"])


def test_a_server_with_another_model_is_refused(vllm: FakeVllm, engine_of: Make) -> None:
    vllm.served["base"] = tiny_model(seed=9)
    with pytest.raises(RunError, match="The server's model 'base' does not compute what 'tiny-llama' computes"):
        engine_of(tiny_model())


def test_another_temperature_needs_log_probabilities_at_it(vllm: FakeVllm, engine_of: Make) -> None:
    causal, warm = tiny_model(), Decoding(max_new_tokens=8, do_sample=True, temperature=0.7, seed=5)
    asked = check_prompts(causal)[:1]
    engine = engine_of(causal)
    with pytest.raises(
        ConfigError, match=r"at the temperature of the replies, 0\.7; leave temperature out, or start vLLM"
    ):
        engine.sample(asked, n=1, settings=warm, names=["a"])
    vllm.mode = "processed_logprobs"
    engine = engine_of(causal, logprobs_mode="processed_logprobs", banned=[100])
    (made,) = engine.sample(asked, n=3, settings=warm, names=["a"])
    for reply in made:
        with torch.no_grad():
            logits = causal.model(torch.tensor([[*asked[0], *reply.tokens]])).logits[0, len(asked[0]) - 1 : -1]
        want = (logits / 0.7).log_softmax(-1).gather(1, torch.tensor(reply.tokens)[:, None])[:, 0]
        assert reply.logprobs == pytest.approx(want.tolist(), abs=0.02)


def test_a_server_that_does_not_follow_the_temperature_is_found_out(vllm: FakeVllm, engine_of: Make) -> None:
    with pytest.raises(RunError, match="are not those at the temperature of the replies: at 2 they are"):
        engine_of(tiny_model(), logprobs_mode="processed_logprobs")
    engine_of(tiny_model(), logprobs_mode="processed_logprobs", limit=None)  # nobody asked


@pytest.mark.parametrize("mode", ["raw_logprobs", "processed_logprobs"])
def test_what_learning_could_not_correct_for_is_refused(vllm: FakeVllm, engine_of: Make, mode: str) -> None:
    vllm.mode = mode
    engine = engine_of(tiny_model(), logprobs_mode=mode, limit=None)
    sent = len(vllm.requests)
    for cut in ({"top_k": 5}, {"top_p": 0.9}, {"top_k": 5, "top_p": 0.9}):
        with pytest.raises(ConfigError, match=f"{' and '.join(cut)} would draw from a part"):
            engine.sample([(1, 2)], n=1, settings=Decoding(do_sample=True, **cut), names=["a"])
    with pytest.raises(ConfigError, match="does not know repetition_penalty"):
        engine.sample([(1, 2)], n=1, settings=Decoding(repetition_penalty=1.2), names=["a"])
    assert len(vllm.requests) == sent


def test_the_key_goes_into_the_header_and_nowhere_else(
    vllm: FakeVllm, engine_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(tiny_model(), limit=None)
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # would take the prompts elsewhere
    engine.sample(check_prompts(tiny_model())[:1], n=1, settings=DRAW, names=["a"])
    assert vllm.requests[-1][2] == f"Bearer {SENTINEL}"
    assert SENTINEL not in repr(vars(engine))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "http://models.example.org/v1"}, "is not this machine"),
        ({"base_url": "http://10.0.0.7:8000"}, "HEEDFUL_ALLOW_NETWORK=1"),
        ({"base_url": "ftp://localhost"}, "needs base_url"),
        ({"base_url": "http://me:key@localhost"}, "without user"),
        ({"base_url": ""}, "OPENAI_BASE_URL"),
        ({"fixed": False}, "takes over new weights only as a LoRA adapter"),
        ({"lora_name": "p", "fixed": True}, "one of the two"),
        ({"workers": 0}, "workers >= 1"),
        ({"lora_name": "../p"}, "becomes a folder's name"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_sent(
    vllm: FakeVllm, engine_of: Make, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], words: str
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match=words):
        engine_of(tiny_model(), **options)
    assert vllm.requests == []


def test_an_adapter_that_servers_do_not_load_is_refused(vllm: FakeVllm, engine_of: Make) -> None:
    with pytest.raises(ConfigError, match="the policy has none"):
        engine_of(tiny_model(), lora_name="p")
    causal = tiny_model()
    causal.model = attach(causal.model, DELTAS.get("dora")(DeltaSettings(new_tokens=(7,))), name="dora")
    with pytest.raises(ConfigError, match="has new vocabulary rows and DoRA magnitudes"):
        engine_of(causal, lora_name="p")
    engine = engine_of(tiny_model(), limit=None)
    with pytest.raises(ConfigError, match="server engine does not know no_repeat_ngram_size"):
        engine.sample([(1, 2)], n=1, settings=Decoding(no_repeat_ngram_size=3), names=["a"])


def test_token_ids_are_told_from_texts_only_where_that_is_sure() -> None:
    tokenizer = tiny_model().tokenizer
    ids = tokenizer("I am here. What brings you here today?", add_special_tokens=False).input_ids
    texts = [tokenizer.decode([i]) for i in ids]

    def read(logprobs: dict[str, Any], **fields: Any) -> Written | str:
        choice = {"logprobs": logprobs, "finish_reason": "length", **fields}
        return read_choice(choice, ends=frozenset({2}), tokenizer=tokenizer)

    values = [-1.0] * len(ids)
    plain = read({"tokens": texts, "token_logprobs": values})
    assert isinstance(plain, Written)
    assert plain.tokens == tuple(ids)
    other = [texts[0] + texts[1][:2], texts[1][2:], *texts[2:]]  # the same words, cut at other places
    assert read({"tokens": other, "token_logprobs": values}) == "its token ids cannot be told from the server's answer"
    ended = read({"tokens": texts, "token_logprobs": values}, token_ids=[*ids[:3], 2, *ids[4:]])
    assert isinstance(ended, Written)
    assert (len(ended.tokens), len(ended.logprobs), ended.finish) == (4, 4, "stop")
    assert read({"tokens": [], "token_logprobs": []}, token_ids=[]) == "it is empty"
    assert "finish_reason: stop" in read({"tokens": texts, "token_logprobs": values}, finish_reason="stop")
    assert "finish_reason: unknown" in read({"tokens": texts, "token_logprobs": values}, finish_reason=SENTINEL)


def test_llama_cpps_lists_with_lost_tokens_are_noticed() -> None:
    """Its server leaves out the tokens that begin a character and gives the last one all the bytes."""
    tokenizer = tiny_model().tokenizer
    first, last = (t for t in tokenizer("é", add_special_tokens=False).input_ids)
    word = tokenizer(" here", add_special_tokens=False).input_ids[0]

    def read(*steps: dict[str, Any]) -> Written | str:
        choice = {"logprobs": {"content": list(steps)}, "finish_reason": "stop"}
        return read_choice(choice, ends=frozenset({2}), tokenizer=tokenizer)

    plain = {"id": word, "token": tokenizer.decode([word]), "logprob": -1.0}
    end = {"id": 2, "token": "", "logprob": -0.5}
    assert read(plain, end) == Written(tokens=(word, 2), logprobs=(-1.0, -0.5), finish="stop")
    assert "a character of several tokens" in read(plain, {"id": last, "token": "é", "logprob": -1.0}, end)
    assert first != last
