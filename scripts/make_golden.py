#!/usr/bin/env python3
"""Writes tests/golden/NAME.json: inputs, and what PyTorch makes of them.

    python scripts/make_golden.py NAME...     (`all` for every one)

Needs torch and transformers; compressed-tensors for `grid_int8_channel` and `rounded_activations`, peft for `adapter`. Made with torch 2.13.0, transformers 5.17.0,
compressed-tensors 0.19.0 and peft 0.21.2. Inputs are numbers that f32 holds exactly; what is expected is computed in f64, so a tolerance
is about the f32 arithmetic of the program alone. `decoder_gradient_tied` and `_untied` are Llamas that differ in the output
matrix; the others are named by their family.
"""
import copy
import importlib.metadata
import json
import pathlib
import sys

import torch

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"
ELEMENTWISE = dict(atol=1e-6, rtol=1e-5)


def short(tensor, decimals):
    """The tensor with so many decimals, as f32 numbers in f64."""
    return torch.tensor([round(v, decimals) for v in tensor.flatten().tolist()], dtype=torch.float32).double().reshape(tensor.shape)


def exact(tensor):
    """Flat, as the shortest decimals that f32 reads as these numbers."""
    numbers = [float(str(v)) for v in tensor.detach().flatten().float().numpy()]
    assert torch.equal(torch.tensor(numbers, dtype=torch.float32).double(), tensor.detach().flatten().double())
    return numbers


def digits(tensor, count=9, decimals=20):
    """Flat, with so many significant digits and decimals at most: finer than the tolerances, in few bytes."""
    return [float(f"{round(v, decimals):.{count}g}") for v in tensor.detach().flatten().tolist()]


def write(name, seed, tolerance, inputs, expected, dtype="float64", packages=()):
    versions = {package: importlib.metadata.version(package) for package in ("torch", *packages)}
    golden = dict(made_by=f"scripts/make_golden.py {name}", seed=seed, dtype=dtype, **versions, **tolerance, inputs=inputs, expected=expected)
    text = json.dumps(golden, separators=(",", ":")) + "\n"
    assert len(text) < 200_000, f"{name} has {len(text)} bytes"
    (GOLDEN / f"{name}.json").write_text(text)
    print(f"{name}: {len(text)} bytes")


def adamw(name):
    """A matrix (decayed) and a norm (not), six steps: rates change, some gradients are clipped, one row never has any; ε is large enough to be seen."""
    seed, steps, shapes = 1, 6, {"matrix": (5, 7), "norm": (1, 7)}
    generator = torch.Generator().manual_seed(seed)
    draw = lambda shape, scale: short(torch.randn(shape, generator=generator) * scale, 4)
    weights = {key: draw(shape, 0.5) for key, shape in shapes.items()}
    scales = [0.1, 3.0, 0.01, 0.5, 1e-4, 0.2]
    gradients = [{key: draw(shape, scale) for key, shape in shapes.items()} for scale in scales]
    for step in gradients:
        step["matrix"][3] = 0
    rates, settings = [1e-3, 1e-2, 3e-2, 2e-2, 1e-2, 1e-3], dict(betas=[0.9, 0.95], epsilon=1e-3, weight_decay=0.1, max_grad_norm=1.0)

    parameters = {key: torch.nn.Parameter(value.clone()) for key, value in weights.items()}
    groups = [dict(params=[parameters["matrix"]], weight_decay=settings["weight_decay"]), dict(params=[parameters["norm"]], weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=tuple(settings["betas"]), eps=settings["epsilon"])
    expected = []
    for rate, step in zip(rates, gradients):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for key, parameter in parameters.items():
            parameter.grad = step[key].clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), settings["max_grad_norm"])
        clipped = {key: digits(parameter.grad) for key, parameter in parameters.items()}
        optimizer.step()
        state = {key: optimizer.state[parameter] for key, parameter in parameters.items()}
        expected.append(dict(
            norm=norm.item(), clipped=clipped,
            weights={key: digits(parameter) for key, parameter in parameters.items()},
            first={key: digits(value["exp_avg"]) for key, value in state.items()},
            second={key: digits(value["exp_avg_sq"]) for key, value in state.items()}))
    assert sum(step["norm"] > settings["max_grad_norm"] for step in expected) in range(1, steps)
    inputs = dict(shapes=shapes, weights={key: exact(value) for key, value in weights.items()},
                  gradients=[{key: exact(value) for key, value in step.items()} for step in gradients],
                  learning_rates=rates, **settings)
    write(name, seed, ELEMENTWISE, inputs, expected)


