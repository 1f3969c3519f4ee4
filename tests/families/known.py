"""The config.json of well-known checkpoints, and the number of parameters that is published of each."""

from __future__ import annotations

from typing import Any

COMMON = {"torch_dtype": "bfloat16", "transformers_version": "4.40.0", "use_cache": True, "initializer_range": 0.02}
LLAMA_31_ROPE = {
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}


def llama_like(kind: str, name: str, sizes: tuple[int, ...], **more: Any) -> dict[str, Any]:
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return {
        **dict(zip((*keys, "num_key_value_heads", "max_position_embeddings"), sizes, strict=True)),
        **{"model_type": kind, "architectures": [f"{name}ForCausalLM"], "hidden_act": "silu", "rms_norm_eps": 1e-5},
        **{"attention_dropout": 0.0, **COMMON, **more},
    }


def opt(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {
        **{"model_type": "opt", "architectures": ["OPTForCausalLM"], "activation_function": "relu", "prefix": "</s>"},
        **{"activation_dropout": 0.0, "dropout": 0.1, "layerdrop": 0.0, "init_std": 0.02, "bos_token_id": 2},
        **{"do_layer_norm_before": True, "eos_token_id": 2, "pad_token_id": 1, "max_position_embeddings": 2048},
        **{"hidden_size": width, "ffn_dim": 4 * width, "num_hidden_layers": layers, "num_attention_heads": heads},
        **{"vocab_size": 50272, "word_embed_proj_dim": width, "torch_dtype": "float16", **more},
    }


def electra(d_embedding: int, width: int, heads: int) -> dict[str, Any]:
    return {
        **{"architectures": ["ElectraForSequenceClassification"], "attention_probs_dropout_prob": 0.1},
        **{"embedding_size": d_embedding, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": width},
        **{"initializer_range": 0.02, "intermediate_size": 4 * width, "layer_norm_eps": 1e-12, "pad_token_id": 0},
        **{"max_position_embeddings": 512, "model_type": "electra", "num_attention_heads": heads},
        **{"num_hidden_layers": 12, "position_embedding_type": "absolute", "summary_activation": "gelu"},
        **{"summary_last_dropout": 0.1, "summary_type": "first", "summary_use_proj": True, "type_vocab_size": 2},
        "vocab_size": 30522,
    }


def deberta_v3(layers: int, width: int, heads: int, **more: Any) -> dict[str, Any]:
    return {
        **{"model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu"},
        **{"hidden_dropout_prob": 0.1, "initializer_range": 0.02, "hidden_size": width, "layer_norm_eps": 1e-7},
        **{"intermediate_size": 4 * width, "max_position_embeddings": 512, "relative_attention": True},
        **{"position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p"},
        **{"max_relative_positions": -1, "position_biased_input": False, "num_attention_heads": heads},
        **{"num_hidden_layers": layers, "type_vocab_size": 0, "vocab_size": 128100, **more},
    }


def modernbert(width: int, d_ff: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        **{"model_type": "modernbert", "architectures": ["ModernBertModel"], "attention_bias": False},
        **{"attention_dropout": 0.0, "bos_token_id": 50281, "classifier_activation": "gelu", "classifier_bias": False},
        **{"classifier_dropout": 0.0, "classifier_pooling": "mean", "cls_token_id": 50281, "decoder_bias": True},
        **{"deterministic_flash_attn": False, "embedding_dropout": 0.0, "eos_token_id": 50282, "pad_token_id": 50283},
        **{"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "gradient_checkpointing": False},
        **{"hidden_activation": "gelu", "hidden_size": width, "initializer_cutoff_factor": 2.0, "norm_eps": 1e-05},
        **{"initializer_range": 0.02, "intermediate_size": d_ff, "layer_norm_eps": 1e-05, "local_attention": 128},
        **{"local_rope_theta": 10000.0, "max_position_embeddings": 8192, "mlp_bias": False, "mlp_dropout": 0.0},
        **{"norm_bias": False, "num_attention_heads": heads, "num_hidden_layers": layers, "sep_token_id": 50282},
        **{"position_embedding_type": "absolute", "reference_compile": True, "repad_logits_with_grad": False},
        **{"sparse_pred_ignore_index": -100, "sparse_prediction": False, "vocab_size": 50368},
    }


QWEN = {"bos_token_id": 151643, "eos_token_id": 151645, "rope_theta": 1e6, "tie_word_embeddings": True}
GEMMA = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "head_dim": 256, "attention_bias": False}
GEMMA_3 = {
    **{**GEMMA, "hidden_activation": "gelu_pytorch_tanh", "hidden_act": None, "sliding_window": 512},
    **{"attn_logit_softcapping": None, "final_logit_softcapping": None, "query_pre_attn_scalar": 256},
    **{"rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000},
}
PHI_3 = {
    **{"attention_bias": False, "bos_token_id": 1, "pad_token_id": 32000, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    **{"original_max_position_embeddings": 4096, "rope_theta": 10000.0, "auto_map": {"AutoConfig": "x.Phi3Config"}},
}


def granite_4(width: int, layers: int, heads: int, groups: int, d_ff: int, scaling: float) -> dict[str, Any]:
    return llama_like(
        *("granitemoehybrid", "GraniteMoeHybrid", (100352, width, d_ff, layers, heads, groups, 131072)),
        **{"attention_bias": False, "attention_multiplier": 0.015625, "embedding_multiplier": 12, "init_method": "mup"},
        **{"layer_types": ["attention"] * layers, "logits_scaling": scaling, "residual_multiplier": 0.22},
        **{
            "mamba_chunk_size": 256,
            "mamba_conv_bias": True,
            "mamba_d_conv": 4,
            "mamba_d_head": 64,
            "mamba_d_state": 256,
        },
        **{"mamba_expand": 2, "mamba_n_groups": 1, "mamba_n_heads": 2 * width // 64, "mamba_proj_bias": False},
        **{"normalization_function": "rmsnorm", "num_experts_per_tok": 0, "num_local_experts": 0},
        **{"output_router_logits": False, "position_embedding_type": "rope", "rope_scaling": None},
        **{"rope_theta": 10000000, "router_aux_loss_coef": 0.01, "shared_intermediate_size": d_ff},
        **{"bos_token_id": 100257, "eos_token_id": 100257, "pad_token_id": 100256, "tie_word_embeddings": True},
    )


#: What no file says exactly: the model card's figure, in billions.
ROUNDED: dict[str, tuple[float, dict[str, Any]]] = {
    "granite-4.0-micro": (3.4, granite_4(2560, 40, 40, 8, 8192, 10.0)),
    "granite-4.0-350m": (0.4, granite_4(1024, 28, 16, 4, 2048, 4.0)),
    "Ministral-3-3B": (
        3.4,  # of the language model, which lies in a folder with a vision model
        llama_like(
            *("ministral3", "Ministral3", (131072, 3072, 9216, 26, 32, 8, 262144)),
            **{"head_dim": 128, "sliding_window": None, "tie_word_embeddings": True},
            rope_parameters={
                **{"rope_type": "yarn", "type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0},
                **{"beta_slow": 1.0, "original_max_position_embeddings": 16384, "mscale": 1.0, "mscale_all_dim": 1.0},
                "llama_4_scaling_beta": 0.1,
            },
        ),
    ),
}
KNOWN: dict[str, tuple[int, dict[str, Any]]] = {
    "Llama-2-7b": (
        6_738_415_616,
        llama_like(
            *("llama", "Llama", (32000, 4096, 11008, 32, 32, 32, 4096)),
            **{"pretraining_tp": 1, "rope_scaling": None, "tie_word_embeddings": False},
        ),
    ),
    "Llama-3.1-8B": (
        8_030_261_248,
        llama_like(
            *("llama", "Llama", (128256, 4096, 14336, 32, 32, 8, 131072)),
            **{"rope_scaling": LLAMA_31_ROPE, "rope_theta": 500000.0, "eos_token_id": [128001, 128008, 128009]},
            **{"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False},
        ),
    ),
    "SmolLM2-135M": (
        134_515_008,
        llama_like(
            *("llama", "Llama", (49152, 576, 1536, 30, 9, 3, 8192)),
            **{"is_llama_config": True, "rope_interleaved": False, "rope_theta": 100000, "tie_word_embeddings": True},
        ),
    ),
    "Mistral-7B-v0.1": (
        7_241_732_096,
        llama_like(
            *("mistral", "Mistral", (32000, 4096, 14336, 32, 32, 8, 32768)),
            **{"sliding_window": 4096, "rope_theta": 10000.0, "tie_word_embeddings": False},
        ),
    ),
    "Qwen2.5-0.5B": (
        494_032_768,
        llama_like(
            *("qwen2", "Qwen2", (151936, 896, 4864, 24, 14, 2, 32768)),
            **{**QWEN, "sliding_window": 32768, "max_window_layers": 24, "use_sliding_window": False},
            use_mrope=False,
        ),
    ),
    "Qwen3-0.6B": (
        596_049_920,
        llama_like(
            *("qwen3", "Qwen3", (151936, 1024, 3072, 28, 16, 8, 40960)),
            **{**QWEN, "head_dim": 128, "attention_bias": False, "rope_scaling": None},
            **{"sliding_window": None, "max_window_layers": 28, "use_sliding_window": False},
        ),
    ),
    "gemma-2b": (
        2_506_172_416,
        llama_like(
            *("gemma", "Gemma", (256000, 2048, 16384, 18, 8, 1, 8192)),
            **{**GEMMA, "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh", "rope_scaling": None},
            rope_theta=10000.0,
        ),
    ),
    "gemma-2-2b": (
        2_614_341_888,
        llama_like(
            *("gemma2", "Gemma2", (256000, 2304, 9216, 26, 8, 4, 8192)),
            **{**GEMMA, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"},
            **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256},
            **{"cache_implementation": "hybrid", "sliding_window": 4096, "rope_theta": 10000.0},
        ),
    ),
    "gemma-3-270m": (
        268_098_176,
        llama_like(
            *("gemma3_text", "Gemma3", (262144, 640, 2048, 18, 4, 1, 32768)),
            **{**GEMMA_3, "_sliding_window_pattern": 6, "use_bidirectional_attention": False},
            layer_types=[f"{'sliding' if (i + 1) % 6 else 'full'}_attention" for i in range(18)],
        ),
    ),
    "gemma-3-1b": (
        999_885_952,
        llama_like(
            *("gemma3_text", "Gemma3", (262144, 1152, 6912, 26, 4, 1, 32768)),
            **{**GEMMA_3, "cache_implementation": "hybrid", "sliding_window_pattern": 6},
        ),
    ),
    "Phi-3-mini-4k-instruct": (
        3_821_079_552,
        llama_like(
            *("phi3", "Phi3", (32064, 3072, 8192, 32, 32, 32, 4096)),
            **{**PHI_3, "rope_scaling": None, "sliding_window": 2047, "tie_word_embeddings": False},
            eos_token_id=32000,
        ),
    ),
    "Phi-4-mini-instruct": (
        3_836_021_760,
        llama_like(
            *("phi3", "Phi3", (200064, 3072, 8192, 32, 24, 8, 131072)),
            **{**PHI_3, "bos_token_id": 199999, "eos_token_id": 199999, "pad_token_id": 199999, "mlp_bias": False},
            **{"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "partial_rotary_factor": 0.75},
            **{"sliding_window": 262144, "tie_word_embeddings": True},
            rope_scaling={"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [1.0 + i for i in range(48)]},
        ),
    ),
    "OLMo-2-0425-1B": (
        1_484_916_736,
        llama_like(
            *("olmo2", "Olmo2", (100352, 2048, 8192, 16, 16, 16, 4096)),
            **{"attention_bias": False, "eos_token_id": 100257, "pad_token_id": 100277, "rope_scaling": None},
            **{"rope_theta": 500000, "tie_word_embeddings": False},
        ),
    ),
    "SmolLM3-3B": (
        3_075_098_624,
        llama_like(
            *("smollm3", "SmolLM3", (128256, 2048, 11008, 36, 16, 4, 65536)),
            **{"attention_bias": False, "mlp_bias": False, "eos_token_id": 128012, "pad_token_id": 128004},
            **{"no_rope_layer_interval": 4, "no_rope_layers": [int((i + 1) % 4 > 0) for i in range(36)]},
            **{"layer_types": ["full_attention"] * 36, "max_window_layers": 28, "pretraining_tp": 2},
            **{"rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None, "use_sliding_window": False},
        ),
    ),
    "granite-3.1-2b-instruct": (
        2_533_531_648,
        llama_like(
            *("granite", "Granite", (49155, 2048, 8192, 40, 32, 8, 131072)),
            **{"attention_bias": False, "mlp_bias": False, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0},
            **{"attention_multiplier": 0.015625, "embedding_multiplier": 12.0, "residual_multiplier": 0.22},
            **{"logits_scaling": 8.0, "rope_scaling": None, "rope_theta": 5000000.0, "tie_word_embeddings": True},
        ),
    ),
    "LFM2-350M": (
        354_483_968,
        {
            **{"architectures": ["Lfm2ForCausalLM"], "block_auto_adjust_ff_dim": True, "block_dim": 1024},
            **{"block_ff_dim": 6656, "block_ffn_dim_multiplier": 1.0, "block_mlp_init_scale": 1.0},
            **{"block_multiple_of": 256, "block_norm_eps": 1e-05, "block_out_init_scale": 1.0},
            **{"block_use_swiglu": True, "block_use_xavier_init": True, "bos_token_id": 1, "conv_L_cache": 3},
            **{"conv_bias": False, "conv_dim": 1024, "conv_dim_out": 1024, "conv_use_xavier_init": True},
            **{"eos_token_id": 7, "full_attn_idxs": [2, 5, 8, 10, 12, 14], "hidden_size": 1024, "model_type": "lfm2"},
            **{"max_position_embeddings": 128000, "norm_eps": 1e-05, "num_attention_heads": 16, "num_heads": 16},
            **{"num_hidden_layers": 16, "num_key_value_heads": 8, "pad_token_id": 0, "rope_theta": 1000000.0},
            **{"use_pos_enc": True, "vocab_size": 65536, **COMMON},
        },
    ),
    "gpt2": (
        124_439_808,
        {
            **{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new"},
            **{"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1, "initializer_range": 0.02},
            **{"bos_token_id": 50256, "eos_token_id": 50256, "layer_norm_epsilon": 1e-5, "vocab_size": 50257},
            **{"n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024},
            **{"summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True},
            **{"summary_type": "cls_index", "summary_use_proj": True, "task_specific_params": {"text-generation": {}}},
        },
    ),
    "starcoder2-3b": (
        3_030_371_328,
        {
            **{"architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.1, "bos_token_id": 0},
            **{"embedding_dropout": 0.1, "eos_token_id": 0, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 3072},
            **{"initializer_range": 0.018042, "intermediate_size": 12288, "max_position_embeddings": 16384},
            **{"mlp_type": "default", "model_type": "starcoder2", "norm_epsilon": 1e-05, "norm_type": "layer_norm"},
            **{"num_attention_heads": 24, "num_hidden_layers": 30, "num_key_value_heads": 2, "residual_dropout": 0.1},
            **{"rope_theta": 999999.4420358813, "sliding_window": 4096, "torch_dtype": "float32", "use_bias": True},
            **{"transformers_version": "4.37.0.dev0", "use_cache": True, "vocab_size": 49152},
        },
    ),
    "opt-125m": (125_239_296, opt(768, 12, 12)),
    "opt-350m": (331_196_416, opt(1024, 24, 16, word_embed_proj_dim=512, do_layer_norm_before=False)),
    "opt-1.3b": (1_315_758_080, opt(2048, 24, 32)),
    "pythia-70m": (
        70_426_624,
        {
            **{"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "hidden_act": "gelu"},
            **{"bos_token_id": 0, "eos_token_id": 0, "hidden_size": 512, "intermediate_size": 2048},
            **{"layer_norm_eps": 1e-5, "max_position_embeddings": 2048, "num_attention_heads": 8},
            **{"num_hidden_layers": 6, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False},
            **{"use_parallel_residual": True, "vocab_size": 50304, **COMMON},
        },
    ),
    "bert-base-uncased": (109_482_240, {"model_type": "bert", "architectures": ["BertModel"]}),
    "all-MiniLM-L6-v2": (
        22_713_216,
        {
            **{"_name_or_path": "nreimers/MiniLM-L6-H384-uncased", "model_type": "bert"},
            **{"architectures": ["BertModel"], "attention_probs_dropout_prob": 0.1, "gradient_checkpointing": False},
            **{"hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 384, "initializer_range": 0.02},
            **{"intermediate_size": 1536, "layer_norm_eps": 1e-12, "max_position_embeddings": 512},
            **{"num_attention_heads": 12, "num_hidden_layers": 6, "pad_token_id": 0, "use_cache": True},
            **{"position_embedding_type": "absolute", "transformers_version": "4.8.2", "type_vocab_size": 2},
            "vocab_size": 30522,
        },
    ),
    "roberta-base": (
        124_645_632,
        {
            **{"model_type": "roberta", "architectures": ["RobertaModel"], "vocab_size": 50265},
            **{"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
        },
    ),
    "ModernBERT-base": (149_014_272, modernbert(768, 1152, 22, 12)),
    "ModernBERT-large": (394_781_696, modernbert(1024, 2624, 28, 16)),
    # ELECTRA's with a head of two classes, as sizes of fine-tuned models give them.
    "electra-small-discriminator": (13_549_314, electra(128, 256, 4)),
    "electra-base-discriminator": (109_483_778, electra(768, 768, 12)),
    "deberta-v3-small": (141_304_320, deberta_v3(6, 768, 12)),
    "deberta-v3-base": (183_831_552, deberta_v3(12, 768, 12)),
    "deberta-v3-large": (434_012_160, deberta_v3(24, 1024, 16, pooler_hidden_size=1024)),
    "distilbert-base-uncased": (
        66_362_880,
        {
            **{"activation": "gelu", "architectures": ["DistilBertModel"], "attention_dropout": 0.1, "dim": 768},
            **{"dropout": 0.1, "hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512},
            **{"model_type": "distilbert", "n_heads": 12, "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1},
            **{"seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True, "vocab_size": 30522},
        },
    ),
    "t5-base": (
        222_903_552,
        {
            **{"architectures": ["T5ForConditionalGeneration"], "d_ff": 3072, "d_kv": 64, "d_model": 768},
            **{"decoder_start_token_id": 0, "dropout_rate": 0.1, "eos_token_id": 1, "initializer_factor": 1.0},
            **{"is_encoder_decoder": True, "layer_norm_epsilon": 1e-06, "model_type": "t5", "n_positions": 512},
            **{"num_heads": 12, "num_layers": 12, "output_past": True, "pad_token_id": 0, "vocab_size": 32128},
            **{"relative_attention_num_buckets": 32, "task_specific_params": {"translation_en_to_de": {}}},
        },
    ),
}
