"""Models: which directories are taken, which are refused and how; adapters; packing's gradients."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workloads.train.support import SPEC, merge
from windlass.api.finetune import FineTuneJobSpec
from windlass.api.meta import Reason
from windlass.api.training import Adapter, ModelSource
from windlass_workloads.data.arrays import SplitWriter, open_split
from windlass_workloads.data.errors import WorkloadError
from windlass_workloads.data.sources import Finder, Roots
from windlass_workloads.train.adapters import add_adapter
from windlass_workloads.train.model import (
    LocalModel,
    check_length,
    find_model,
    load_model,
    load_tokenizer,
    make_shapes,
)
from windlass_workloads.train.objectives.supervised import NextToken, takes_kept


@pytest.fixture
def copy(volumes, tmp_path):
    """A copy of the tiny model that a test may damage."""
    directory = tmp_path / "volumes" / "models" / "copy"
    shutil.copytree(volumes / "models" / "tiny", directory)
    return directory


def find(copy):
    finder = Finder(Roots(copy.parents[1], copy), copy)
    return find_model(ModelSource(uri="pvc://models/copy"), finder)


def refused(call, *arguments):
    with pytest.raises(WorkloadError) as caught:
        call(*arguments)
    return caught.value


def test_pickled_weights_are_never_loaded(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    error = refused(find, copy)
    assert error.reason == Reason.MODEL_FORMAT_UNSAFE
    assert error.evidence == ("pytorch_model.bin",)
    assert "(got pvc://models/copy with pytorch_model.bin); allowed *.safetensors." in error.message


def test_code_shipped_with_a_model_is_never_run(copy):
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}
    (copy / "config.json").write_text(json.dumps(config))
    error = refused(find, copy)
    assert error.reason == Reason.MODEL_FORMAT_UNSAFE
    assert error.message == (
        "spec.model.uri: unknown model_type (got mine in pvc://models/copy); code shipped with a model is never run."
    )


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", "no config.json there (got pvc://models/copy with "),
        ("model.safetensors", "no weights there (got pvc://models/copy); allowed *.safetensors."),
    ],
)
def test_a_directory_that_is_no_model_says_what_is_missing(copy, missing, said):
    (copy / missing).unlink()
    error = refused(find, copy)
    assert (error.reason, error.message.startswith(f"spec.model.uri: {said}")) == (
        Reason.MODEL_NOT_FOUND,
        True,
    )


def test_a_config_that_is_not_json_is_told(copy):
    (copy / "config.json").write_text("{")
    assert "config.json is not JSON (got pvc://models/copy)" in refused(find, copy).message


def test_a_directory_without_tokenizer_is_told(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    assert (
        "the tokenizer cannot be loaded (got pvc://models/copy)"
        in refused(load_tokenizer, find(copy)).message
    )


def test_a_missing_chat_template_is_replaced_and_warned_of(copy):
    (copy / "chat_template.jinja").unlink()
    tokenizer, warnings = load_tokenizer(find(copy))
    assert tokenizer.chat_template
    assert warnings == [
        "spec.model.uri: the tokenizer has no chat template; a plain one is used and saved with the model"
    ]


def test_missing_weights_are_not_made_up(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    error = refused(load_model, find(copy), torch.float32)
    assert error.message == (
        "spec.model.uri: the weights cannot be loaded (got pvc://models/copy): "
        "1 weights are missing, first model.norm.weight."
    )


def test_cut_off_weights_are_told(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert (
        "the weights cannot be loaded (got pvc://models/copy)"
        in refused(load_model, find(copy), torch.float32).message
    )


def spec_of(length):
    return FineTuneJobSpec.model_validate(merge(SPEC, {"data": {"sequenceLength": length}}))


@pytest.mark.bad_input("B62")
def test_a_sequence_longer_than_the_context_is_refused(copy):
    check_length(find(copy), spec_of(512))
    error = refused(check_length, find(copy), spec_of(513))
    assert error.reason == Reason.SEQUENCE_TOO_LONG
    assert str(error) == (
        "spec.data.sequenceLength: longer than the model's context (got 513); allowed at most 512 for "
        "pvc://models/copy. hint: set data.sequenceLength to 512 or less; longer samples are cut, or split them."
    )


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, 512),
        ({"model_type": "llama", "n_positions": 64}, 64),
        ({"text_config": {"model_type": "gemma", "max_position_embeddings": 128}}, 128),
        ({"model_type": "bloom"}, None),
    ],
)
def test_positions_that_no_token_has_do_not_count(config, length, tmp_path):
    assert LocalModel("x", tmp_path, config, "").context_length == length


def test_a_model_that_looks_ahead_cannot_learn_the_next_token(tmp_path):
    config = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    for decoder in (False, True):
        (tmp_path / "config.json").write_text(json.dumps({**config, "is_decoder": decoder}))
        local = LocalModel("pvc://models/b", tmp_path, config, "")
        assert type(make_shapes(local, "MaskedLM")).__name__ == "BertForMaskedLM"
        if decoder:
            assert type(make_shapes(local, "CausalLM")).__name__ == "BertLMHeadModel"
            continue
        error = refused(make_shapes, local, "CausalLM")
        assert (error.reason, error.message) == (
            Reason.CONFIGURATION,
            "spec.model.uri: this model cannot learn CausalLM (got model_type bert in pvc://models/b); allowed a model "
            "that AutoModelForCausalLM of transformers knows and whose tokens see none after them.",
        )


def test_an_unknown_target_module_names_those_that_exist(copy):
    model = load_model(find(copy), torch.float32)
    adapter = Adapter(target_modules=["q_proj", "query"])
    with pytest.raises(WorkloadError) as caught:
        add_adapter(model, adapter, base="x")
    assert caught.value.message == (
        "spec.adapter.targetModules: the model has no such layer (got query); allowed all-linear or some of "
        "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj."
    )


@pytest.mark.parametrize("kind", ["LoRA", "IA3"])
def test_adapters_train_few_weights_and_never_the_head(copy, kind):
    model = add_adapter(
        load_model(find(copy), torch.float32), Adapter(type=kind, rank=8), base="pvc://models/copy"
    )
    names = [name for name, each in model.named_parameters() if each.requires_grad]
    assert names
    assert all("lora_" in name or "ia3_" in name for name in names)
    assert not any("lm_head" in name for name in names)
    assert model.peft_config["default"].base_model_name_or_path == "pvc://models/copy"


def gradients(model, batches):
    model.zero_grad()
    objective = NextToken(packed=True, chooses_logits=takes_kept(model))
    total = sum(objective.loss_sum(model, batch) for batch in batches)
    total.backward()
    return float(total.detach()), torch.cat([each.grad.flatten() for each in model.parameters()])


def test_packed_samples_have_the_gradients_of_separate_ones(copy, tmp_path):
    rng = np.random.default_rng(0)
    lengths = [5, 17, 9, 12, 3, 18]
    packed, plain = SplitWriter(tmp_path / "packed"), SplitWriter(tmp_path / "plain")
    for length in lengths:
        tokens = rng.integers(5, 300, length).tolist()
        learned = [place > 1 for place in range(length)]
        packed.add(tokens, learned)
        plain.add(tokens, learned)
    packed.finish(34)
    plain.finish(None)
    model = load_model(find(copy), torch.float32).train()
    packs, singles = open_split(tmp_path / "packed"), open_split(tmp_path / "plain")
    assert len(packs) == 2
    packing, plain_rows = (
        NextToken(packed=True, chooses_logits=True),
        NextToken(packed=False, chooses_logits=True),
    )
    together = gradients(model, [packing.collate(packs, [0, 1])])
    alone = gradients(model, [plain_rows.collate(singles, [unit]) for unit in range(6)])
    padded = gradients(model, [plain_rows.collate(singles, range(6))])
    for loss, gradient in (together, padded):
        assert loss == pytest.approx(alone[0], rel=1e-6)
        assert float((gradient - alone[1]).norm() / alone[1].norm()) < 1e-5
    leaky = packing.collate(packs, [0, 1])
    del leaky.inputs["attention_mask"]
    # Without restarted positions nothing tells the samples of a pack apart.
    leaky.inputs["position_ids"] = torch.arange(34).expand(2, 34)
    assert float((gradients(model, [leaky])[1] - alone[1]).norm() / alone[1].norm()) > 1e-3