def randomize(model, seed, decimals, gain=1):
    """Weights large enough that attention is not uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(short(gain + 0.2 * noise if "norm" in key else 0.3 * noise, decimals))
    return generator


def tiny_llama(seed, tied, decimals, hidden_size=16, num_hidden_layers=2):
    """A Llama whose head_dim is not hidden_size / heads."""
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(
        vocab_size=40, hidden_size=hidden_size, intermediate_size=24, num_hidden_layers=num_hidden_layers, num_attention_heads=4,
        num_key_value_heads=2, head_dim=6, max_position_embeddings=16, rms_norm_eps=1e-5, tie_word_embeddings=tied, attention_bias=False, mlp_bias=False,
        bos_token_id=None, eos_token_id=None, pad_token_id=None, attn_implementation="eager")
    model = LlamaForCausalLM(config).double().eval()
    generator = randomize(model, seed, decimals)
    keys = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
            "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"]
    written = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", rope_theta=10000.0,
                   **{key: getattr(config, key) for key in keys})
    return model, written, generator


# What makes a family its own, in numbers that matter in eight positions: windows that are shorter, caps that bend.
FAMILIES = {
    "mistral": ("Mistral", dict(sliding_window=3)),
    "qwen2": ("Qwen2", dict(use_sliding_window=True, sliding_window=3, max_window_layers=1)),
    "qwen3": ("Qwen3", dict(use_sliding_window=True, sliding_window=3, max_window_layers=1)),
    "gemma": ("Gemma", dict()),
    "gemma2": ("Gemma2", dict(sliding_window=3, query_pre_attn_scalar=4, attn_logit_softcapping=1.0, final_logit_softcapping=1.5)),
    "gemma3": ("Gemma3", dict(
        sliding_window=3, query_pre_attn_scalar=4, final_logit_softcapping=2.0, layer_types=["sliding_attention", "full_attention"],
        rope_parameters=dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1e4),
                             sliding_attention=dict(rope_type="default", rope_theta=100.0)))),
    "phi3": ("Phi3", dict(
        num_attention_heads=2, num_key_value_heads=1, original_max_position_embeddings=5,
        rope_parameters=dict(rope_type="longrope", rope_theta=100.0, partial_rotary_factor=0.67, short_factor=[1.0, 2.0], long_factor=[1.5, 3.75]))),
    "olmo2": ("Olmo2", dict()),
    "smollm3": ("SmolLM3", dict(no_rope_layers=[1, 0], use_sliding_window=True, sliding_window=3)),
}


def tiny_family(seed, family, decimals):
    import transformers
    name, settings = FAMILIES[family]
    gemma = family.startswith("gemma")
    config_class = getattr(transformers, name + ("TextConfig" if name == "Gemma3" else "Config"))
    sizes = dict(
        vocab_size=32, hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=6,
        max_position_embeddings=16, rms_norm_eps=1e-5, tie_word_embeddings=gemma, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        attn_implementation="eager")
    config = config_class(**sizes | copy.deepcopy(settings))
    model = getattr(transformers, name + "ForCausalLM")(config).double().eval()
    generator = randomize(model, seed, decimals, gain=0 if gemma else 1)
    left_out = {"transformers_version", "attention_dropout", "initializer_range", "use_cache", "dtype"}
    written = {key: value for key, value in config.to_diff_dict().items() if key not in left_out}
    return model, dict(written, architectures=[name + "ForCausalLM"]), generator


def flat(model):
    return {key: exact(parameter) for key, parameter in model.named_parameters()}


def decoder_gradient(name):
    """Two rows, the second counted in part: cross-entropy alone, and with a forward KL on a top-k support at T = 2.

    A soft-cap of the logits is part of the model, so losses and gradients go through it.

    The pooled KL and its T² are those of tests/golden/losses/make.py. Norms and the softmax of attention run in f32, as
    transformers has them whatever the dtype of the model.
    """
    seed, rows, seq, top_k, temperature, counted = 2, 2, 8, 6, 2.0, [8, 5]
    weights = dict(forward_kl=0.7, cross_entropy=0.3)
    variant = name.removeprefix("decoder_gradient_")
    model, config, generator = tiny_family(seed, variant, 3) if variant in FAMILIES else tiny_llama(seed, variant == "tied", 3)
    tokens = torch.randint(0, config["vocab_size"], (rows, seq + 1), generator=generator)
    mask = torch.tensor([[position < count for position in range(seq)] for count in counted])
    teacher = (torch.randn(rows, seq, config["vocab_size"], generator=generator).double() * 2).log_softmax(-1)
    log_probs, ids = teacher.topk(top_k, -1)
    ids, order = ids.sort(-1)
    log_probs = short(log_probs.gather(-1, order), 5)
    lse = short((teacher / temperature).logsumexp(-1), 5)

    def run(loss_of):
        model.zero_grad()
        logits = model(tokens[:, :-1]).logits
        losses = loss_of(logits)
        losses["total"].backward()
        return dict(losses={key: value.item() for key, value in losses.items()},
                    gradients={key: digits(parameter.grad, 7, 9) for key, parameter in model.named_parameters()})

    def mean(per_position):
        return per_position[mask].mean()

    def cross_entropy(logits):
        value = mean(torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none"))
        return dict(total=value, cross_entropy=value)

    def mix(logits):
        p = log_probs / temperature - lse[..., None]
        q = (logits / temperature).log_softmax(-1).gather(-1, ids)
        p_tail, q_tail = 1 - p.exp().sum(-1), 1 - q.exp().sum(-1)
        kl = mean((p.exp() * (p - q)).sum(-1) + p_tail * (p_tail.log() - q_tail.log())) * temperature**2
        ce = cross_entropy(logits)["total"]
        return dict(total=weights["forward_kl"] * kl + weights["cross_entropy"] * ce, forward_kl=kl, cross_entropy=ce)

    inputs = dict(config=config, weights=flat(model), tokens=tokens.flatten().tolist(), sequence_length=seq, counted=counted,
                  top_k=top_k, temperature=temperature, ids=ids.flatten().tolist(), log_probs=exact(log_probs),
                  lse=exact(lse), loss_weights=weights)
    write(name, seed, dict(atol=1e-6, rtol=1e-5), inputs, dict(cross_entropy=run(cross_entropy), mix=run(mix)),
          "float64, norms and softmax in float32", ["transformers"])


# Lengths of the documents of three rows: of one token, also at the end of a row; longer and shorter than a window of three and than
# the five positions that the Phi was trained with; and a row that is one document.
PACKED = [[5, 1, 4, 2], [3, 8, 1], [12]]


def decoder_packed(name):
    """Documents in packed rows: logits of each document alone, and the gradient of the mean cross-entropy of all of their next tokens.

    The models are those of `decoder_gradient`, whose files hold their weights.
    """
    seed, variant = 3, name.removeprefix("decoder_packed_")
    given = json.loads((GOLDEN / f"decoder_gradient_{variant}.json").read_text())
    model, config, _ = tiny_family(given["seed"], variant, 3) if variant in FAMILIES else tiny_llama(given["seed"], False, 3)
    assert given["inputs"]["weights"] == flat(model)
    generator = torch.Generator().manual_seed(seed)
    documents = [torch.randint(0, config["vocab_size"], (length,), generator=generator) for row in PACKED for length in row]
    logits = [model(document[None]).logits[0] for document in documents]
    losses = [torch.nn.functional.cross_entropy(logits[:-1], document[1:], reduction="none") for logits, document in zip(logits, documents)]
    loss = torch.cat(losses).mean()
    loss.backward()
    expected = dict(logits=digits(torch.cat(logits), 6, 6), loss=loss.item(),
                    gradients={key: digits(parameter.grad, 6, 8) for key, parameter in model.named_parameters()})
    write(name, seed, dict(atol=1e-6, rtol=1e-5), dict(documents=PACKED, tokens=torch.cat(documents).tolist()), expected,
          "float64, norms and softmax in float32", ["transformers"])


def losses_on_support(name):
    """The soft terms over eight ids and a bucket, or renormalised, and smoothed labels; inputs are those of losses/reference.json."""
    given = json.loads((GOLDEN / "losses" / "reference.json").read_text())
    tensor = lambda key: torch.tensor(given[key], dtype=torch.float64)
    as_f32 = lambda key: tensor(key).float().double()
    student, ids, mask, log_probs = as_f32("student_logits"), torch.tensor(given["topk_ids"]), tensor("mask"), as_f32("topk_logprobs")
    lse = {t: torch.tensor(given["lse"][f"{t:g}"]).float().double().unsqueeze(-1) for t in (1.0, 2.0)}
    beta, alpha, smoothing = 0.3, 0.2, 0.1
    weights = dict(forward_kl=0.5, reverse_kl=0.25, jsd=1.5, skew_forward_kl=0.75, skew_reverse_kl=1.25, tvd=2.0, cross_entropy=0.4)
    kl = lambda a, b: torch.where(a > 0, a * (a.clamp_min(1e-300).log() - b.clamp_min(1e-300).log()), 0.0).sum(-1)
    divergences = dict(
        forward_kl=lambda p, q: kl(p, q),
        reverse_kl=lambda p, q: kl(q, p),
        jsd=lambda p, q: beta * kl(p, beta * p + (1 - beta) * q) + (1 - beta) * kl(q, beta * p + (1 - beta) * q),
        skew_forward_kl=lambda p, q: kl(p, alpha * p + (1 - alpha) * q),
        skew_reverse_kl=lambda p, q: kl(q, (1 - alpha) * p + alpha * q),
        tvd=lambda p, q: 0.5 * (p - q).abs().sum(-1),
    )

    def pooled(kept):
        return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1)

    def soft(term, tail, temperature):
        def value(logits):
            p = pooled((log_probs / temperature - lse[temperature]).exp())
            q = pooled((logits / temperature).softmax(-1).gather(-1, ids))
            if tail == "renormalize":
                p = torch.cat([p[:, :-1] / p[:, :-1].sum(-1, keepdim=True), torch.zeros_like(p[:, -1:])], -1)
            return divergences[term](p, q) * temperature**2
        return value

    def smoothed(logits):
        return torch.nn.functional.cross_entropy(logits, torch.tensor(given["labels"]), reduction="none", label_smoothing=smoothing)

    def mix(tail, temperature):
        terms = {term: soft(term, tail, temperature) for term in divergences} | dict(cross_entropy=smoothed)
        return lambda logits: sum(weight * terms[term](logits) for term, weight in weights.items())

    def run(loss):
        logits = student.clone().requires_grad_(True)
        value = (loss(logits) * mask).sum() / mask.sum()
        value.backward()
        return dict(loss=value.item(), grad=[digits(row) for row in logits.grad])

    cases = {f"{term} bucket@T={t:g}": run(soft(term, "bucket", t)) for t in (1.0, 2.0) for term in divergences if term != "forward_kl"}
    cases |= {f"{term} renormalize@T=2": run(soft(term, "renormalize", 2.0)) for term in divergences if term not in ("forward_kl", "reverse_kl")}
    cases |= {"smoothed cross_entropy": run(smoothed)} | {f"mix bucket@T={t:g}": run(mix("bucket", t)) for t in (1.0, 2.0)}
    write(name, 0, dict(atol=0.0, rtol=1e-6), dict(beta=beta, alpha=alpha, label_smoothing=smoothing, weights=weights), cases)


def losses_adaptive_kl(name):
    """adaptive_kl over the whole vocabulary and over eight ids and a bucket; inputs are those of losses/reference.json.

    Wu et al. 2024 (arXiv 2404.02657) as in the authors' AKL.py: the head has the likeliest ids whose sum is at most a half, and the
    likeliest in any case; the student's probabilities are detached where the two weights are made of them. The bucket is of the tail.
    """
    given = json.loads((GOLDEN / "losses" / "reference.json").read_text())
    tensor = lambda key: torch.tensor(given[key], dtype=torch.float64)
    as_f32 = lambda key: tensor(key).float().double()
    student, ids, mask, log_probs = as_f32("student_logits"), torch.tensor(given["topk_ids"]), tensor("mask"), as_f32("topk_logprobs")
    lse = {t: torch.tensor(given["lse"][f"{t:g}"]).float().double().unsqueeze(-1) for t in (1.0, 2.0)}

    def head_of(p):
        sums, order = p.sort(-1, descending=True).values.cumsum(-1), p.argsort(-1, descending=True)
        is_head = sums <= 0.5
        is_head[:, 0] = True
        return torch.zeros_like(is_head).scatter(-1, order, is_head)

    def adaptive_kl(p, q, is_head):
        gap = (p - q).detach().abs()
        head, tail = (gap * is_head).sum(-1), (gap * ~is_head).sum(-1)
        return (head * (p * (p / q).log()).sum(-1) + tail * (q * (q / p).log()).sum(-1)) / (head + tail)

    def whole(temperature):
        p = (tensor("teacher_logits") / temperature).softmax(-1)
        return lambda logits: adaptive_kl(p, (logits / temperature).softmax(-1), head_of(p)) * temperature**2

    def bucket(temperature):
        pooled = lambda kept: torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], -1)
        of_ids = (log_probs / temperature - lse[temperature]).exp()
        is_head = torch.cat([head_of(of_ids), torch.zeros(len(ids), 1, dtype=torch.bool)], -1)
        return lambda logits: adaptive_kl(pooled(of_ids), pooled((logits / temperature).softmax(-1).gather(-1, ids)), is_head) * temperature**2

    def run(loss):
        logits = student.clone().requires_grad_(True)
        value = (loss(logits) * mask).sum() / mask.sum()
        value.backward()
        return dict(loss=value.item(), grad=[digits(row) for row in logits.grad])

    sizes = {size for t in (1.0, 2.0) for size in head_of((tensor("teacher_logits") / t).softmax(-1)).sum(-1).tolist()}
    assert 1 in sizes and len(sizes) >= 3, sizes
    cases = {f"whole@T={t:g}": run(whole(t)) for t in (1.0, 2.0)} | {f"bucket@T={t:g}": run(bucket(t)) for t in (1.0, 2.0)}
    write(name, 0, dict(atol=0.0, rtol=1e-6), {}, cases)


def prune(name):
    """Masks of all linear layers: |W|, and |W| · ‖X‖₂ with the inputs that hooks see (arXiv 2306.11695, equation 1).

    The lowest share of each output row, of the matrix, or the lower half of every 4 or 8 neighbours go. A mask is a string, 1 where a
    weight is kept.
    """
    seed, rows, seq = 3, 3, 8
    model, config, generator = tiny_llama(seed, False, 6)
    tokens = torch.randint(0, config["vocab_size"], (rows, seq + 1), generator=generator)
    linear = {key: module for key, module in model.named_modules() if isinstance(module, torch.nn.Linear) and key != "lm_head"}
    squares = {}

    def watch(key):
        def hook(module, inputs):
            x = inputs[0].detach().reshape(-1, inputs[0].shape[-1])
            squares[key] = squares.get(key, 0) + x.square().sum(0)
        return hook

    for key, module in linear.items():
        module.register_forward_pre_hook(watch(key))
    model(tokens[:, :-1])

    def mask(scores, case):
        parts = scores.reshape(dict(row=scores.shape[0], matrix=1).get(case.get("within", "row")), -1)
        if "pattern" in case:
            parts = scores.reshape(-1, int(case["pattern"][-1]))
        count = round(parts.shape[1] * case.get("sparsity", 0.5))
        ordered = parts.sort(dim=1).values
        assert (ordered[:, count] > ordered[:, count - 1] * (1 + 1e-6)).all(), "a tie: take another seed"
        kept = (parts >= ordered[:, count : count + 1]).int()
        return "".join(str(bit) for bit in kept.flatten().tolist())

    cases = dict(magnitude=dict(method="magnitude", sparsity=0.6), wanda=dict(method="wanda", sparsity=0.5),
                 magnitude_of_matrix=dict(method="magnitude", sparsity=0.6, within="matrix"), wanda_of_matrix=dict(method="wanda", sparsity=0.3, within="matrix"),
                 magnitude_2_4=dict(method="magnitude", pattern="2:4"), wanda_4_8=dict(method="wanda", pattern="4:8"))
    expected = {}
    for label, case in cases.items():
        scores = lambda key, w: w.abs() * (squares[key].sqrt() if case["method"] == "wanda" else 1)
        expected[label] = {f"{key}.weight": mask(scores(key, module.weight.detach()), case) for key, module in linear.items()}
    inputs = dict(config=config, weights=flat(model), tokens=tokens.flatten().tolist(), sequence_length=seq, cases=cases)
    write(name, seed, dict(atol=0.0, rtol=0.0), inputs, expected, "float64, norms and softmax in float32", ["transformers"])


def optimal_surgery(weight, moments, case, damping, block, masked=None):
    """SparseGPT (arXiv 2301.00774, algorithm 1) on a matrix, straight from its formulas: weights, and 1 where one is kept.

    Shares of zeros are rounded to whole weights at the end of each block; a weight that was masked before goes whatever it costs.
    """
    rows, columns = weight.shape
    damped = moments + damping * moments.diagonal().mean() * torch.eye(columns)
    upper = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    weight, mask = weight.clone(), torch.ones_like(weight) if masked is None else masked.clone()
    share = lambda count: int(count * case.get("sparsity", 0) + 0.5)

    def lowest(start, end, parts, count):
        """Masks the lowest of each part of these columns."""
        scores = (weight[:, start:end] / upper.diagonal()[start:end]) ** 2
        scores[mask[:, start:end] == 0] = -1
        scores = scores.reshape(parts, -1)
        kept = mask[:, start:end].reshape(parts, -1).clone()
        for score, keep in zip(scores, kept):
            order = score.argsort()
            number = max(count, int((score < 0).sum()))
            if 0 < number < len(order):
                assert score[order[number]] > score[order[number - 1]] * (1 + 1e-5) or score[order[number - 1]] < 0, "a tie: take another seed"
            keep[order[:number]] = 0
        mask[:, start:end] = kept.reshape(rows, -1)

    for start in range(0, columns, block):
        end = min(start + block, columns)
        if "sparsity" in case:
            per = dict(row=1, matrix=rows)[case["within"]]
            lowest(start, end, rows // per, share(per * end) - share(per * start))
        for column in range(start, end):
            if "pattern" in case and column % int(case["pattern"][-1]) == 0:
                width = int(case["pattern"][-1])
                lowest(column, column + width, rows, width // 2)
            error = weight[:, column] * (1 - mask[:, column]) / upper[column, column]
            weight[:, column:] -= error[:, None] * upper[column, column:]
            weight[:, column] *= mask[:, column]
    return weight, mask, upper


def sparsegpt(name):
    """A matrix in blocks of 16 columns; and the model of prune.json, where each projection sees what the pruned ones before it give."""
    seed, shape, positions, damping, block = 8, (6, 40), 64, 0.01, 16
    generator = torch.Generator().manual_seed(seed)
    weight = short(torch.randn(shape, generator=generator), 3)
    mixing = torch.randn((shape[1], shape[1]), generator=generator) * 0.3 + torch.eye(shape[1])
    x = short(torch.randn((positions, shape[1]), generator=generator) @ mixing, 2)
    moments = x.T @ x / positions
    masked = (torch.rand(shape, generator=generator, dtype=torch.float64) > 0.3).double()
    cases = dict(of_matrix=dict(sparsity=0.5, within="matrix"), of_rows=dict(sparsity=0.3, within="row"), pattern_2_4=dict(pattern="2:4"),
                 pattern_4_8=dict(pattern="4:8"), masked=dict(sparsity=0.5, within="matrix", masked=True), masked_2_4=dict(pattern="2:4", masked=True))
    text = lambda mask: "".join(str(int(bit)) for bit in mask.flatten().tolist())
    matrices = {}
    for label, case in cases.items():
        given = weight * masked if case.get("masked") else weight
        pruned, mask, upper = optimal_surgery(given, moments, case, damping, block, masked if case.get("masked") else None)
        matrices[label] = dict(weight=digits(pruned, 7, 9), mask=text(mask))
    factor = [digits(row[at:], 7, 9) for at, row in enumerate(upper)]

    rows, seq = 3, 8
    model, config, generator = tiny_llama(3, False, 6)
    tokens = torch.randint(0, config["vocab_size"], (rows, seq + 1), generator=generator)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"], ["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]
    models = {}
    for label, case in (("share", dict(sparsity=0.5, within="matrix")), ("pattern", dict(pattern="2:4"))):
        model.load_state_dict(start)
        found = {}
        for layer in range(config["num_hidden_layers"]):
            for together in names:
                modules = {part: model.get_submodule(f"model.layers.{layer}.{part}") for part in together}
                seen = []
                hook = modules[together[0]].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().reshape(-1, inputs[0].shape[-1])))
                with torch.no_grad():
                    model(tokens[:, :-1])
                hook.remove()
                for part, module in modules.items():
                    pruned, mask, _ = optimal_surgery(module.weight.detach(), seen[0].T @ seen[0] / len(seen[0]), case, 0.1, 128)
                    lost = ((module.weight.detach() - pruned) @ seen[0].T).square().sum() / (module.weight.detach() @ seen[0].T).square().sum()
                    module.weight.data = pruned
                    found[f"model.layers.{layer}.{part}.weight"] = dict(weight=digits(pruned, 7, 7), mask=text(mask), output_error=lost.item())
        models[label] = found
    inputs = dict(shape=shape, weight=exact(weight), x=exact(x), masked=text(masked), damping=damping, block=block, cases=cases, model_damping=0.1)
    write(name, seed, dict(atol=1e-5, rtol=1e-4), inputs, dict(factor=factor, matrices=matrices, models=models), "float64, norms and softmax in float32",
          ["transformers"])


def grid_of(weight, bits, symmetric, group):
    """Scale and zero of each weight, as `kernels/grid` chooses them: the range of its group over all levels, in numbers that bf16 holds."""
    groups = weight.reshape(weight.shape[0], -1, group or weight.shape[1])
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if symmetric:
        scale = groups.abs().amax(2, keepdim=True) / ((high - low) / 2)
    else:
        scale = (groups.amax(2, keepdim=True).clamp(min=0) - groups.amin(2, keepdim=True).clamp(max=0)) / (high - low)
    scale = scale.bfloat16().double()
    scale[scale == 0] = 1
    zero = torch.zeros_like(scale) if symmetric else (-groups.amin(2, keepdim=True).clamp(max=0) / scale + low).round().clamp(low, high)
    return tuple(x.expand(groups.shape).reshape(weight.shape) for x in (scale, zero))


def nearest(weight, scale, zero, bits, margin=0.0):
    """Codes of the nearest values on a grid; none may be so close to the middle of two that f32 could see it otherwise."""
    quotient = weight / scale + zero
    assert ((quotient - quotient.floor() - 0.5).abs() >= margin).all(), "a tie: take another seed"
    return quotient.round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def optimal_rounding(weight, moments, case, damping, mask=None, margin=0.0):
    """GPTQ (arXiv 2210.17323, equations 2 and 3), with the inverse itself in the place of its factor: as a column is rounded, the others move
    by the column's row of the inverse, out of which the column is then eliminated."""
    rows, columns = weight.shape
    mask = torch.ones_like(weight) if mask is None else mask
    weight = weight * mask
    scale, zero = grid_of(weight, case["bits"], case["symmetric"], case.get("group_size"))
    inverse = torch.linalg.inv(moments + damping * moments.diagonal().mean() * torch.eye(columns))
    order = list(range(columns))
    if case["act_order"]:
        order.sort(key=lambda column: -moments[column, column].item())
    left = weight.clone()
    rounded = torch.zeros_like(weight)
    for column in order:
        codes = nearest(left[:, column], scale[:, column], zero[:, column], case["bits"], margin)
        rounded[:, column] = (codes - zero[:, column]) * scale[:, column] * mask[:, column]
        error = (left[:, column] - rounded[:, column]) / inverse[column, column]
        left -= error[:, None] * inverse[column]
        inverse = inverse - inverse[:, column, None] * inverse[column] / inverse[column, column]
    return rounded, scale, zero


