"""The models: shared parts, and one file a family named by its `model_type`."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tlora_ref.errors import ConfigError
from tlora_ref.transformer.bert import Bert, BertClassifier, BertConfig
from tlora_ref.transformer.classification import EncoderClassifier
from tlora_ref.transformer.deberta_v2 import DebertaV2, DebertaV2Classifier, DebertaV2Config
from tlora_ref.transformer.distilbert import DistilBert, DistilBertClassifier, DistilBertConfig
from tlora_ref.transformer.electra import Electra, ElectraClassifier, ElectraConfig
from tlora_ref.transformer.encoder import Encoder
from tlora_ref.transformer.gemma import Gemma, GemmaClassifier, GemmaConfig
from tlora_ref.transformer.gemma2 import Gemma2, Gemma2Classifier, Gemma2Config
from tlora_ref.transformer.gemma3_text import Gemma3, Gemma3Classifier, Gemma3Config
from tlora_ref.transformer.gpt2 import GPT2, GPT2Classifier, GPT2Config
from tlora_ref.transformer.gpt_neox import GPTNeoX, GPTNeoXClassifier, GPTNeoXConfig
from tlora_ref.transformer.granite import Granite, GraniteConfig
from tlora_ref.transformer.granitemoehybrid import GraniteHybrid, GraniteHybridConfig
from tlora_ref.transformer.lfm2 import Lfm2, Lfm2Config
from tlora_ref.transformer.llama import Llama, LlamaClassifier, LlamaConfig
from tlora_ref.transformer.ministral3 import Ministral3, Ministral3Classifier, Ministral3Config
from tlora_ref.transformer.mistral import Mistral, MistralClassifier, MistralConfig
from tlora_ref.transformer.model import Model
from tlora_ref.transformer.modernbert import ModernBert, ModernBertClassifier, ModernBertConfig
from tlora_ref.transformer.observed import ModuleInputs
from tlora_ref.transformer.olmo2 import Olmo2, Olmo2Classifier, Olmo2Config
from tlora_ref.transformer.opt import OPT, OPTClassifier, OPTConfig
from tlora_ref.transformer.output import Output
from tlora_ref.transformer.phi3 import Phi3, Phi3Classifier, Phi3Config
from tlora_ref.transformer.qwen2 import Qwen2, Qwen2Classifier, Qwen2Config
from tlora_ref.transformer.qwen3 import Qwen3, Qwen3Classifier, Qwen3Config
from tlora_ref.transformer.roberta import Roberta, RobertaClassifier, RobertaConfig
from tlora_ref.transformer.settings import told, told_names
from tlora_ref.transformer.smollm3 import SmolLM3, SmolLM3Classifier, SmolLM3Config
from tlora_ref.transformer.starcoder2 import Starcoder2, Starcoder2Classifier, Starcoder2Config
from tlora_ref.transformer.t5 import T5, T5Config

#: model_type of a config.json -> (configuration class, {architecture: model class}), the default architecture first.
FAMILIES: dict[str, tuple[Any, dict[str, type[Model]]]] = {
    "bert": (BertConfig, {"BertModel": Bert, "BertForSequenceClassification": BertClassifier}),
    "deberta-v2": (
        DebertaV2Config,
        {"DebertaV2Model": DebertaV2, "DebertaV2ForSequenceClassification": DebertaV2Classifier},
    ),
    "distilbert": (
        DistilBertConfig,
        {"DistilBertModel": DistilBert, "DistilBertForSequenceClassification": DistilBertClassifier},
    ),
    "gemma": (GemmaConfig, {"GemmaForCausalLM": Gemma, "GemmaForSequenceClassification": GemmaClassifier}),
    "gemma2": (Gemma2Config, {"Gemma2ForCausalLM": Gemma2, "Gemma2ForSequenceClassification": Gemma2Classifier}),
    "gemma3_text": (
        Gemma3Config,
        {"Gemma3ForCausalLM": Gemma3, "Gemma3TextForSequenceClassification": Gemma3Classifier},
    ),
    "electra": (
        ElectraConfig,
        {"ElectraModel": Electra, "ElectraForSequenceClassification": ElectraClassifier},
    ),
    "gpt2": (GPT2Config, {"GPT2LMHeadModel": GPT2, "GPT2ForSequenceClassification": GPT2Classifier}),
    "gpt_neox": (
        GPTNeoXConfig,
        {"GPTNeoXForCausalLM": GPTNeoX, "GPTNeoXForSequenceClassification": GPTNeoXClassifier},
    ),
    "granite": (GraniteConfig, {"GraniteForCausalLM": Granite}),
    "granitemoehybrid": (GraniteHybridConfig, {"GraniteMoeHybridForCausalLM": GraniteHybrid}),
    "lfm2": (Lfm2Config, {"Lfm2ForCausalLM": Lfm2}),
    "llama": (LlamaConfig, {"LlamaForCausalLM": Llama, "LlamaForSequenceClassification": LlamaClassifier}),
    "ministral3": (
        Ministral3Config,
        {"Ministral3ForCausalLM": Ministral3, "Ministral3ForSequenceClassification": Ministral3Classifier},
    ),
    "mistral": (
        MistralConfig,
        {"MistralForCausalLM": Mistral, "MistralForSequenceClassification": MistralClassifier},
    ),
    "modernbert": (
        ModernBertConfig,
        {"ModernBertModel": ModernBert, "ModernBertForSequenceClassification": ModernBertClassifier},
    ),
    "olmo2": (Olmo2Config, {"Olmo2ForCausalLM": Olmo2, "Olmo2ForSequenceClassification": Olmo2Classifier}),
    "opt": (OPTConfig, {"OPTForCausalLM": OPT, "OPTForSequenceClassification": OPTClassifier}),
    "phi3": (Phi3Config, {"Phi3ForCausalLM": Phi3, "Phi3ForSequenceClassification": Phi3Classifier}),
    "qwen2": (Qwen2Config, {"Qwen2ForCausalLM": Qwen2, "Qwen2ForSequenceClassification": Qwen2Classifier}),
    "qwen3": (Qwen3Config, {"Qwen3ForCausalLM": Qwen3, "Qwen3ForSequenceClassification": Qwen3Classifier}),
    "roberta": (
        RobertaConfig,
        {"RobertaModel": Roberta, "RobertaForSequenceClassification": RobertaClassifier},
    ),
    "smollm3": (
        SmolLM3Config,
        {"SmolLM3ForCausalLM": SmolLM3, "SmolLM3ForSequenceClassification": SmolLM3Classifier},
    ),
    "starcoder2": (
        Starcoder2Config,
        {"Starcoder2ForCausalLM": Starcoder2, "Starcoder2ForSequenceClassification": Starcoder2Classifier},
    ),
    "t5": (T5Config, {"T5ForConditionalGeneration": T5, "T5WithLMHeadModel": T5}),  # the latter is its old name
}


def family(model_type: object, architectures: object = None) -> tuple[Any, type[Model]]:
    """The configuration and model class of a config.json's `model_type` and `architectures`.

    Without architectures it is the family's first; a ConfigError lists the supported ones.
    """
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ConfigError(
            f"config.json: model_type {told(model_type)} is not supported: expected one of "
            f"{', '.join(sorted(FAMILIES))}"
        )
    config_class, models = FAMILIES[model_type]
    if not architectures:
        return config_class, next(iter(models.values()))
    name = architectures[0] if isinstance(architectures, list | tuple) else architectures
    bare, first = next(iter(models.items()))
    another_head = rf"{bare.removesuffix('Model')}For\w+"
    if isinstance(name, str) and name not in models and issubclass(first, Encoder) and re.fullmatch(another_head, name):
        return config_class, first  # its encoder is taken
    if not isinstance(name, str) or name not in models:
        raise ConfigError(
            f"config.json: architecture {told(name)} of a {model_type} model is not implemented: expected one of "
            f"{', '.join(models)}"
        )
    return config_class, models[name]


def classifier(config: Any, labels: Sequence[str]) -> tuple[Any, type[Model]]:
    """The configuration and class of the sequence classifier that a bare encoder becomes with a head for `labels`.

    Raises
    ------
    ConfigError
        if the model is no bare encoder, or for labels that are not two or more different names.
    """
    _, models = FAMILIES[config.model_type]
    found = {name: model for name, model in models.items() if issubclass(model, EncoderClassifier)}
    if not found:
        raise ConfigError(f"labels: a {config.model_type} model is no encoder, and gets no classification head here")
    names = tuple(labels)
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(x, str) and x.strip() for x in names):
        raise ConfigError(f"labels are {', '.join(map(told, names)) or 'none'}: expected two or more different names")
    if config.labels:
        if config.labels != names:
            raise ConfigError(
                f"labels are {told_names(names)}, but this checkpoint is a classifier of {told_names(config.labels)} "
                "already: leave them out"
            )
        return config, models[config.architecture]
    architecture, model = next(iter(found.items()))
    return replace(config, architecture=architecture, labels=names), model


__all__ = ["FAMILIES", "Encoder", "EncoderClassifier", "Model", "ModuleInputs", "Output", "classifier", "family"]