def gptq(name):
    """A matrix, one of whose inputs is always 0; and the model of prune.json, where each projection sees what the rounded ones before it give."""
    seed, shape, positions, damping = 21, (6, 40), 64, 0.01
    generator = torch.Generator().manual_seed(seed)
    weight = short(torch.randn(shape, generator=generator), 3)
    weight[3] = 0
    mixing = torch.randn((shape[1], shape[1]), generator=generator) * 0.3 + torch.diag(torch.rand(shape[1], generator=generator) * 2)
    x = short(torch.randn((positions, shape[1]), generator=generator) @ mixing, 2)
    x[:, 7] = 0
    moments = x.T @ x / positions
    mask = (torch.rand(shape, generator=generator, dtype=torch.float64) > 0.3).double()
    case = lambda bits, symmetric, act_order, group_size=None, masked=False: dict(bits=bits, symmetric=symmetric, act_order=act_order, group_size=group_size, masked=masked)
    cases = dict(rows=case(4, True, False), rows_in_order=case(4, True, True), groups_in_order=case(4, True, True, 8), zeros=case(3, False, False, 8),
                 zeros_in_order=case(3, False, True, 8), zeros_of_rows=case(2, False, True), masked=case(4, True, True, 8, True), masked_zeros=case(3, False, True, 8, True))
    matrices = {}
    for label, keys in cases.items():
        rounded, scale, zero = optimal_rounding(weight, moments, keys, damping, mask if keys["masked"] else None, 2e-5)
        matrices[label] = dict(weight=exact(rounded), scale=exact(scale[:, :: keys["group_size"] or shape[1]]), zero=exact(zero[:, :: keys["group_size"] or shape[1]]))

    rows, seq = 3, 8
    model, config, generator = tiny_llama(3, False, 6)
    tokens = torch.randint(0, config["vocab_size"], (rows, seq + 1), generator=generator)
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], ["self_attn.o_proj"], ["mlp.gate_proj", "mlp.up_proj"], ["mlp.down_proj"]
    for key, value in model.state_dict().items():
        if "_proj" not in key:
            value.copy_(value.bfloat16().double())  # what has no grid is bf16
    start = {key: value.clone() for key, value in model.state_dict().items()}
    models = {}
    for label, keys in (("zeros", case(3, False, False, 8)), ("in_order", case(4, True, True))):
        model.load_state_dict(start)
        found = {}
        for layer in range(config["num_hidden_layers"]):
            for together in names:
                modules = {part: model.get_submodule(f"model.layers.{layer}.{part}") for part in together}
                seen = []
                hook = modules[together[0]].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().reshape(-1, inputs[0].shape[-1])))
                with torch.no_grad():
                    model(tokens[:, :-1])
                hook.remove()
                for part, module in modules.items():
                    rounded, _, _ = optimal_rounding(module.weight.detach(), seen[0].T @ seen[0] / len(seen[0]), keys, 0.1, margin=2e-5)
                    module.weight.data = rounded
                    found[f"model.layers.{layer}.{part}.weight"] = exact(rounded)
        models[label] = found
    inputs = dict(shape=shape, weight=exact(weight), x=exact(x), mask="".join(str(int(bit)) for bit in mask.flatten().tolist()), damping=damping, cases=cases,
                  model_damping=0.1)
    write(name, seed, dict(atol=0.0, rtol=0.0), inputs, dict(matrices=matrices, models=models), "float64, norms and softmax in float32", ["transformers"])


def awq(name):
    """Scales of the inputs of two matrices, one of which is always 0 (arXiv 2306.00978, equations 4 and 5): α of 20 by the error of the outputs themselves.
    The inverse goes into rows of weights as it is, into the gain of a norm as bf16 holds it."""
    seed, columns, rows, positions = 22, 32, (6, 5), 48
    generator = torch.Generator().manual_seed(seed)
    weights = [short(torch.randn((count, columns), generator=generator), 3) for count in rows]
    x = short(torch.randn((positions, columns), generator=generator) * torch.randn(columns, generator=generator).mul(1.3).exp(), 3)
    x[:, 11] = 0
    norm = (torch.rand(columns, generator=generator) * 2 - 0.5).bfloat16().double()
    norm[4] = 0
    sizes = x.abs().mean(0)
    used = sizes > 0
    cases = dict(rows=dict(bits=4, symmetric=True, group_size=None, offset=None), groups=dict(bits=3, symmetric=False, group_size=8, offset=None),
                 norm=dict(bits=3, symmetric=True, group_size=8, offset=0.0), norm_of_gemma=dict(bits=3, symmetric=False, group_size=16, offset=1.0))
    expected = {}
    for label, case in cases.items():
        found = []
        for power in range(20):
            powers = sizes[used] ** (power / 20)
            scale = torch.ones(columns).double()
            scale[used] = powers / (powers.max() * powers.min()).sqrt()
            stored = norm
            if case["offset"] is not None:
                gain = norm + case["offset"]
                stored = torch.where(gain == 0, norm, (gain / scale - case["offset"]).bfloat16().double())
                scale = torch.where(stored == norm, 1.0, gain / (stored + case["offset"]))
            lost = 0
            for weight in weights:
                step, zero = grid_of(weight * scale, case["bits"], case["symmetric"], case["group_size"])
                rounded = (nearest(weight * scale, step, zero, case["bits"]) - zero) * step / scale
                lost += (x @ (rounded - weight).T).square().sum().item() / positions
            found.append((lost, power, scale, stored))
        found.sort(key=lambda one: one[0])
        assert found[1][0] > found[0][0] * 1.001 and found[0][1] > 0, "a tie: take another seed"
        lost, power, scale, stored = found[0]
        expected[label] = dict(power=power, lost=lost, scales=digits(scale), norm=exact(stored))
    inputs = dict(columns=columns, weights=[exact(weight) for weight in weights], x=exact(x), norm=exact(norm), cases=cases)
    write(name, seed, dict(atol=1e-6, rtol=1e-5), inputs, expected)


def grid_int8_channel(name):
    """Scales and codes of compressed-tensors for a bf16 weight: int8, symmetric, one scale per row."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import quantize
    from compressed_tensors.quantization.utils import calculate_qparams
    seed, shape = 4, (24, 64)
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05).bfloat16()
    weight[5] = 0
    weight[6, 1:] = 0
    args = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel")
    scale, zero = calculate_qparams(weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), args)
    codes = quantize(weight, scale, zero, args, dtype=torch.int8)
    inputs = dict(shape=shape, weight=exact(weight))
    expected = dict(scales=exact(scale), codes=codes.flatten().tolist())
    write(name, seed, dict(atol=0.0, rtol=0.0), inputs, expected, "bfloat16", ["compressed-tensors"])


def rounded_activations(name):
    """What compressed-tensors makes of activations with dynamic scales per token, int8 and fp8, in f32. The largest of a token lies between two levels of int8."""
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
    seed, shape = 10, (2, 8, 24)
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-5, 4, 16).reshape(2, 8, 1)
    x = (torch.randn(shape, generator=generator) * sizes).float()
    x[1, 3] = 0
    expected = {}
    for kind, number in {"int8": "int", "fp8": "float"}.items():
        args = QuantizationArgs(num_bits=8, type=number, symmetric=True, strategy="token", dynamic=True)
        scale, zero = compute_dynamic_scales_and_zp(x, args, None)
        expected[kind] = exact(fake_quantize(x, scale, zero, args))
    write(name, seed, dict(atol=0.0, rtol=0.0), dict(shape=shape, x=exact(x)), expected, "float32", ["compressed-tensors"])


def learned_scales(name):
    """Weights on grids with given scales, and the slopes of both: LSQ of 2 to 4 bits, ParetoQ's stretched grids of two bits and of three levels."""
    seed, shape, groups = 9, (3, 32), 2
    generator = torch.Generator().manual_seed(seed)
    weight = short(torch.randn(shape, generator=generator), 4)
    slope = short(torch.randn(shape, generator=generator), 4)
    straight = lambda x, to: x + (to - x).detach()

    def integers(bits):
        return lambda v: straight(v.clamp(-2 ** (bits - 1), 2 ** (bits - 1) - 1), v.clamp(-2 ** (bits - 1), 2 ** (bits - 1) - 1).round())

    def elastic(parts, shift):  # on weight / alpha, where alpha is what the largest weight would have
        def levels(v):
            clipped = v.clamp(-0.99, 0.99)
            return straight(clipped, ((clipped * parts - shift).round() + shift) / parts)
        return levels

    # A scale of ours is alpha over the quotient of the largest weight.
    kinds = {"int2": (integers(2), 1.0, 0.75), "int3": (integers(3), 1.0, 0.5), "int4": (integers(4), 1.0, 0.25),
             "stretched": (elastic(2, 0.5), 4.0, 0.5), "ternary": (elastic(1.5, 0.0), 1.5, 1.25)}
    expected, scales = {}, {}
    for kind, (levels, reach, size) in kinds.items():
        scale = torch.tensor([[size, size * 0.75], [size * 1.25, size * 0.5], [size * 1.5, size]]).double()
        free, step = weight.clone().requires_grad_(), scale.clone().requires_grad_()
        alpha = (step * reach).repeat_interleave(shape[1] // groups, 1)
        rounded = levels(free / alpha) * alpha
        (rounded * slope).sum().backward()
        scales[kind] = exact(scale)
        expected[kind] = dict(weight=digits(rounded), of_weight=digits(free.grad), of_scale=digits(step.grad))
    inputs = dict(shape=shape, groups=groups, weight=exact(weight), slope=exact(slope), scales=scales)
    write(name, seed, ELEMENTWISE, inputs, expected)


def schedules(name):
    """Learning rates of transformers; a scheduler's step 0 comes before the first update, so the first of these is its step 1.

    `cosine_with_min_lr` with a warm-up of its own and `polynomial` are those that know a final rate; the others fall to 0.
    `warmup_stable_decay` warms up from its final rate and is compared with a final rate of 0.
    """
    from transformers import optimization
    parameter = torch.nn.Parameter(torch.zeros(1))
    peak, expected = 0.8, []

    def rates(make, steps, first=1):
        optimizer = torch.optim.SGD([parameter], lr=peak)
        scheduler = make(optimizer)
        found = []
        for _ in range(steps + 1):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found[first : first + steps]

    def case(schedule, steps, warmup, final, make, first=1, **keys):
        expected.append(dict(schedule=schedule, steps=steps, warmup_steps=warmup, final_learning_rate_frac=final, **keys,
                             rates=rates(make, steps, first)))

    for steps, warmup in ((12, 1), (12, 5), (7, 7), (40, 2)):
        case("constant", steps, warmup, 0.1, lambda o: optimization.get_constant_schedule_with_warmup(o, warmup))
        case("cosine", steps, warmup, 0.0, lambda o: optimization.get_cosine_schedule_with_warmup(o, warmup, steps))
        case("cosine", steps, warmup, 0.25,
             lambda o: optimization.get_cosine_with_min_lr_schedule_with_warmup_lr_rate(o, warmup, steps, min_lr_rate=0.25), first=0)
        if warmup < steps:  # transformers' linear schedules end a step early if all is warm-up
            case("linear", steps, warmup, 0.0, lambda o: optimization.get_linear_schedule_with_warmup(o, warmup, steps))
            case("linear", steps, warmup, 0.25,
                 lambda o: optimization.get_polynomial_decay_schedule_with_warmup(o, warmup, steps, lr_end=0.25 * peak))
        for decay, shape in ((1, "linear"), (steps - warmup, "cosine"), ((steps - warmup) // 2, "linear"), ((steps - warmup) // 2, "1-sqrt")):
            if decay > 0 and warmup + decay <= steps:
                case("warmup_stable_decay", steps, warmup, 0.0,
                     lambda o: optimization.get_wsd_schedule(o, warmup, decay, num_training_steps=steps, decay_type=shape),
                     decay_steps=decay, decay_shape=shape)
    write(name, 0, dict(atol=1e-15, rtol=1e-14), dict(learning_rate=peak), expected, packages=["transformers"])


def training(name):
    """Ten AdamW steps of a Llama (grouped heads, tied) with a cosine after warm-up and clipping; every step sees all rows.

    Decay spares norms. Losses and norms of each step are those before its update. Norms and the softmax of attention run in
    f32, as transformers has them whatever the dtype of the model.
    """
    from transformers import optimization
    seed, rows, seq, steps, warmup, counted = 11, 4, 8, 10, 3, [8, 8, 5, 8]
    settings = dict(learning_rate=2e-2, betas=[0.9, 0.95], epsilon=1e-6, weight_decay=0.1, max_grad_norm=2.0)
    model, config, generator = tiny_llama(seed, True, 3)
    before = flat(model)
    tokens = torch.randint(0, config["vocab_size"], (rows, seq + 1), generator=generator)
    mask = torch.tensor([[position < count for position in range(seq)] for count in counted])
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [dict(params=matrices, weight_decay=settings["weight_decay"]), dict(params=norms, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=tuple(settings["betas"]), eps=settings["epsilon"])
    scheduler = optimization.get_cosine_schedule_with_warmup(optimizer, warmup, steps)
    scheduler.step()
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")[mask].mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        found.append(dict(loss=loss.item(), norm=norm.item(), learning_rate=optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    assert sum(step["norm"] > settings["max_grad_norm"] for step in found) in range(1, steps)
    inputs = dict(config=config, weights=before, tokens=tokens.flatten().tolist(), sequence_length=seq, counted=counted,
                  steps=steps, warmup_steps=warmup, **settings)
    after = {key: digits(parameter, 7, 9) for key, parameter in model.named_parameters()}
    write(name, seed, dict(atol=1e-4, rtol=0.0), inputs, dict(steps=found, weights=after), "float64, norms and softmax in float32",
          ["transformers"])


def adapter(name):
    """A LoRA of rank 3 on two modules, as peft runs it: logits, the gradients of A and B under cross-entropy, and logits of the merged model."""
    from peft import LoraConfig, get_peft_model
    seed, rows, seq, settings = 6, 2, 8, dict(rank=3, alpha=7.5, targets=["q_proj", "down_proj"])
    model, config, generator = tiny_llama(seed, True, 3)
    weights = flat(model)
    lora = LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], target_modules=settings["targets"], task_type="CAUSAL_LM")
    model = get_peft_model(model, lora).double()
    trained = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.copy_(short(0.2 * torch.randn(parameter.shape, generator=generator), 3))
    tokens = torch.randint(0, config["vocab_size"], (rows, seq + 1), generator=generator)
    logits = model(tokens[:, :-1]).logits
    torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:]).backward()
    own = lambda key: key.removeprefix("base_model.model.").replace(".default", "")
    matrices = {own(key): exact(parameter) for key, parameter in trained.items()}
    gradients = {own(key): digits(parameter.grad, 7, 9) for key, parameter in trained.items()}
    merged = model.merge_and_unload()(tokens[:, :-1]).logits
    assert torch.allclose(merged, logits, atol=1e-5)  # norms and softmax are computed in f32
    inputs = dict(config=config, weights=weights, adapter=settings, matrices=matrices, tokens=tokens.flatten().tolist(), sequence_length=seq)
    write(name, seed, dict(atol=1e-6, rtol=1e-5), inputs, dict(logits=digits(logits, 7, 7), gradients=gradients),
          "float64, norms and softmax in float32", ["transformers", "peft"])


def hidden_mse(name):
    """Cross-entropy and the distance of the residual streams behind pairs of layers, to a teacher of another width (through a matrix for each
    pair) and to one of the same width; a layer of the student is in two pairs, and so is one of the teacher.

    The distance is `mse_loss` (a mean over counted positions and the teacher's width; TinyBERT, arXiv 1909.10351), and
    the mean over the pairs. Hooks see the streams: the last of transformers' `hidden_states` has gone through the final norm.
    """
    seed, rows, seq, counted = 12, 2, 8, [8, 5]
    loss_weights = dict(cross_entropy=0.9, hidden_mse=0.1)
    student, config, generator = tiny_llama(seed, True, 2)
    tokens = torch.randint(0, config["vocab_size"], (rows, seq + 1), generator=generator)
    mask = torch.tensor([[position < count for position in range(seq)] for count in counted])

    def streams(model):
        found = {}
        hooks = [layer.register_forward_hook(lambda _, __, output, index=index: found.__setitem__(index, output))
                 for index, layer in enumerate(model.model.layers)]
        logits = model(tokens[:, :-1]).logits
        for hook in hooks:
            hook.remove()
        return logits, found

    inputs, expected = {}, {}
    for case, width, depth, pairs in (("narrow", 8, 3, [[0, 0], [1, 2], [0, 2]]), ("alike", 16, 1, [[0, 0], [1, 0]])):
        teacher, teacher_config, generator = tiny_llama(seed + 1, True, 2, width, depth)
        matrices = [short(0.4 * torch.randn(width, 16, generator=generator), 3).requires_grad_() for _ in pairs if width != 16]
        student.zero_grad()
        logits, own = streams(student)
        with torch.no_grad():
            _, theirs = streams(teacher)
        seen = lambda pair, layer: own[layer] @ matrices[pair].T if matrices else own[layer]
        distances = [torch.nn.functional.mse_loss(seen(pair, a)[mask], theirs[b][mask]) for pair, (a, b) in enumerate(pairs)]
        losses = dict(hidden_mse=sum(distances) / len(pairs),
                      cross_entropy=torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")[mask].mean())
        losses["total"] = sum(weight * losses[term] for term, weight in loss_weights.items())
        losses["total"].backward()
        inputs[case] = dict(config=teacher_config, weights=flat(teacher), pairs=pairs, projections=[exact(matrix) for matrix in matrices])
        expected[case] = dict(losses={key: value.item() for key, value in losses.items()},
                              gradients={key: digits(parameter.grad, 6, 7) for key, parameter in student.named_parameters()},
                              projections=[digits(matrix.grad, 6, 7) for matrix in matrices])
    inputs = dict(config=config, weights=flat(student), tokens=tokens.flatten().tolist(), sequence_length=seq, counted=counted,
                  loss_weights=loss_weights, teachers=inputs)
    write(name, seed, ELEMENTWISE, inputs, expected, "float64, norms and softmax in float32", ["transformers"])


LONGROPE = dict(short_factor=[1.0, 1.05, 1.1, 1.3], long_factor=[1.1, 1.7, 2.9, 4.0])
# Rotary settings of a family of which parts of heads may turn, and the first position of twelve.
ROTARY = {
    "whole": (dict(rope_parameters=dict(rope_type="default", rope_theta=100.0)), 0),
    "part": (dict(rope_parameters=dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.75)), 3),
    "short": (dict(rope_parameters=dict(rope_type="longrope", rope_theta=100.0, **LONGROPE), max_position_embeddings=60, original_max_position_embeddings=15), 3),
    "long": (dict(rope_parameters=dict(rope_type="longrope", rope_theta=100.0, **LONGROPE), max_position_embeddings=60, original_max_position_embeddings=14), 3),
    "long part": (dict(rope_parameters=dict(rope_type="longrope", rope_theta=100.0, partial_rotary_factor=0.5, attention_factor=1.3, short_factor=[1.0, 2.0],
                                            long_factor=[1.5, 3.7]), original_max_position_embeddings=5), 0),
}


def rotary(name):
    """Queries that transformers turns, and the slopes of what is turned, for a head of eight dimensions."""
    import transformers
    from transformers.models.phi3 import modeling_phi3
    seed, shape = 14, (1, 2, 12, 8)
    generator = torch.Generator().manual_seed(seed)
    x, slope = (short(torch.randn(shape, generator=generator), 3) for _ in range(2))
    inputs, expected = {}, {}
    for label, (settings, first) in ROTARY.items():
        config = transformers.Phi3Config(hidden_size=16, num_attention_heads=2, vocab_size=32, intermediate_size=16, num_hidden_layers=1, pad_token_id=None,
                                         **copy.deepcopy(settings))
        turns = modeling_phi3.Phi3RotaryEmbedding(config)
        queries = x.clone().requires_grad_()
        turned, _ = modeling_phi3.apply_rotary_pos_emb(queries, queries, *turns(queries, torch.arange(first, first + shape[2])[None]))
        (turned * slope).sum().backward()
        inputs[label] = dict(settings=settings, first=first)
        expected[label] = dict(turned=digits(turned), slope=digits(queries.grad))
    write(name, seed, ELEMENTWISE, dict(x=exact(x), slope=exact(slope), shape=shape, cases=inputs), expected, "float64, angles in float32", ["transformers"])


CASES = {"adamw": adamw, "adapter": adapter, "hidden_mse": hidden_mse, "rotary": rotary, "losses/on_support": losses_on_support,
         "losses/adaptive_kl": losses_adaptive_kl, "schedules": schedules, "training": training, "prune": prune, "sparsegpt": sparsegpt, "gptq": gptq, "awq": awq,
         "grid_int8_channel": grid_int8_channel, "learned_scales": learned_scales, "rounded_activations": rounded_activations,
         **{f"decoder_gradient_{variant}": decoder_gradient for variant in ("tied", "untied", *FAMILIES)},
         **{f"decoder_packed_{variant}": decoder_packed for variant in ("untied", *FAMILIES)}}

if __name__ == "__main__":
    names = sys.argv[1:]
    unknown = [name for name in names if name not in CASES and name != "all"]
    if not names or unknown:
        sys.exit(f"usage: make_golden.py NAME...; names: {', '.join(CASES)}, all")
    for name in CASES if "all" in names else names:
        CASES[name](name)
